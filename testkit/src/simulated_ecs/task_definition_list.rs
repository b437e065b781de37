//! `ListTaskDefinitions` and `ListTaskDefinitionFamilies`, with the semantics of ECS. No I/O.

use super::{
    batch,
    caller::Caller,
    reply::{CallResult, Done, Failure},
    store::{Key, Listing, Status, TaskDefinitions},
};
use serde_json::{Value, json};

const MAX_PAGE_SIZE: usize = 100;

pub(super) fn list(store: &TaskDefinitions, caller: &Caller, input: &Value) -> CallResult {
    let (keys, last) = store.page(&parse_listing(input)?);
    let arns: Vec<String> =
        keys.iter().map(|(family, number)| caller.task_definition_arn(family, *number)).collect();
    let mut body = json!({"taskDefinitionArns": arns});
    if let Some((family, number)) = last {
        body["nextToken"] = json!(format!("{family}:{number}"));
    }
    Ok(Done { body: body.to_string(), changed: false })
}

/// Lists the names of the families that start with `familyPrefix`. An INACTIVE family has no ACTIVE
/// revision; the default is both.
/// Source: `ListTaskDefinitionFamilies`, Amazon ECS API Reference.
pub(super) fn list_families(store: &TaskDefinitions, input: &Value) -> CallResult {
    let status = input["status"].as_str().unwrap_or("ALL");
    if !["ACTIVE", "INACTIVE", "ALL"].contains(&status) {
        let message = format!("Invalid task definition family status: {status}");
        return Err(Failure::invalid_parameter(message));
    }
    let prefix = input["familyPrefix"].as_str().unwrap_or_default();
    let matching = store.families().filter(|(name, is_active)| {
        let matches_status = match status {
            "ACTIVE" => *is_active,
            "INACTIVE" => !is_active,
            _ => true,
        };
        matches_status && name.starts_with(prefix)
    });
    let names = matching.map(|(name, _)| (name.to_owned(), json!(name)));
    batch::list(input, "families", &format!("{status}/{prefix}"), MAX_PAGE_SIZE, names)
}

fn parse_listing(input: &Value) -> Result<Listing, Failure> {
    let status = match &input["status"] {
        Value::Null => Status::Active,
        value => value
            .as_str()
            .and_then(Status::named)
            .ok_or_else(|| Failure::invalid_parameter(format!("Invalid task definition status: {value}")))?,
    };
    let descending = match &input["sort"] {
        Value::Null => false,
        value if value == "ASC" => false,
        value if value == "DESC" => true,
        value => {
            let message = format!("Invalid sort order: {value}");
            return Err(Failure::invalid_parameter(message));
        }
    };
    let limit = match &input["maxResults"] {
        Value::Null => MAX_PAGE_SIZE,
        value => value
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit))
            .ok_or_else(|| Failure::invalid_parameter(format!("maxResults must be 1 to {MAX_PAGE_SIZE}.")))?,
    };
    let family = input["familyPrefix"].as_str().map(str::to_owned);
    let after = match &input["nextToken"] {
        Value::Null => None,
        value => Some(
            parse_token(value)
                .filter(|(token_family, _)| family.as_ref().is_none_or(|it| it == token_family))
                .ok_or_else(|| Failure::invalid_parameter("Invalid token"))?,
        ),
    };
    Ok(Listing { family, status, descending, after, limit })
}

fn parse_token(token: &Value) -> Option<Key> {
    let (family, number) = token.as_str()?.split_once(':')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some((family.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::{super::task_definitions::definition, *};
    use jiff::Timestamp;
    use std::sync::Arc;

    fn west() -> Caller {
        Caller::of("012345678910", "us-west-2")
    }

    /// Returns a store with revisions 1 to 5 of `cpu`, the last two INACTIVE, and `cpu-wave:1`.
    fn store() -> TaskDefinitions {
        let mut store = TaskDefinitions::default();
        let input = json!({"containerDefinitions": [{"name": "app"}]});
        let definition = Arc::new(definition(&west(), &input));
        for family in ["cpu", "cpu", "cpu", "cpu", "cpu", "cpu-wave"] {
            store.add(family, Arc::clone(&definition), Timestamp::UNIX_EPOCH);
        }
        for number in [4, 5] {
            store.set_status(&("cpu".to_owned(), number), Status::Inactive, Timestamp::UNIX_EPOCH);
        }
        store
    }

    fn list_names(input: &Value) -> (Vec<String>, Value) {
        let done = list(&store(), &west(), input).expect("the call succeeds");
        let body: Value = serde_json::from_str(&done.body).expect("the body is JSON");
        let arns = body["taskDefinitionArns"].as_array().expect("the body has a list of ARNs");
        let names = arns.iter().filter_map(Value::as_str).filter_map(|arn| arn.rsplit('/').next());
        (names.map(str::to_owned).collect(), body["nextToken"].clone())
    }

    #[test]
    fn family_prefix_matches_the_whole_family_name() {
        assert_eq!(list_names(&json!({"familyPrefix": "cpu"})).0, ["cpu:1", "cpu:2", "cpu:3"]);
        assert_eq!(list_names(&json!({"familyPrefix": "cp"})).0, [""; 0]);
        assert_eq!(list_names(&json!({})).0, ["cpu:1", "cpu:2", "cpu:3", "cpu-wave:1"]);
    }

    #[test]
    fn list_contains_revisions_of_one_status() {
        assert_eq!(list_names(&json!({"status": "INACTIVE"})).0, ["cpu:4", "cpu:5"]);
        assert_eq!(list_names(&json!({"status": "DELETE_IN_PROGRESS"})).0, [""; 0]);
    }

    #[test]
    fn next_page_starts_after_the_last_one_in_either_sort_order() {
        for (sort, first, second) in [
            ("ASC", ["cpu:1", "cpu:2"], ["cpu:3", "cpu-wave:1"]),
            ("DESC", ["cpu-wave:1", "cpu:3"], ["cpu:2", "cpu:1"]),
        ] {
            let (page, token) = list_names(&json!({"sort": sort, "maxResults": 2}));
            assert_eq!(page, first);
            let (page, token) = list_names(&json!({"sort": sort, "maxResults": 2, "nextToken": token}));
            assert_eq!((page.as_slice(), token), (second.map(str::to_owned).as_slice(), Value::Null));
        }
    }

    #[test]
    fn list_rejects_invalid_parameters() {
        for input in [
            json!({"maxResults": 101}),
            json!({"maxResults": 0}),
            json!({"nextToken": "invalid"}),
            json!({"familyPrefix": "cpu", "sort": "DESC", "nextToken": "cpu:-1"}),
            json!({"familyPrefix": "cpu", "nextToken": "cpu-wave:1"}),
            json!({"status": "RETIRED"}),
            json!({"sort": "RANDOM"}),
        ] {
            let failure = list(&store(), &west(), &input).expect_err("the parameter is invalid");
            assert_eq!(failure.code, "InvalidParameterException", "{input}");
        }
    }
}
