//! Shared code of the calls that list pages and describe batches. No I/O.

use super::reply::{CallResult, Done, Failure};
use serde_json::{Value, json};

const MAX_PAGE_SIZE: usize = 100;

/// Returns one page of `field`: items in the order of their keys.
///
/// `scope` identifies the list, such as a cluster. A token of another scope is rejected.
pub(super) fn list(
    input: &Value,
    field: &str,
    scope: &str,
    default_size: usize,
    items: impl IntoIterator<Item = (String, Value)>,
) -> CallResult {
    let size = match &input["maxResults"] {
        Value::Null => default_size,
        value => value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| (1..=MAX_PAGE_SIZE).contains(size))
            .ok_or_else(|| Failure::invalid_parameter(format!("maxResults must be 1 to {MAX_PAGE_SIZE}.")))?,
    };
    let prefix = format!("{field}/{scope}/");
    let after = match &input["nextToken"] {
        Value::Null => None,
        token => Some(
            token
                .as_str()
                .and_then(|token| token.strip_prefix(&prefix))
                .ok_or_else(|| Failure::invalid_parameter("Invalid token"))?,
        ),
    };
    let mut rest = items.into_iter().filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
    let (keys, page): (Vec<String>, Vec<Value>) = rest.by_ref().take(size).unzip();
    let mut body = json!({field: page});
    if let (Some(last), Some(_)) = (keys.last(), rest.next()) {
        body["nextToken"] = json!(format!("{prefix}{last}"));
    }
    Ok(Done { body: body.to_string(), changed: false })
}

/// Returns the names in a field of the input: at least one, at most `limit`.
pub(super) fn names<'a>(input: &'a Value, field: &str, limit: usize) -> Result<Vec<&'a str>, Failure> {
    let names: Vec<&str> = input[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() {
        return Err(Failure::invalid_parameter(format!("{} cannot be empty.", capitalized(field))));
    }
    if names.len() > limit {
        return Err(Failure::invalid_parameter(format!("Specify at most {limit} {field}.")));
    }
    Ok(names)
}

/// The description of a resource, or the ARN of a missing one.
pub(super) type Found = Result<Value, String>;

/// Returns the descriptions in `field`. A missing resource is reported in `failures`.
pub(super) fn describe(field: &str, found: impl Iterator<Item = Result<Found, Failure>>) -> CallResult {
    let (mut descriptions, mut failures) = (Vec::new(), Vec::new());
    for item in found {
        match item? {
            Ok(description) => descriptions.push(description),
            Err(arn) => failures.push(json!({"arn": arn, "reason": "MISSING"})),
        }
    }
    let body = json!({field: descriptions, "failures": failures});
    Ok(Done { body: body.to_string(), changed: false })
}

fn capitalized(text: &str) -> String {
    let (first, rest) = text.split_at(text.len().min(1));
    first.to_uppercase() + rest
}
