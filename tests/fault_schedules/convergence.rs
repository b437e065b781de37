//! Whether a run has converged: every resource is in its final state, and nothing is left to do.

use serde_json::{Value, json};
use testkit::simulated_ecs::Status;

use super::{
    allowed,
    kept::{controlling_policy, keeps},
    kinds::{ACCOUNTS, POLICIES, RETIREMENTS},
    world::World,
};
use crate::support::invariants::Operation;

/// The reasons of rows for which work is due.
const PENDING: [&str; 7] =
    ["Pending", "CoolingDown", "Throttled", "Unavailable", "AccessDenied", "Refused", "AccountNotReady"];

/// Returns true if an operation is more than a check for work. Revisions that stay in use or kept
/// are checked indefinitely, and credentials are replaced before they expire.
pub fn is_work(world: &World, operation: &Operation) -> bool {
    match operation {
        // Policies run again at their interval.
        Operation::Changed { plural, .. } if plural == POLICIES => false,
        // The next usage scan finds that sessions were revoked, and replaces them.
        Operation::Wrote { .. } if world.users.revokes_sessions() && waits(world) => false,
        Operation::Wrote { .. } | Operation::Changed { .. } | Operation::Deregistered(_) => true,
        Operation::Called("AssumeRole" | "GetCallerIdentity") if !world.users.roles.is_empty() => false,
        Operation::Described { .. } | Operation::Listed { .. } | Operation::Called(_) => {
            !waits(world) && world.users.policies.is_empty()
        }
        Operation::Read { .. } | Operation::ReadOther { .. } => false,
    }
}

fn waits(world: &World) -> bool {
    world
        .api
        .objects(RETIREMENTS)
        .iter()
        .any(|object| rows(object).any(|row| row["reason"] == "InUse" || row["reason"] == "Kept"))
}

/// Returns true if a policy has begun or completed a run.
pub fn is_run(operation: &Operation) -> bool {
    matches!(operation, Operation::Changed { plural, .. } if plural == POLICIES)
}

/// Returns true if an operation reads one revision or the list of a family.
pub fn is_read(operation: &Operation) -> bool {
    matches!(operation, Operation::Described { .. } | Operation::Listed { .. })
}

/// Returns the maximum number of such reads in the idle period: a description and a list each
/// minute for a revision that is kept, and a few lists in each run of a policy for each of its two
/// families. Revisions in use are described again if their use changes.
pub fn max_idle_reads(world: &World) -> usize {
    let retirements = world.api.objects(RETIREMENTS);
    let waiting =
        retirements.iter().flat_map(rows).filter(|row| row["reason"] == "Kept" || row["reason"] == "InUse");
    12 * waiting.count() + 48 * world.users.policies.len()
}

pub fn rows(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["revisions"].as_array().into_iter().flatten()
}

/// Returns the resources that have not converged, with their status.
pub fn not_converged(world: &World) -> Vec<String> {
    let retirements = world.api.objects(RETIREMENTS);
    let retirements = retirements.iter().filter(|it| !retirement_has_converged(world, it));
    let accounts = world.api.objects(ACCOUNTS);
    let accounts = accounts.iter().filter(|it| !account_has_converged(it));
    let text = |object: &Value| format!("{} {}", object["metadata"]["name"], object["status"]);
    let policies = world.api.objects(POLICIES);
    let policies = policies.iter().filter(|it| !policy_has_converged(world, it));
    retirements.chain(accounts).chain(policies).map(text).collect()
}

/// Returns true if the status refers to the current spec and every row is final.
fn retirement_has_converged(world: &World, object: &Value) -> bool {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    status["observedGeneration"] == metadata["generation"]
        && status["lastHandledReconcileAt"] == metadata["annotations"]["ecs-retirement.dev/requestedAt"]
        && rows(object).next().is_some()
        && rows(object).all(|row| row_is_final(world, object, row))
}

fn row_is_final(world: &World, object: &Value, row: &Value) -> bool {
    let account = || allowed::account_of(world, object);
    match row["reason"].as_str().unwrap_or_default() {
        // A retired row has a message until ECS reports `deregisteredAt` or denies the call.
        "Retired" => row["message"].is_null(),
        "InUse" => world.is_used(row),
        "AccountNotFound" => account().is_none() && has_condition(object, "Stalled"),
        "Kept" => is_kept(world, object, row),
        "NotAllowed" => {
            let revision = row["revision"].as_str().unwrap_or_default();
            account().is_some_and(|account| !allowed::allows(world, &account, object, revision))
        }
        "Suspended" => {
            object["spec"]["suspend"] == true || account().is_some_and(|it| it["spec"]["suspend"] == true)
        }
        reason => !PENDING.contains(&reason),
    }
}

