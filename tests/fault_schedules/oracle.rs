//! The oracle: checks a run against the invariants, and against a run of the same user actions
//! without faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use testkit::simulated_ecs::{Action, Outcome};

use super::{
    allowed, buckets,
    convergence::rows,
    journal::Journal,
    kept,
    kinds::{ACCOUNTS, POLICIES, RETIREMENTS},
    policy_users::Policy,
    replica::identity,
    run::{Run, pacing},
    users::Users,
    world::World,
};
use crate::support::invariants::{self, Deregistered, MAX_PENDING, Process, deregistrations};

/// Time after a pause within which a call of the paused process may still take effect.
const PAUSE_MARGIN: Duration = Duration::from_secs(30);

/// Number of reads and writes of one resource within `HOT_LOOP_WINDOW` that counts as a hot loop.
const HOT_LOOP_REQUESTS: usize = 150;
const HOT_LOOP_WINDOW: Duration = Duration::from_secs(5);

/// Number of tokens by which a bucket may be overdrawn without faults: calls take a few
/// milliseconds each, and a resource keeps its permit during a usage scan.
const BASELINE_TOLERANCE: f64 = 1.5;

/// Maximum age of known usage: a minute or two scans, including the delays that a schedule injects.
const MAX_USAGE_AGE: Duration = Duration::from_mins(3);

/// Returns every violation of an invariant.
pub fn violations(run: &Run, users: &Users, baseline: &Run) -> Vec<String> {
    let journal = run.world.journal();
    let mut violations = journal.violations.clone();
    let interruptions = journal.crashes + u32::try_from(journal.paused.len()).unwrap_or(u32::MAX);
    violations.extend(invariants::violations(&journal.entries, interruptions));
    violations.extend(deregistrations_without_lease(&run.world, &journal));
    violations.extend(deregistrations_in_use(&journal));
    violations.extend(status_mismatches(&run.world));
    violations.extend(hot_loop(&journal));
    violations.extend(allowed::violations(&run.world, &journal));
    violations.extend(kept::violations(&journal));
    violations.extend(rates(run, &journal, baseline));
    if journal.longest_wait > MAX_PENDING {
        violations.push(format!("I6: a request was pending for {:?}", journal.longest_wait));
    }
    // Only a run without violations has an end state to compare.
    if violations.is_empty() {
        violations.extend(end_state_differences(run, users, baseline));
    }
    violations
}

/// A process deregisters only while it holds the lease, unless it was paused between its last check
/// and the call.
fn deregistrations_without_lease(world: &World, journal: &Journal) -> Vec<String> {
    let has_no_lease = |(index, by, call): &(usize, Process, &Deregistered)| {
        let at = journal.entries[*index].at;
        world.schedule.replicas > 1
            && call.lease_holder.as_ref() != Some(&identity(*by))
            && !journal.was_paused(by.0, at.saturating_sub(PAUSE_MARGIN), at)
    };
    deregistrations(&journal.entries)
        .filter(has_no_lease)
        .map(|(index, by, call)| {
            let at = journal.entries[index].at;
            format!(
                "leader: {by:?} deregistered {} at {at:?} while {:?} held the lease",
                call.arn, call.lease_holder
            )
        })
        .collect()
}

/// A revision that has been in use for longer than the maximum age of a scan is not deregistered.
fn deregistrations_in_use(journal: &Journal) -> Vec<String> {
    let is_used = |(index, _, call): &(usize, Process, &Deregistered)| {
        let from_the_start = call.used_for == Some(journal.entries[*index].at);
        from_the_start || call.used_for.is_some_and(|used| used > MAX_USAGE_AGE)
    };
    let used = deregistrations(&journal.entries).filter(is_used);
    used.map(|(_, by, call)| format!("use: {by:?} deregistered {}, in use for {:?}", call.arn, call.used_for))
        .collect()
}

/// I6: whatever fails, a process does not repeat the same requests in a hot loop.
fn hot_loop(journal: &Journal) -> Option<String> {
    let mut requests: BTreeMap<(Process, &str), Vec<Duration>> = BTreeMap::new();
    for entry in &journal.entries {
        if let Some(name) = entry.operation.retirement() {
            requests.entry((entry.by, name)).or_default().push(entry.at);
        }
    }
    let is_hot = |times: &&Vec<Duration>| {
        times.windows(HOT_LOOP_REQUESTS).any(|it| it[HOT_LOOP_REQUESTS - 1] < it[0] + HOT_LOOP_WINDOW)
    };
    let ((by, name), _) = requests.iter().find(|(_, times)| is_hot(times))?;
    Some(format!("I6: {by:?} read and wrote {name} {HOT_LOOP_REQUESTS} times within {HOT_LOOP_WINDOW:?}"))
}

/// One token bucket for each AWS account and region. A slow request between the permit and the call
/// lets each resource of a run with faults keep a permit.
fn rates(run: &Run, journal: &Journal, baseline: &Run) -> Vec<String> {
    let pacing = pacing(run.world.schedule.seed);
    let resources: BTreeSet<&str> =
        journal.entries.iter().filter_map(|it| it.operation.retirement()).collect();
    let kept = f64::from(u32::try_from(resources.len()).unwrap_or(u32::MAX));
    let mut violations = buckets::overdrawn(journal, pacing, kept);
    violations.extend(buckets::overdrawn(&baseline.world.journal(), pacing, BASELINE_TOLERANCE));
    violations
}

