//! Scheduling of reconciles: whether work is due, which entries the next batch contains, and the
//! requeue delay. No I/O.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::{
        Priority, Reason, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus,
        conditions::{RECONCILING, STALLED},
    },
    aws::permit_queue::QueuePosition,
    controller::delay::{hash, jitter},
    retirement::{
        outcome::RevisionKey,
        resolve::{Entry, Target},
        row::{is_due_for_ecs, recorded_row},
        summary::INVALID_SPEC,
        trigger::Trigger,
    },
};

/// Maximum number of revisions in one batch. It keeps large resources from blocking small ones, and
/// limits the work that is lost if a reconcile is interrupted.
pub const BATCH_SIZE: usize = 10;

/// How long a batch may take before the worker is returned to other resources. The current revision
/// is still completed.
pub const BATCH_TIME: Duration = Duration::from_secs(2);

/// Shortest backoff after a failure.
const SHORTEST_DELAY: Duration = Duration::from_secs(5);
/// Longest backoff after a failure.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// Longest backoff while other revisions of the resource are making progress.
const LONGEST_DELAY_BESIDE_WORK: Duration = Duration::from_secs(45);

/// Requeue delay while AWS is unavailable. Short, as the circuit breaker admits only one probe at a
/// time.
const OUTAGE_DELAY: Duration = Duration::from_secs(2);

/// Fallback requeue if the wake-up for a permit is missed, counted from the time at which it is
/// expected.
const MISSED_WAKEUP: Duration = Duration::from_secs(30);

/// Minimum requeue delay once `unusedFor` has elapsed and the next usage scan is pending.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Fallback requeue if a usage notification is missed.
const MISSED_SCAN_RESULT: Duration = Duration::from_mins(10);

/// Fallback requeue of a resource that has a permit and waits for a usage scan.
const MISSED_SCAN: Duration = Duration::from_secs(15);

/// Requeue delay while no AWS concurrency permit is free.
const CONCURRENCY_LIMIT_DELAY: Duration = Duration::from_millis(500);

/// Requeue delay of a revision that is kept: a newer one may have been registered, or its policy
/// may have chosen it again.
const KEPT_DELAY: Duration = Duration::from_mins(1);

/// Requeue delay while another resource has locked the same revision.
const LOCKED_DELAY: Duration = Duration::from_secs(1);

/// Returns true if the spec or the recorded status of the resource requires a reconcile.
#[must_use]
pub fn work_is_due(resource: &TaskDefinitionRetirement) -> bool {
    if resource.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &resource.status else { return true };
    let invalid = || status.conditions.iter().any(|it| it.reason == INVALID_SPEC);
    Trigger::of(resource, status).is_due()
        || status.conditions.is_empty()
        || status.revisions.iter().any(|row| is_due(status, row) || is_suspended_by_account(resource, row))
        || invalid()
}

/// Returns true if the EcsAccount suspends the revision, or did so.
pub(super) fn is_suspended_by_account(resource: &TaskDefinitionRetirement, row: &RevisionStatus) -> bool {
    row.reason == Reason::Suspended && !resource.spec.suspend
}

/// Returns true if a row may change although the resource does not. This includes every
/// `WrongAccount` row until the account of the resource is known: the credentials may be replaced
/// by those of an allowed account.
fn is_due(status: &TaskDefinitionRetirementStatus, row: &RevisionStatus) -> bool {
    is_due_for_ecs(row) || (row.reason == Reason::WrongAccount && status.account.is_none())
}

/// Returns the entries of the next batch.
///
/// Order: entries not tried yet, entries that only have to be described, then failed entries. The
/// failed entries are rotated to avoid starvation. Within each group the oldest revision comes
/// first: if something goes wrong, the newest revisions still exist.
#[must_use]
pub fn select_batch<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    rows: &[RevisionStatus],
    now: Timestamp,
) -> Vec<&'a Entry> {
    let mut due: Vec<((Priority, i32), &Entry)> = entries
        .filter_map(|entry| {
            let Target::Resolved(arn) = &entry.target else { return None };
            let row = recorded_row(entry, rows)?;
            is_due_for_ecs(row).then(|| ((row.reason.priority(), arn.revision().number()), entry))
        })
        .collect();
    due.sort_by_key(|(order, _)| *order);
    let first_failed = due.partition_point(|((priority, _), _)| *priority < Priority::Failed);
    let failed = &mut due[first_failed..];
    if let Some(from) = hash(now.as_second()).checked_rem(failed.len()) {
        failed.rotate_left(from);
    }
    due.into_iter().take(BATCH_SIZE).map(|(_, entry)| entry).collect()
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// The batch is complete, or was stopped and can be continued.
    Made,
    /// The resource is queued for a permit, and is woken when one is available.
    Queued,
    /// The resource waits for a usage scan, and is woken by its result.
    Scanning,
    /// The resource has a permit, and is woken once a usage scan is recent enough to use it.
    Verifying,
    /// Other resources have locked all of its entries.
    Locked,
    /// The resource may use no credentials; a change of the EcsAccount or of the namespace wakes
    /// it.
    Denied,
    /// Stopped because ECS throttled a call.
    Throttled,
    /// Stopped because AWS is unavailable.
    Outage,
}

