//! I7: no deregistration of what a retirement or its policy keeps at the time of the call.

use std::time::Duration;

use serde_json::Value;
use testkit::simulated_ecs::Outcome;

use super::{journal::Journal, kinds::POLICIES};
use crate::support::invariants::{Deregistered, FreshReads, Operation, Process, deregistrations, short};

/// Maximum age of the list on which a deregistration with `spec.keepLatest` is based, with the time
/// in which the credentials of the call may be replaced.
const MAX_LIST_AGE: Duration = Duration::from_secs(15 + 10);

/// Returns the deregistrations of revisions that are kept.
pub fn violations(journal: &Journal) -> Vec<String> {
    let kept = deregistrations(&journal.entries).filter(|(index, by, call)| {
        let reads = FreshReads::of(&journal.entries, *index, *by, &call.arn);
        let releases = |(since, retirement): &(Duration, &Value)| {
            is_old(journal, retirement, *by, call) && policy_releases(&reads, *since, retirement, call)
        };
        !reads.declaring.iter().any(releases)
    });
    kept.map(|(index, by, call)| {
        let at = journal.entries[index].at;
        format!("I7: {by:?} deregistered {} at {at:?}, which is kept: {:?} newer", call.arn, call.newer)
    })
    .collect()
}

/// Returns true if the family has as many newer ACTIVE revisions as the retirement keeps, and a
/// recent list shows its revisions.
fn is_old(journal: &Journal, retirement: &Value, by: Process, call: &Deregistered) -> bool {
    let Some(latest) = retirement["spec"]["keepLatest"].as_u64() else { return true };
    let family = short(&call.arn).rsplit_once(':').map_or("", |(family, _)| family);
    let is_recent = |began: Duration| {
        call.began.saturating_sub(began) <= MAX_LIST_AGE || journal.was_paused(by.0, began, call.began)
    };
    let mut entries = journal.entries.iter().filter(|entry| entry.by == by);
    let is_listed = entries.any(|entry| match &entry.operation {
        Operation::Listed { family: it, began, outcome: Outcome::Ok } => {
            it == family && *began <= call.began && is_recent(*began)
        }
        _ => false,
    });
    is_listed && call.newer.is_none_or(|newer| newer as u64 >= latest)
}

/// Returns true if no policy controls the retirement, or if the policy, read after the retirement,
/// chose its revisions and does not keep this one.
fn policy_releases(reads: &FreshReads<'_>, since: Duration, retirement: &Value, call: &Deregistered) -> bool {
    let metadata = &retirement["metadata"];
    let Some(owner) = controlling_policy(retirement) else { return true };
    let generation = metadata["annotations"]["ecs-retirement.dev/policy-generation"].as_str();
    let name = owner["name"].as_str().unwrap_or_default();
    reads.of_other(POLICIES, name, since).any(|policy| {
        policy["metadata"]["uid"] == owner["uid"]
            && policy["spec"]["suspend"] != true
            && policy["metadata"]["generation"].as_i64().map(|it| it.to_string()).as_deref() == generation
            && call.newer.is_none_or(|newer| !keeps(policy, short(&call.arn), newer))
    })
}

/// Returns the reference of a retirement to the policy that controls it.
pub fn controlling_policy(retirement: &Value) -> Option<&Value> {
    let mut owners = retirement["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.find(|owner| owner["controller"] == true)
}

/// Returns true if a policy keeps a revision that has this number of newer ACTIVE ones.
pub fn keeps(policy: &Value, revision: &str, newer: usize) -> bool {
    let keep = &policy["spec"]["keep"];
    let is_listed = keep["revisions"].as_array().is_some_and(|it| it.iter().any(|it| it == revision));
    is_listed || (newer as u64) < keep["latest"].as_u64().unwrap_or_default()
}
