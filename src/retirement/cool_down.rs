//! Continuity of cool-downs: the unused time of a revision counts only while usage scans follow
//! each other without a long gap. No I/O.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    api::{Reason, RevisionStatus, TaskDefinitionRetirementStatus, UsageScan},
    aws::freshness::LONGEST_GAP,
};

/// Age of the recorded scan from which a later one is recorded. Limits status writes: not every
/// scan is recorded.
const RECORD_INTERVAL: SignedDuration = SignedDuration::from_mins(15);

/// Clears `unusedSince` if usage since the recorded scan is unknown. That is the case if no scan is
/// recorded (as in the status of an older version), if it may be too old at `now`, the latest
/// possible time, or if it belongs to another resource (as after a restore).
///
/// Rows of a dry run keep their time: it is only displayed.
pub fn resume(status: &mut TaskDefinitionRetirementStatus, uid: &str, now: Timestamp) {
    let gap = SignedDuration::try_from(LONGEST_GAP).unwrap_or(SignedDuration::ZERO);
    let is_followed = |scan: &UsageScan| scan.uid == uid && now.duration_since(scan.time.0) <= gap;
    if status.last_usage_scan.as_ref().is_some_and(is_followed) {
        return;
    }
    status.last_usage_scan = None;
    for row in status.revisions.iter_mut().filter(|row| row.reason != Reason::DryRun) {
        row.unused_since = None;
    }
}

/// Returns the usage scan to record with `rows`. `scanned_at` is the earliest possible end of the
/// scan that `rows` are based on, or `None` if there was no scan. Returns `None` if no row is
/// cooling down or no scan is known.
#[must_use]
pub fn last_scan(
    recorded: Option<UsageScan>,
    rows: &[RevisionStatus],
    scanned_at: Option<Timestamp>,
    uid: &str,
) -> Option<UsageScan> {
    if !rows.iter().any(|row| row.unused_since.is_some() && row.reason != Reason::DryRun) {
        return None;
    }
    let Some(at) = scanned_at else { return recorded };
    let is_recent = |scan: &UsageScan| at.duration_since(scan.time.0) < RECORD_INTERVAL;
    recorded.filter(is_recent).or_else(|| Some(UsageScan { time: Time(at), uid: uid.to_owned() }))
}

#[cfg(test)]
mod tests;
