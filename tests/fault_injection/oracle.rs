//! The oracle: checks the invariants of each run, whatever failed in it, from externally observed
//! evidence. Pure functions.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{
    api_proxy::{Exchange, Verb},
    simulated_ecs::{ACCOUNT, Action, Call, Outcome},
};

const RESOURCE: &str = "taskdefinitionretirements";
const STATUS: &str = "taskdefinitionretirements/status";

/// Maximum time that a request may be pending, watches included.
const MAX_PENDING: Duration = Duration::from_secs(30);

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
    let checks = [
        declared_when_read,
        inactive_only_as_reported,
        deregistered_once,
        retired_rows_unchanged,
        backed_off,
        completed_in_time,
    ];
    checks.iter().flat_map(|check| check(evidence)).collect()
}

fn deregistrations(evidence: &Evidence) -> impl Iterator<Item = (&Call, &str)> {
    let calls = evidence.calls.iter().filter(|call| call.action == Action::DeregisterTaskDefinition);
    calls.map(|call| (call, call.task_definition.as_deref().unwrap_or_default()))
}

fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

fn declares(resource: &Value, arn: &str) -> bool {
    let spec = &resource["spec"];
    let is_set = |field: &str| spec[field] == true;
    resource["metadata"]["deletionTimestamp"].is_null()
        && !is_set("suspend")
        && !is_set("dryRun")
        && spec["revisions"].as_array().is_some_and(|all| all.iter().any(|it| it == arn || it == short(arn)))
}

/// I1: each `DeregisterTaskDefinition` call follows a `DescribeTaskDefinition` call for the revision
/// and then an uncached read of a resource that declares it.
fn declared_when_read(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    for (call, arn) in deregistrations(evidence) {
        let describes = evidence.calls.iter().filter(|it| it.action == Action::DescribeTaskDefinition);
        let described_at = describes
            .filter(|it| it.task_definition.as_deref() == Some(arn) && it.sequence < call.sequence)
            .map(|it| it.at)
            .max();
        let is_read = |it: &&Exchange| it.request.verb == Verb::Get && it.request.resource == RESOURCE;
        let was_between = |it: &&Exchange| {
            described_at.is_some_and(|described_at| described_at <= it.at)
                && it.ended.is_some_and(|ended| ended <= call.at)
        };
        let mut reads = evidence.exchanges.iter().filter(is_read).filter(was_between);
        if !reads.any(|it| it.status == Some(200) && declares(&it.response, arn)) {
            violations.push(format!("I1: {arn} deregistered without a fresh read that declares it"));
        }
        if evidence.protected.iter().any(|it| it == short(arn)) {
            violations.push(format!("I1: {arn} deregistered, but is protected"));
        }
    }
    let named = evidence.calls.iter().filter_map(|call| call.task_definition.as_deref());
    let foreign = named.filter(|arn| !arn.starts_with(&format!("arn:aws:ecs:us-west-2:{ACCOUNT}:")));
    violations
        .extend(foreign.map(|arn| format!("I1: {arn} called, but belongs to another account or region")));
    violations
}

/// I3: a status reports INACTIVE only after ECS has reported it for that revision.
fn inactive_only_as_reported(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    for write in evidence.exchanges.iter().filter(|it| it.request.resource == STATUS) {
        for row in write.body["status"]["revisions"].as_array().into_iter().flatten() {
            let arn = row["arn"].as_str().unwrap_or_default();
            let is_retired = row["status"] == "INACTIVE" || row["reason"] == "Retired";
            if is_retired && !was_reported(&evidence.calls, arn, write.at) {
                violations.push(format!("I3: {arn} reported INACTIVE before ECS did"));
            }
        }
    }
    violations
}

fn was_reported(calls: &[Call], arn: &str, until: Instant) -> bool {
    let calls_of_arn =
        || calls.iter().filter(|call| call.task_definition.as_deref() == Some(arn) && call.at <= until);
    let Some(done) = calls_of_arn().find(|call| call.changed) else { return false };
    let reads = [Action::DeregisterTaskDefinition, Action::DescribeTaskDefinition];
    calls_of_arn().any(|call| {
        reads.contains(&call.action) && call.sequence >= done.sequence && call.outcome == Outcome::Ok
    })
}

/// I4: a revision is deregistered once, and no further call is made afterwards.
fn deregistered_once(evidence: &Evidence) -> Vec<String> {
    let mut carried_out: HashMap<&str, usize> = HashMap::new();
    for (call, arn) in deregistrations(evidence) {
        if matches!(call.outcome, Outcome::Ok | Outcome::Dropped) {
            *carried_out.entry(arn).or_default() += 1;
        }
    }
    let twice = carried_out.into_iter().filter(|(_, times)| *times > 1);
    twice.map(|(arn, times)| format!("I4: {arn} deregistered {times} times")).collect()
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
/// event may arrive right after the failure.
fn backed_off(evidence: &Evidence) -> Vec<String> {
    let checked =
        [Action::DescribeTaskDefinition, Action::DeregisterTaskDefinition, Action::GetCallerIdentity];
    let calls = evidence.calls.iter().filter(|it| !evidence.is_shared && checked.contains(&it.action));
    let calls = calls.map(|it| {
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