/// Returns true if the credentials of the current spec are verified.
fn account_has_converged(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && has_condition(object, "Ready")
}

fn has_condition(object: &Value, type_: &str) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|it| it["type"] == type_ && it["status"] == "True")
}

/// Returns true if a row stays kept: by `spec.keepLatest`, or by a suspended policy. The
/// retirements of a deleted policy are deleted, and a policy proposes nothing that it keeps.
fn is_kept(world: &World, object: &Value, row: &Value) -> bool {
    let newer = world.newer_active(row["revision"].as_str().unwrap_or_default());
    let latest = object["spec"]["keepLatest"].as_u64().unwrap_or_default();
    let has = |text: &str| row["message"].as_str().is_some_and(|message| message.contains(text));
    // The row is checked once a minute.
    let is_newest = (newer as u64) < latest && has(&format!("has {newer} newer"));
    let Some(owner) = controlling_policy(object) else { return is_newest };
    let policies = world.api.objects(POLICIES);
    let policy = policies.iter().find(|it| it["metadata"]["uid"] == owner["uid"]);
    policy.is_some_and(|policy| {
        let keeps_fewer = policy["spec"]["keep"]["latest"].as_u64() < Some(latest);
        policy["spec"]["suspend"] == true && (is_newest || has("is suspended")) || keeps_fewer && is_newest
    })
}

/// Returns true if a run that began after the last fault is complete, and nothing is left to
/// propose or to retire.
fn policy_has_converged(world: &World, policy: &Value) -> bool {
    let (metadata, spec, status) = (&policy["metadata"], &policy["spec"], &policy["status"]);
    if status["observedGeneration"] != metadata["generation"] || !has_condition(policy, "Ready") {
        return false;
    }
    if spec["suspend"] == true {
        return true;
    }
    let started = status["lastRunTime"].as_str().and_then(|time| time.parse().ok());
    let is_complete = started.is_some_and(|time: k8s_openapi::jiff::Timestamp| time >= world.end_of_faults())
        && !status["lastRunCompletionTime"].is_null();
    let mut known = world.users.policies.iter().filter(|it| metadata["name"] == *it.name);
    let Some(known) = known.next() else { return false };
    let retirements = world.retirements_of(&metadata["uid"]);
    let unfinished = retirements.iter().filter(|it| controlling_policy(it).is_some());
    let waits = |it: &Value| rows(it).any(|row| row["reason"] == "InUse" || row["reason"] == "Kept");
    let is_idle = if known.is_approved {
        // A finished retirement is a record without an owner.
        let is_waiting = unfinished.clone().all(waits);
        let declared = |revision: &String| unfinished.clone().any(|it| declares(it, revision));
        is_waiting && candidates(world, policy).iter().all(declared)
    } else {
        candidates(world, policy).is_empty() || unfinished.clone().any(|it| it["spec"]["suspend"] == true)
    };
    is_complete && is_idle
}

fn declares(retirement: &Value, revision: &str) -> bool {
    let revisions = retirement["spec"]["revisions"].as_array();
    revisions.is_some_and(|revisions| revisions.iter().any(|it| it == revision))
}

/// Returns the ACTIVE revisions that a policy does not keep and that are unused.
fn candidates(world: &World, policy: &Value) -> Vec<String> {
    let include = policy["spec"]["families"]["include"][0].as_str().unwrap_or_default();
    let prefix = include.trim_end_matches('*');
    let families = world.users.families.iter().filter(|(name, _)| name.starts_with(prefix));
    let revisions = families.flat_map(|(name, family)| {
        let count = family.count + family.registered_later;
        (1..=count).map(move |number| format!("{name}:{number}"))
    });
    let is_candidate = |revision: &String| {
        world.region_of(revision).status(revision) == Some(Status::Active)
            && !keeps(policy, revision, world.newer_active(revision))
            && !world.is_used(&json!({ "revision": revision }))
    };
    revisions.filter(is_candidate).collect()
}
