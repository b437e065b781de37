//! The validation rules of the CRD that types cannot express, with messages that say what to write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Maximum number of revisions in one resource.
pub const MAX_REVISIONS: usize = 500;

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

/// Returns the schema of a list of families and globs, which may be empty.
pub(super) fn globs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1000,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 256,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[A-Za-z0-9_*-]{1,255}$')",
                "message": "write a family, or a glob such as web-*",
                "messageExpression": "'\"' + self + '\" is not a family or glob: write 1 to 255 letters, digits, hyphens and underscores, and * for any characters, such as web-*'",
            }],
        },
    })
}

/// Returns the schema of a list of at least one family or glob.
pub(super) fn allowed_globs(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = globs(generator);
    let rule = json!([{
        "rule": "self.size() > 0",
        "message": "the list is empty: name the families; \"*\" is every family",
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
    schema
}

/// Returns the schema of a list of revisions in the short form.
pub(super) fn kept_revisions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 500,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 270,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[A-Za-z0-9_-]{1,255}:[1-9][0-9]{0,9}$')",
                "message": "write family:revision, such as cpu-wave:1",
            }],
        },
    })
}

/// Returns the schema of a list of AWS regions.
pub(super) fn regions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "nullable": true,
        "minItems": 1,
        "maxItems": 100,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 64,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')",
                "message": "write the code of an AWS region, such as us-west-2",
            }],
        },
    })
}

/// Returns the schema of a label selector whose lists are atomic.
pub(super) fn label_selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = LabelSelector::json_schema(generator);
    for list in ["/properties/matchExpressions", "/properties/matchExpressions/items/properties/values"] {
        if let Some(list) = schema.pointer_mut(list).and_then(Value::as_object_mut) {
            list.insert("x-kubernetes-list-type".to_owned(), "atomic".into());
        }
    }
    schema
}
