//! The oracle: checks the invariants of each run, whatever failed in it, from externally observed
//! evidence. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{
    api_proxy::{Exchange, Verb},
    simulated_ecs::{Action, Call, Outcome},
};

use crate::support::invariants::{self, Caller, Deregistered, Entry, MAX_PENDING, Operation, short};

const RESOURCE: &str = "taskdefinitionretirements";
const STATUS: &str = "taskdefinitionretirements/status";

/// Minimum time between the second-last failure and the next attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(1500);

/// Everything that was observed of a run.
pub struct Evidence {
    pub calls: Vec<Call>,
    pub exchanges: Vec<Exchange>,
    /// Every version of every resource in order (metadata, spec and status), as observed by the
    /// test's own watch.
    pub versions: Vec<Value>,
    /// Revisions that must not be deregistered.
    pub protected: Vec<String>,
    /// True if a reply of ECS was lost, or if the process that received it was killed. The request
    /// ID may be lost with it.
    pub reply_was_lost: bool,
    /// True if several resources declare the same revision. Each of them makes its own calls.
    pub is_shared: bool,
}

/// Returns every violation of an invariant.
pub fn violations(evidence: &Evidence) -> Vec<String> {
    let mut violations = invariants::violations(&entries(evidence), 0);
    let checks = [protected_kept, retired_rows_unchanged, backed_off, completed_in_time];
    violations.extend(checks.iter().flat_map(|check| check(evidence)));
    violations
}

/// Returns the requests that the invariants are about, in order. A read counts once it is complete,
/// and a write from its beginning.
fn entries(evidence: &Evidence) -> Vec<Entry> {
    let start = evidence.exchanges.first().map_or_else(Instant::now, |first| first.at);
    let calls = evidence.calls.iter().filter_map(|call| {
        let (arn, outcome) = (call.task_definition.clone()?, call.outcome.clone());
        let (caller, began) = (Caller::of(call), call.at.saturating_duration_since(start));
        let operation = match call.action {
            Action::DescribeTaskDefinition => Operation::Described { arn, caller, outcome },
            Action::DeregisterTaskDefinition => Operation::Deregistered(Deregistered {
                arn,
                began,
                caller,
                outcome,
                changed: call.changed,
                lease_holder: None,
                used_for: None,
                newer: None,
            }),
            _ => return None,
        };
        Some((call.at, operation))
    });
    let exchanges = evidence.exchanges.iter().filter_map(|it| {
        let name = it.request.name.clone();
        match (it.request.verb, it.request.resource.as_str()) {
            (Verb::Get, RESOURCE) if it.status == Some(200) => {
                let (began, object) = (it.at.saturating_duration_since(start), Some(it.response.clone()));
                Some((it.ended?, Operation::Read { name, began, object }))
            }
            (_, STATUS) => {
                let (status, code) = (it.body["status"].clone(), it.status.unwrap_or_default());
                Some((it.at, Operation::Wrote { name, status, code }))
            }
            _ => None,
        }
    });
    let mut operations: Vec<(Instant, Operation)> = calls.chain(exchanges).collect();
    operations.sort_by_key(|(at, _)| *at);
    let entry = |(at, operation): (Instant, _)| Entry {
        at: at.saturating_duration_since(start),
        by: (0, 0),
        operation,
    };
    operations.into_iter().map(entry).collect()
}

fn deregistrations(evidence: &Evidence) -> impl Iterator<Item = (&Call, &str)> {
    let calls = evidence.calls.iter().filter(|call| call.action == Action::DeregisterTaskDefinition);
    calls.map(|call| (call, call.task_definition.as_deref().unwrap_or_default()))
}

/// I1: no revision is deregistered that no resource declares at the time.
fn protected_kept(evidence: &Evidence) -> Vec<String> {
    let is_protected = |arn: &&str| evidence.protected.iter().any(|it| it == short(arn));
    let protected = deregistrations(evidence).map(|(_, arn)| arn).filter(is_protected);
    protected.map(|arn| format!("I1: {arn} deregistered, but is protected")).collect()
}

/// The row of a retired revision never changes, and its request ID is the one that ECS
/// returned.
fn retired_rows_unchanged(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    let mut retired: HashMap<(&str, &str), &Value> = HashMap::new();
    let mut request_ids = Vec::new();
    for version in &evidence.versions {
        let uid = version["metadata"]["uid"].as_str().unwrap_or_default();
        for row in version["status"]["revisions"].as_array().into_iter().flatten() {
            let revision = row["revision"].as_str().unwrap_or_default();
            for field in ["reason", "status", "requestId", "deregisteredAt"] {
                if let Some(before) = retired.get(&(uid, revision)).map(|row| &row[field])
                    && !before.is_null()
                    && row[field] != *before
                {
                    violations.push(format!("{revision}: {field} was {before}, and then {}", row[field]));
                }
            }
            if row["reason"] == "Retired" {
                retired.insert((uid, revision), row);
                request_ids.extend(row["requestId"].as_str());
            }
        }
    }
    for (call, arn) in deregistrations(evidence).filter(|(call, _)| call.changed) {
        let rows = || retired.iter().filter(|((_, revision), _)| *revision == short(arn));
        let is_recorded = request_ids.contains(&call.request_id.as_str());
        if rows().next().is_some() && !is_recorded && !evidence.reply_was_lost {
            violations.push(format!("{arn}: no status has its request id"));
        }
    }
    violations
}

/// Failed requests are retried with backoff. One immediate retry is allowed, since the awaited
/// event may arrive right after the failure. `GetCallerIdentity` with rejected credentials does not
/// count: it is repeated to confirm the rejection, and again with the credentials loaded then.
fn backed_off(evidence: &Evidence) -> Vec<String> {
    let checked =
        [Action::DescribeTaskDefinition, Action::DeregisterTaskDefinition, Action::GetCallerIdentity];
    let calls = evidence.calls.iter().filter(|it| !evidence.is_shared && checked.contains(&it.action));
    let is_rejection = |it: &Call| {
        it.action == Action::GetCallerIdentity && it.outcome.error_code() == Some("ExpiredTokenException")
    };
    let calls = calls.filter(|it| !is_rejection(it)).map(|it| {
        let key = format!("{} {}", it.action.name(), it.task_definition.as_deref().unwrap_or_default());
        (key, it.at, matches!(it.outcome, Outcome::Error(_)))
    });
    let exchanges = evidence.exchanges.iter().filter(|it| it.request.verb != Verb::Create).map(|it| {
        let key = format!("{:?} {} {}", it.request.verb, it.request.resource, it.request.name);
        (key, it.at, matches!(it.status, Some(429 | 500..)))
    });
    let mut violations = Vec::new();
    let mut failures: HashMap<String, Vec<Instant>> = HashMap::new();
    for (key, at, is_failure) in calls.chain(exchanges) {
        let failed = failures.entry(key.clone()).or_default();
        if let [.., before, _] = failed[..]
            && at.saturating_duration_since(before) < MIN_BACKOFF
        {
            violations.push(format!("{key} for the third time within {MIN_BACKOFF:?}"));
        }
        if is_failure { failed.push(at) } else { failed.clear() }
    }
    violations
}

/// I6: no request is pending for longer than 30 seconds.
fn completed_in_time(evidence: &Evidence) -> Vec<String> {
    let overdue = evidence.exchanges.iter().filter_map(|it| {
        let took = it.ended.unwrap_or_else(Instant::now).saturating_duration_since(it.at);
        (took > MAX_PENDING).then(|| format!("I6: {:?} was pending for {took:?}", it.request))
    });
    overdue.collect()
}
