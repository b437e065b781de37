//! Whether the time for which a revision has been unused still counts: only while usage scans follow each other. Pure.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    api::{Reason, RevisionStatus, TaskDefinitionRetirementStatus, UsageScan},
    aws::freshness::LONGEST_GAP,
};

/// How old the recorded scan may be before a later one is recorded: a status is not written for each scan.
const RECORD_INTERVAL: SignedDuration = SignedDuration::from_mins(15);

/// Clears `unusedSince` if nothing is known of the time since the recorded scan: there is none, as in the status of
/// an older version, or it is too long ago at `now`, or it is of another resource, as after a restore.
///
/// A dry run shows a time that nothing rests on.
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

/// Returns the scan to record for `rows`, which are as the scan at `scanned_at` showed them; `None` without a scan.
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
