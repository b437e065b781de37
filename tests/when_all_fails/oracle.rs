//! The oracle: what must be true of each run, whatever failed in it, told from the outside only. Pure.

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

/// The longest that a call may pend; a watch is a call too.
const PENDING: Duration = Duration::from_secs(30);

/// How soon what has failed twice may be tried again at the earliest.
const BACKOFF: Duration = Duration::from_millis(1500);

/// All that can be known of a run.
pub struct Evidence {
    pub calls: Vec<Call>,
    pub exchanges: Vec<Exchange>,
    /// Every version of every resource, in order, as a watch of the test's own saw them: the metadata, spec and status.
    pub versions: Vec<Value>,
    /// Revisions that must be left alone.
    pub untouchable: Vec<String>,
    /// Whether a reply of ECS was lost, or who had it was killed: its request id may be lost with it.
    pub reply_was_lost: bool,
    /// Whether the same revision is in the hands of several resources, of which each asks for itself.
    pub is_shared: bool,
}

/// Everything that must not have happened, and did.
pub fn violations(evidence: &Evidence) -> Vec<String> {
    let checks = [declared_when_read, inactive_as_told, once, kept, paced, bounded];
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

/// I1: each call was preceded by a look at the revision and then, uncached, at a resource that declares it.
fn declared_when_read(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    for (call, arn) in deregistrations(evidence) {
        let looks = evidence.calls.iter().filter(|it| it.action == Action::DescribeTaskDefinition);
        let look = looks
            .filter(|it| it.task_definition.as_deref() == Some(arn) && it.sequence < call.sequence)
            .map(|it| it.at)
            .max();
        let is_read = |it: &&Exchange| it.request.verb == Verb::Get && it.request.resource == RESOURCE;
        let was_between = |it: &&Exchange| {
            look.is_some_and(|look| look <= it.at) && it.ended.is_some_and(|ended| ended <= call.at)
        };
        let mut reads = evidence.exchanges.iter().filter(is_read).filter(was_between);
        if !reads.any(|it| it.status == Some(200) && declares(&it.answer, arn)) {
            violations.push(format!("I1: {arn} deregistered without a fresh read that declares it"));
        }
        if evidence.untouchable.iter().any(|it| it == short(arn)) {
            violations.push(format!("I1: {arn} deregistered, which was to be left alone"));
        }
    }
    let named = evidence.calls.iter().filter_map(|call| call.task_definition.as_deref());
    let elsewhere = named.filter(|arn| !arn.starts_with(&format!("arn:aws:ecs:us-west-2:{ACCOUNT}:")));
    violations.extend(elsewhere.map(|arn| format!("I1: {arn} called, which is not ours")));
    violations
}

/// I3: a status says INACTIVE only of what ECS has said so of.
fn inactive_as_told(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    for write in evidence.exchanges.iter().filter(|it| it.request.resource == STATUS) {
        for row in write.body["status"]["revisions"].as_array().into_iter().flatten() {
            let arn = row["arn"].as_str().unwrap_or_default();
            let claims_it = row["status"] == "INACTIVE" || row["reason"] == "Retired";
            if claims_it && !was_told(&evidence.calls, arn, write.at) {
                violations.push(format!("I3: {arn} said to be INACTIVE before ECS said so"));
            }
        }
    }
    violations
}

fn was_told(calls: &[Call], arn: &str, by: Instant) -> bool {
    let of_it = || calls.iter().filter(|call| call.task_definition.as_deref() == Some(arn) && call.at <= by);
    let Some(done) = of_it().find(|call| call.changed) else { return false };
    let answers = [Action::DeregisterTaskDefinition, Action::DescribeTaskDefinition];
    of_it().any(|call| {
        answers.contains(&call.action) && call.sequence >= done.sequence && call.outcome == Outcome::Ok
    })
}

/// I4: ECS carries out one Deregister for a revision, and is not asked again afterwards.
fn once(evidence: &Evidence) -> Vec<String> {
    let mut carried_out: HashMap<&str, usize> = HashMap::new();
    for (call, arn) in deregistrations(evidence) {
        if matches!(call.outcome, Outcome::Ok | Outcome::Dropped) {
            *carried_out.entry(arn).or_default() += 1;
        }
    }
    let twice = carried_out.into_iter().filter(|(_, times)| *times > 1);
    twice.map(|(arn, times)| format!("I4: {arn} deregistered {times} times")).collect()
}

/// Promise 2: what a status has said of a retired revision it says for ever; and the request id is the one ECS gave.
fn kept(evidence: &Evidence) -> Vec<String> {
    let mut violations = Vec::new();
    let mut retired: HashMap<(&str, &str), &Value> = HashMap::new();
    let mut noted = Vec::new();
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
                noted.extend(row["requestId"].as_str());
            }
        }
    }
    for (call, arn) in deregistrations(evidence).filter(|(call, _)| call.changed) {
        let rows = || retired.iter().filter(|((_, revision), _)| *revision == short(arn));
        let is_recorded = noted.contains(&call.request_id.as_str());
        if rows().next().is_some() && !is_recorded && !evidence.reply_was_lost {
            violations.push(format!("{arn}: no status has its request id"));
        }
    }
    violations
}

/// What has failed is not tried again and again at once. Once is no fault: what it waits for may come just then.
fn paced(evidence: &Evidence) -> Vec<String> {
    let asked = [Action::DescribeTaskDefinition, Action::DeregisterTaskDefinition, Action::GetCallerIdentity];
    let calls = evidence.calls.iter().filter(|it| !evidence.is_shared && asked.contains(&it.action));
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
            && at.saturating_duration_since(before) < BACKOFF
        {
            violations.push(format!("{key} for the third time within {BACKOFF:?}"));
        }
        if is_failure { failed.push(at) } else { failed.clear() }
    }
    violations
}

/// I6: no call pends for longer than 30 seconds.
fn bounded(evidence: &Evidence) -> Vec<String> {
    let long = evidence.exchanges.iter().filter_map(|it| {
        let took = it.ended.unwrap_or_else(Instant::now).saturating_duration_since(it.at);
        (took > PENDING).then(|| format!("I6: {:?} pended for {took:?}", it.request))
    });
    long.collect()
}