/// Returns the number of deregistrations of revisions that were no longer ACTIVE.
pub fn repeats(journal: &Journal) -> usize {
    deregistrations(&journal.entries)
        .filter(|(_, _, call)| !call.changed && matches!(call.outcome, Outcome::Ok | Outcome::Dropped))
        .count()
}

/// The times and request IDs in the statuses match those of ECS.
fn status_mismatches(world: &World) -> Vec<String> {
    let calls = world.ecs.calls_of(Action::DeregisterTaskDefinition);
    let mut violations = Vec::new();
    for object in world.api.objects(RETIREMENTS) {
        for row in rows(&object) {
            let (revision, name) =
                (row["revision"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
            let known =
                (!revision.contains('/')).then(|| world.region_of(revision).describe(revision)).flatten();
            let reported = row["deregisteredAt"].as_str().and_then(|text| text.parse().ok());
            let actual = known.and_then(|known| known.deregistered_at);
            let second = |time: k8s_openapi::jiff::Timestamp| time.as_second();
            if reported.is_some() && reported.map(second) != actual.map(second) {
                violations.push(format!(
                    "status: {name} reports {reported:?} as deregisteredAt of {revision}, ECS {actual:?}"
                ));
            }
            let Some(request_id) = row["requestId"].as_str() else { continue };
            let is_its_call = |call: &testkit::simulated_ecs::Call| {
                call.request_id == request_id
                    && call
                        .task_definition
                        .as_deref()
                        .is_some_and(|arn| arn.ends_with(&format!("/{revision}")))
            };
            if !calls.iter().any(is_its_call) {
                violations.push(format!(
                    "status: {name} has request ID {request_id} for {revision}, which matches no call"
                ));
            }
        }
    }
    violations
}

/// I5: the end state equals that of the run without faults, except for times and request IDs.
fn end_state_differences(run: &Run, users: &Users, baseline: &Run) -> Vec<String> {
    let (actual, expected) = (end(&run.world, users), end(&baseline.world, users));
    let keys = actual.keys().chain(expected.keys()).collect::<BTreeSet<_>>();
    let differing = keys.into_iter().filter(|key| actual.get(*key) != expected.get(*key));
    differing
        .map(|key| format!("I5: {key} ended as {:?}\n  instead of {:?}", actual.get(key), expected.get(key)))
        .collect()
}

/// Returns the state to compare: every resource and every revision. A status with a revision whose
/// retirement races with a user action is not compared.
fn end(world: &World, users: &Users) -> BTreeMap<String, String> {
    let mut objects = world.api.objects(RETIREMENTS);
    // What a policy proposes, and when, depends on timing.
    objects.retain(|it| it["metadata"]["labels"]["ecs-retirement.dev/policy"].is_null());
    objects.extend(world.api.objects(ACCOUNTS));
    let policies = world.api.objects(POLICIES).into_iter();
    objects.extend(policies.map(|it| without_progress(it, users)));
    let resources = objects.into_iter().map(|mut object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let generation = object["metadata"]["generation"].clone();
        if rows(&object).any(|row| row["revision"].as_str().is_some_and(|it| users.races(it))) {
            object["status"] = Value::Null;
        }
        remove_times(&mut object["status"]);
        (name, format!("{generation} {} {}", object["spec"], object["status"]))
    });
    let revisions = users.families.iter().flat_map(|(name, family)| {
        (1..=family.count + family.registered_later + 1).map(move |number| format!("{name}:{number}"))
    });
    let revisions = revisions.filter(|revision| !users.races(revision)).map(|revision| {
        let status = format!("{:?}", world.region_of(&revision).status(&revision));
        (revision, status)
    });
    resources.chain(revisions).collect()
}

/// Returns a policy without what depends on timing: the times of its runs and, unless everything is
/// retired in the end, what it has proposed.
fn without_progress(mut policy: Value, users: &Users) -> Value {
    let is_final = |it: &&Policy| it.is_approved && !it.is_raced;
    let is_final = users.policies.iter().filter(is_final).any(|it| policy["metadata"]["name"] == *it.name);
    if let Some(status) = policy["status"].as_object_mut().filter(|_| is_final) {
        status.retain(|field, _| !field.ends_with("Time"));
    } else {
        policy["status"] = Value::Null;
    }
    policy
}

/// Removes the error of a rejected `ListTaskDefinitions` call from a message. The row is final in
/// that case.
fn remove_rejected_list(message: &mut String) {
    let Some(begin) = message.find("; ecs:ListTaskDefinitions") else { return };
    let length = message[begin..].find(')').unwrap_or(message.len() - begin);
    message.replace_range(begin..begin + length, "");
}

fn remove_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in [
                "lastTransitionTime",
                "blockedSince",
                "registeredAt",
                "deregisteredAt",
                "requestId",
                "unusedSince",
                "lastUsageScan",
            ] {
                fields.remove(field);
            }
            fields.values_mut().for_each(remove_times);
            if let Some(Value::String(message)) = fields.get_mut("message") {
                remove_rejected_list(message);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(remove_times),
        _ => {}
    }
}