/// Returns the requeue delay, or `None` if the resource is reconciled only when it changes.
///
/// A refused call is retried after as long as it has been refused already, from 5 s to 10 min. This
/// is an exponential backoff whose only state is the conditions. `watched` holds the revisions that
/// wait for the next usage scan, with the remaining time of their cool-down. `position` is the
/// position of the resource in a wait queue. `uid` adds jitter to the retries of resources that
/// were refused together.
#[must_use]
pub fn requeue_delay(
    status: &TaskDefinitionRetirementStatus,
    watched: &BTreeMap<RevisionKey, Option<Duration>>,
    progress: Progress,
    position: Option<QueuePosition>,
    uid: &str,
    now: Timestamp,
) -> Option<Duration> {
    let watch = |row: &RevisionStatus| watched.get(&RevisionKey::new(&row.revision)).copied();
    let delay = |row: &RevisionStatus| match (row.reason, progress) {
        _ if let Some(left) = watch(row) => until_scan_result(left),
        (_, Progress::Verifying) => MISSED_SCAN,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Scanning) => MISSED_SCAN_RESULT,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Made) => Duration::ZERO,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Locked) => LOCKED_DELAY,
        (
            Reason::AccessDenied
            | Reason::Refused
            | Reason::WrongAccount
            | Reason::AccountNotFound
            | Reason::AccountNotReady,
            _,
        ) => jitter(backoff(status, now), uid),
        // A change of the EcsAccount or of the namespace wakes it.
        (Reason::NotAllowed, _) | (_, Progress::Denied) => LONGEST_DELAY,
        (Reason::Kept, _) => jitter(KEPT_DELAY, uid),
        (_, Progress::Outage) => jitter(OUTAGE_DELAY, uid),
        // A cool-down counts only while the resource reads the results of usage scans.
        (_, Progress::Queued) if row.unused_since.is_some() => {
            until_permit_expected(position).min(MISSED_SCAN_RESULT)
        }
        (_, Progress::Queued) => until_permit_expected(position),
        _ => jitter(SHORTEST_DELAY, uid),
    };
    status.revisions.iter().filter(|row| is_due(status, row)).map(delay).min()
}

/// Returns the requeue delay of a resource that waits for usage to change. Changes wake the
/// resource, so that this only covers the end of its cool-down.
fn until_scan_result(left: Option<Duration>) -> Duration {
    left.map_or(MISSED_SCAN_RESULT, |left| left.clamp(SHORTEST_WAIT, MISSED_SCAN_RESULT))
}

/// Returns the requeue delay of a queued resource. A permit wakes the resource, so that this only
/// covers a missed wake-up.
fn until_permit_expected(position: Option<QueuePosition>) -> Duration {
    let seconds =
        position.map(|it| f64::from(u32::try_from(it.ahead + 1).unwrap_or(u32::MAX)) / it.per_second);
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or(LONGEST_DELAY) + MISSED_WAKEUP
}

/// Returns the requeue delay while AWS is unavailable in the region of the resource.
#[must_use]
pub fn after_outage(uid: &str) -> Duration {
    jitter(OUTAGE_DELAY, uid)
}

/// Returns the requeue delay while no AWS concurrency permit is free.
#[must_use]
pub fn at_concurrency_limit(uid: &str) -> Duration {
    jitter(CONCURRENCY_LIMIT_DELAY, uid)
}

/// Returns the time for which calls have been refused, within the limits of the backoff.
fn backoff(status: &TaskDefinitionRetirementStatus, now: Timestamp) -> Duration {
    let lasts = |type_: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
        Some(Duration::try_from(now.duration_since(condition.last_transition_time.0)).unwrap_or_default())
    };
    // With mixed rows the transition time of the condition does not reflect this row: cap the
    // backoff.
    let refused_for = lasts(STALLED).or_else(|| Some(lasts(RECONCILING)?.min(LONGEST_DELAY_BESIDE_WORK)));
    refused_for.unwrap_or_default().clamp(SHORTEST_DELAY, LONGEST_DELAY)
}

#[cfg(test)]
mod tests;
