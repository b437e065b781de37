//! The calls for single task definitions, with the semantics of ECS. No I/O.

use super::{
    caller::Caller,
    identifier::{Identifier, is_family_name},
    reply::{CallResult, Done, Failure},
    store::{Definition, Key, Status, TaskDefinitions},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const MAX_DELETIONS: usize = 10;

pub(super) fn describe(store: &TaskDefinitions, caller: &Caller, input: &Value) -> CallResult {
    let missing = || Failure::client("Unable to describe task definition.");
    let Identifier { family, revision } = parse_identifier(&input["taskDefinition"], caller)?;
    let number = revision.or_else(|| store.latest_active(&family)).ok_or_else(missing)?;
    let key = (family, number);
    let found = store.get(&key).ok_or_else(missing)?;
    let mut body = json!({"taskDefinition": found.describe(&key, caller)});
    let wants_tags = input["include"].as_array().is_some_and(|include| include.contains(&json!("TAGS")));
    if wants_tags {
        body["tags"] = found.definition.tags.clone();
    }
    Ok(Done { body: body.to_string(), changed: false })
}

/// Deregisters a revision. If `refuse_repeated` is true, a revision that is not ACTIVE is an error.
pub(super) fn deregister(
    store: &mut TaskDefinitions,
    caller: &Caller,
    input: &Value,
    now: Timestamp,
    refuse_repeated: bool,
) -> CallResult {
    let Identifier { family, revision } = parse_identifier(&input["taskDefinition"], caller)?;
    let number = revision.ok_or_else(|| Failure::client("Revision is missing."))?;
    let key = (family, number);
    let missing = || Failure::client("The specified task definition does not exist.");
    let mut found = store.get(&key).ok_or_else(missing)?;
    let changed = found.status == Status::Active;
    if changed {
        found = store.set_status(&key, Status::Inactive, now).ok_or_else(missing)?;
    } else if refuse_repeated {
        return Err(Failure::client("The specified task definition is already INACTIVE."));
    }
    let mut description = found.describe(&key, caller);
    if let Some(fields) = description.as_object_mut() {
        fields.remove("deregisteredAt");
    }
    Ok(Done { body: json!({"taskDefinition": description}).to_string(), changed })
}

pub(super) fn register(
    store: &mut TaskDefinitions,
    caller: &Caller,
    input: &Value,
    now: Timestamp,
) -> CallResult {
    let family = input["family"].as_str().unwrap_or_default();
    if !is_family_name(family) {
        return Err(Failure::client(format!("Invalid family name: '{family}'.")));
    }
    let has_containers =
        input["containerDefinitions"].as_array().is_some_and(|containers| !containers.is_empty());
    if !has_containers {
        return Err(Failure::client("Container list cannot be empty."));
    }
    let definition = Arc::new(definition(caller, input));
    let number = store.add(family, Arc::clone(&definition), now);
    let key = (family.to_owned(), number);
    let mut body = json!({"tags": definition.tags});
    if let Some(added) = store.get(&key) {
        body["taskDefinition"] = added.describe(&key, caller);
    }
    Ok(Done { body: body.to_string(), changed: true })
}

pub(super) fn delete(
    store: &mut TaskDefinitions,
    caller: &Caller,
    input: &Value,
    now: Timestamp,
) -> CallResult {
    let names = input["taskDefinitions"].as_array();
    let names = names.map(Vec::as_slice).unwrap_or_default();
    if names.is_empty() || names.len() > MAX_DELETIONS {
        return Err(Failure::invalid_parameter(format!("Specify 1 to {MAX_DELETIONS} task definitions.")));
    }
    let keys = names
        .iter()
        .map(|value| {
            let Identifier { family, revision } = parse_identifier(value, caller)?;
            let number = revision.ok_or_else(|| Failure::client("Revision is missing."))?;
            Ok((family, number))
        })
        .collect::<Result<Vec<Key>, Failure>>()?;
    let (mut deleted, mut failures, mut changed) = (Vec::new(), Vec::new(), false);
    for key in keys {
        match request_deletion(store, &key, now) {
            Ok(is_new) => {
                changed |= is_new;
                deleted.extend(store.get(&key).map(|found| found.describe(&key, caller)));
            }
            Err(reason) => failures.push(json!({
                "arn": caller.task_definition_arn(&key.0, key.1),
                "reason": reason,
            })),
        }
    }
    Ok(Done { body: json!({"taskDefinitions": deleted, "failures": failures}).to_string(), changed })
}

/// Requests the deletion of a revision. Returns true for the first request, or the reason if it is
/// rejected.
fn request_deletion(store: &mut TaskDefinitions, key: &Key, now: Timestamp) -> Result<bool, &'static str> {
    let Some(found) = store.get(key) else {
        return Err("The specified task definition does not exist.");
    };
    match found.status {
        Status::Active => Err("The specified task definition is still in ACTIVE status. \
             Please deregister the target and try again."),
        Status::Inactive => {
            store.set_status(key, Status::DeleteInProgress, now);
            Ok(true)
        }
        Status::DeleteInProgress => Ok(false),
    }
}

