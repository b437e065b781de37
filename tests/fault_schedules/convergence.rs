//! Whether a run has converged: every resource is in its final state, and nothing is left to do.

use serde_json::Value;

use super::{
    allowed,
    kinds::{ACCOUNTS, RETIREMENTS},
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
        Operation::Wrote { .. } | Operation::Changed { .. } | Operation::Deregistered(_) => true,
        Operation::Called("AssumeRole" | "GetCallerIdentity") if !world.users.roles.is_empty() => false,
        Operation::Described { .. } | Operation::Listed { .. } | Operation::Called(_) => !waits(world),
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
    retirements.chain(accounts).map(text).collect()
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

/// Returns true if `spec.keepLatest` keeps a row.
fn is_kept(world: &World, object: &Value, row: &Value) -> bool {
    let newer = world.newer_active(row["revision"].as_str().unwrap_or_default());
    object["spec"]["keepLatest"].as_u64().is_some_and(|latest| (newer as u64) < latest)
}
