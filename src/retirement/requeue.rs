//! When a resource is looked at, which of its entries first, and when again. Pure.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::{
        Priority, Reason, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus,
        conditions::{RECONCILING, STALLED},
    },
    aws::permit_queue::QueuePosition,
    retirement::{
        resolve::{Entry, Target},
        row::{is_due_for_ecs, recorded_row},
        status::Trigger,
        summary::INVALID_SPEC,
    },
};

/// How many revisions a pass looks at, at the most: a large resource neither blocks a small one nor loses
/// more than this when it is cut short.
pub const BATCH_SIZE: usize = 10;

/// How long a pass may take before it leaves its worker to another resource; the call under way is still answered.
pub const BATCH_TIME: Duration = Duration::from_secs(2);

const SHORTEST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// The same while the resource has other revisions that wait for something else.
const LONGEST_DELAY_BESIDE_WORK: Duration = Duration::from_secs(45);

const CONFLICT_DELAY: Duration = Duration::from_millis(200);

const PANIC_DELAY: Duration = Duration::from_mins(1);

/// While AWS as a whole does not answer: short, since only one call at a time finds out.
const OUTAGE_DELAY: Duration = Duration::from_secs(2);

/// How long after its turn a resource looks by itself.
const MISSED_WAKEUP: Duration = Duration::from_secs(30);

/// How long one waits at the least that has waited for long enough, and is still to be told who uses its revisions.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// How long after it ought to have been told who uses its revisions a resource looks by itself.
const MISSED_SCAN_RESULT: Duration = Duration::from_mins(10);

/// Requeue delay of a resource that has a permit and is not woken by a usage scan.
const MISSED_SCAN: Duration = Duration::from_secs(15);

/// While as many resources are at work at AWS as may be.
const SLOT_DELAY: Duration = Duration::from_millis(500);

/// While another resource is at work on the same revision.
const LOCKED_DELAY: Duration = Duration::from_secs(1);

/// Whether there is anything to do for a resource, by what is recorded of it.
#[must_use]
pub fn work_is_due(resource: &TaskDefinitionRetirement) -> bool {
    if resource.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &resource.status else { return true };
    let invalid = || status.conditions.iter().any(|it| it.reason == INVALID_SPEC);
    Trigger::of(resource, status).is_due()
        || status.conditions.is_empty()
        || status.revisions.iter().any(|row| is_due(status, row))
        || invalid()
}

/// Returns true if a row may change although the resource does not. As long as the account of the resource is not
/// known, every `WrongAccount` may: the credentials may come to belong to an account that is allowed.
fn is_due(status: &TaskDefinitionRetirementStatus, row: &RevisionStatus) -> bool {
    is_due_for_ecs(row) || (row.reason == Reason::WrongAccount && status.account.is_none())
}

/// The entries that a pass looks at: first those never tried, then those that are owed no more than a look, and last those that
/// failed, each time from another one on, so that none of them must_wait another waiting. Otherwise the oldest revision is first: if
/// anything turns out wrong on the way, the newest are still there.
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
    let untroubled = due.partition_point(|((priority, _), _)| *priority < Priority::Failed);
    let failed = &mut due[untroubled..];
    if let Some(from) = scattered(now.as_second()).checked_rem(failed.len()) {
        failed.rotate_left(from);
    }
    due.into_iter().take(BATCH_SIZE).map(|(_, entry)| entry).collect()
}

/// How a pass went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// It did what it had set out to do.
    Made,
    /// It stands in line for a turn, and is called.
    Queued,
    /// It is to be found out who uses its revisions, and it is called then.
    Scanning,
    /// It has a permit, and is woken once a usage scan is recent enough to use it.
    Verifying,
    /// Each entry it wanted was in another resource's hands.
    Locked,
    /// ECS throttles the account, and so it stopped.
    Throttled,
    /// AWS does not answer, and so it stopped.
    Outage,
}