/// Returns the definition of a registration with the defaults of ECS.
pub(super) fn definition(caller: &Caller, input: &Value) -> Definition {
    let mut fields = input.as_object().cloned().unwrap_or_default();
    fields.remove("family");
    let tags = fields.remove("tags").unwrap_or_else(|| json!([]));
    let containers = fields.get_mut("containerDefinitions");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        let defaults = json!({
            "cpu": 0, "essential": true, "environment": [], "mountPoints": [],
            "portMappings": [], "systemControls": [], "volumesFrom": [],
        });
        add_defaults(container.as_object_mut(), defaults);
    }
    let defaults = json!({
        "compatibilities": ["EC2", "FARGATE"], "placementConstraints": [], "volumes": [],
    });
    add_defaults(Some(&mut fields), defaults);
    Definition { fields, tags, registered_by: caller.arn() }
}

fn add_defaults(fields: Option<&mut Map<String, Value>>, defaults: Value) {
    if let (Some(fields), Value::Object(defaults)) = (fields, defaults) {
        for (name, value) in defaults {
            fields.entry(name).or_insert(value);
        }
    }
}

fn parse_identifier(value: &Value, caller: &Caller) -> Result<Identifier, Failure> {
    Identifier::parse(value.as_str().unwrap_or_default(), caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn west() -> Caller {
        Caller::of("012345678910", "us-west-2")
    }

    /// Returns a store with revisions 1 to 5 of `cpu`, the last two INACTIVE.
    fn store() -> TaskDefinitions {
        let mut store = TaskDefinitions::default();
        let input = json!({"containerDefinitions": [{"name": "app"}]});
        let definition = Arc::new(definition(&west(), &input));
        for number in 1..=5 {
            store.add("cpu", Arc::clone(&definition), Timestamp::UNIX_EPOCH);
            let status = if number > 3 { Status::Inactive } else { Status::Active };
            store.set_status(&("cpu".to_owned(), number), status, Timestamp::UNIX_EPOCH);
        }
        store
    }

    fn body(answer: CallResult) -> Value {
        let done = answer.expect("the call succeeds");
        serde_json::from_str(&done.body).expect("the body is JSON")
    }

    #[test]
    fn describe_of_a_family_returns_its_latest_active_revision() {
        let body = body(describe(&store(), &west(), &json!({"taskDefinition": "cpu"})));
        assert_eq!(body["taskDefinition"]["revision"], 3);
    }

    #[test]
    fn delete_removes_inactive_revisions_and_reports_others_as_failures() {
        let mut store = store();
        let input = json!({"taskDefinitions": ["cpu:3", "cpu:4", "cpu:9"]});
        let answer = delete(&mut store, &west(), &input, Timestamp::UNIX_EPOCH);
        let body = body(answer);
        assert_eq!(body["taskDefinitions"][0]["status"], "DELETE_IN_PROGRESS");
        assert_eq!(body["taskDefinitions"][0]["revision"], 4);
        assert_eq!(body["failures"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn delete_rejects_more_than_ten_revisions() {
        let input = json!({"taskDefinitions": vec!["cpu:4"; 11]});
        let answer = delete(&mut store(), &west(), &input, Timestamp::UNIX_EPOCH);
        assert_eq!(answer.expect_err("11 names exceed the limit").code, "InvalidParameterException");
    }
}
