//! The validation rules of the CRD that types cannot express, with messages that say what to write.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::task_definition_retirement::MAX_REVISIONS;

/// Returns the schema of `spec.revisions`.
///
/// The list is atomic: server-side apply by one field manager replaces the list of another manager,
/// and never merges the two.
///
/// An entry that is written twice in the same form is admitted and counts once. A CEL rule that
/// compares each entry with all others would exceed the cost limit of Kubernetes 1.29.
pub(super) fn revisions(_: &mut SchemaGenerator) -> Schema {
    let revision = "[A-Za-z0-9_-]{1,255}:[1-9][0-9]{0,9}";
    let arn = format!("arn:aws(-[a-z]+)*:ecs:[a-z]+(-[a-z]+)+-[0-9]+:[0-9]{{12}}:task-definition/{revision}");
    let form = format!("self.matches('^({revision}|{arn})$')");
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_REVISIONS,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 340,
            "x-kubernetes-validations": [
                {
                    "rule": form,
                    "message": "write family:revision, such as cpu-wave:1, or the full task definition ARN",
                    "messageExpression": "'\"' + self + '\" is not a revision: write family:revision, such as cpu-wave:1, or the full task definition ARN'",
                },
                {
                    "rule": format!("!{form} || int(self.substring(self.lastIndexOf(':') + 1)) <= 2147483647"),
                    "message": "the revision in family:revision is at most 2147483647",
                    "messageExpression": "'\"' + self + '\" is not a revision: in family:revision the revision is at most 2147483647'",
                },
            ],
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(r, !r.contains('/') || !(r.substring(r.lastIndexOf('/') + 1) in self))",
            "message": "a revision is declared twice, as family:revision and as an ARN: keep one",
            "messageExpression": "self.filter(r, r.contains('/') && r.substring(r.lastIndexOf('/') + 1) in self)[0] + ' is declared twice, as family:revision and as an ARN: keep one'",
        }],
    })
}