/// How long to leave a resource alone; `None` until it changes.
///
/// What ECS refuses is asked again after as long as it has been refused already, from 5 s to 10 min: an exponential backoff
/// that needs no memory but the conditions. `watched` holds the revisions that wait for the next usage scan, and how long their
/// cool-down lasts. `uid` spreads resources that were refused together.
#[must_use]
pub fn requeue_delay(
    status: &TaskDefinitionRetirementStatus,
    watched: &BTreeMap<String, Option<Duration>>,
    progress: Progress,
    place: Option<QueuePosition>,
    uid: &str,
    now: Timestamp,
) -> Option<Duration> {
    let delay = |row: &RevisionStatus| match (row.reason, progress) {
        _ if watched.contains_key(&row.revision) => until_scan_result(watched[&row.revision]),
        (_, Progress::Verifying) => MISSED_SCAN,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Scanning) => MISSED_SCAN_RESULT,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Made) => Duration::ZERO,
        (Reason::Pending | Reason::InUse | Reason::CoolingDown, Progress::Locked) => LOCKED_DELAY,
        (Reason::AccessDenied | Reason::Refused | Reason::WrongAccount, _) => {
            spread(backoff(status, now), uid)
        }
        (_, Progress::Outage) => spread(OUTAGE_DELAY, uid),
        // A cool-down counts only while the resource takes note of usage scans.
        (_, Progress::Queued) if row.unused_since.is_some() => {
            until_permit_expected(place).min(MISSED_SCAN_RESULT)
        }
        (_, Progress::Queued) => until_permit_expected(place),
        _ => spread(SHORTEST_DELAY, uid),
    };
    status.revisions.iter().filter(|row| is_due(status, row)).map(delay).min()
}

/// Returns when to reconcile a resource that is woken when usage changes: at the end of the cool-down.
fn until_scan_result(left: Option<Duration>) -> Duration {
    left.map_or(MISSED_SCAN_RESULT, |left| left.clamp(SHORTEST_WAIT, MISSED_SCAN_RESULT))
}

/// One that stands in line is called; this is only for the case that the call is missed.
fn until_permit_expected(place: Option<QueuePosition>) -> Duration {
    let turns =
        place.map(|place| f64::from(u32::try_from(place.ahead + 1).unwrap_or(u32::MAX)) / place.per_second);
    Duration::try_from_secs_f64(turns.unwrap_or_default()).unwrap_or(LONGEST_DELAY) + MISSED_WAKEUP
}

/// How long to leave a resource alone while AWS does not answer in its region.
#[must_use]
pub fn after_outage(uid: &str) -> Duration {
    spread(OUTAGE_DELAY, uid)
}

/// How long to leave a resource alone while as many others are at work as may be.
#[must_use]
pub fn without_slot(uid: &str) -> Duration {
    spread(SLOT_DELAY, uid)
}

/// How long to leave a resource alone that Kubernetes did not give or take.
#[must_use]
pub fn after_error(uid: &str) -> Duration {
    spread(SHORTEST_DELAY, uid)
}

/// How long to leave a resource alone that somebody else has changed meanwhile: short, but a pause, or two who write would
/// keep each other busy.
#[must_use]
pub fn after_conflict(uid: &str) -> Duration {
    spread(CONFLICT_DELAY, uid)
}

/// How long to leave a resource alone whose pass panicked: a defect that mends itself only by a change.
#[must_use]
pub fn after_panic(uid: &str) -> Duration {
    spread(PANIC_DELAY, uid)
}

fn backoff(status: &TaskDefinitionRetirementStatus, now: Timestamp) -> Duration {
    let lasts = |type_: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
        Some(Duration::try_from(now.duration_since(condition.last_transition_time.0)).unwrap_or_default())
    };
    // While other revisions get on, nothing tells for how long this one has been refused.
    let refused_for = lasts(STALLED).or_else(|| Some(lasts(RECONCILING)?.min(LONGEST_DELAY_BESIDE_WORK)));
    refused_for.unwrap_or_default().clamp(SHORTEST_DELAY, LONGEST_DELAY)
}

/// Adds up to a fifth, always the same for one resource.
fn spread(delay: Duration, uid: &str) -> Duration {
    let fifth = u32::try_from(scattered(uid) % 200).unwrap_or_default();
    delay + delay * fifth / 1000
}

fn scattered(value: impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests;
