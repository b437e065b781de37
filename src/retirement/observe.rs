//! Observes revisions before the plan: their descriptions and their usage (I/O).

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    api::{Reason, RevisionStatus},
    aws::{
        freshness::Purpose,
        response::{Failure, FailureKind, Newest, Outcome, Seen, Status},
        usage::Use,
    },
    retirement::{
        apply::{Batch, BatchResult, NewestByFamily, Stop},
        plan::{is_retired, must_wait, needs_usage, remaining_cool_down},
        requeue::Progress,
        resolve::{Entry, Target},
        row::{recorded_row, waits_for_usage},
    },
    task_definition::Arn,
};

/// Requeue delay while AWS's time is unknown.
const TIME_UNKNOWN_DELAY: Duration = Duration::from_secs(5);

/// The longest cool-down that the interval between usage scans depends on.
const LONGEST_COOL_DOWN: Duration = Duration::from_hours(24);

impl Batch<'_> {
    /// Returns outcomes from the usage cache, without an ECS call, for entries that are known to be
    /// ACTIVE and have to wait.
    pub(super) fn wait_from_cache(&self, entries: &[Entry], rows: &[RevisionStatus]) -> BatchResult {
        let (spec, mut result) = (&self.resource.spec, BatchResult::empty());
        let scanned_at = self.session.usage.scanned_at().filter(|_| self.now.is_some());
        let mut unconfirmed: BTreeSet<&str> =
            rows.iter().filter(|row| cools_down(row)).map(|row| row.revision.as_str()).collect();
        for entry in entries {
            let (Target::Resolved(arn), Some(row)) = (&entry.target, recorded_row(entry, rows)) else {
                continue;
            };
            let waits = waits_for_usage(row);
            let is_watched = needs_usage(spec, Some(row)) && (waits || cools_down(row));
            // A revision that another resource retired meanwhile has to be described.
            if !is_watched || self.session.usage.take_invalidated(&self.key, arn) {
                continue;
            }
            let usage = self.usage(arn, self.purpose(row, waits));
            let has_to_wait = usage.as_ref().is_some_and(|usage| must_wait(spec, Some(row), usage, self.now));
            if usage.as_ref().is_some_and(|usage| confirms(usage, row)) {
                unconfirmed.remove(row.revision.as_str());
            }
            // A revision that waits for a permit goes back to waiting for its usage to end if it is
            // in use again.
            if !(waits || has_to_wait && row.reason == Reason::Pending) {
                continue;
            }
            match usage {
                Some(usage) if has_to_wait => {
                    if !matches!(usage, Use::Unknown(_)) {
                        unconfirmed.remove(row.revision.as_str());
                    }
                    result
                        .watched
                        .insert(entry.revision.clone(), self.remaining_cool_down(Some(row), &usage));
                    result.outcomes.insert(entry.revision.clone(), Outcome::MustWait { before: None, usage });
                }
                Some(_) => drop(result.outcomes.insert(entry.revision.clone(), Outcome::Unused)),
                None => {
                    result.progress = Progress::Scanning;
                    result.watched.insert(entry.revision.clone(), None);
                }
            }
        }
        result.scanned_at = scanned_at.filter(|_| unconfirmed.is_empty());
        result
    }

    /// Returns the purpose of the usage query for `row`. `waits` is true if the row waits for usage
    /// to end.
    fn purpose(&self, row: &RevisionStatus, waits: bool) -> Purpose {
        let usage = Use::Unused { at: None, last_used: None };
        let left = match self.remaining_cool_down(Some(row), &usage) {
            Some(left) if row.reason == Reason::CoolingDown => left,
            _ if waits => Duration::ZERO,
            // The unused time continues to count, whatever the row waits for.
            _ => LONGEST_COOL_DOWN,
        };
        if left.is_zero() {
            return Purpose::Report;
        }
        Purpose::CoolDown { until: Instant::now() + left.min(LONGEST_COOL_DOWN) }
    }

    /// Returns the remaining time of the cool-down of a revision, or `None` if it is not cooling
    /// down.
    pub(super) fn remaining_cool_down(&self, row: Option<&RevisionStatus>, usage: &Use) -> Option<Duration> {
        let left = remaining_cool_down(&self.resource.spec, row, usage, self.now);
        let is_unknown = self.now.is_none() && matches!(usage, Use::Unused { .. });
        left.or(is_unknown.then_some(TIME_UNKNOWN_DELAY))
    }

    pub(super) fn usage(&self, arn: &Arn, purpose: Purpose) -> Option<Use> {
        self.session.usage.of(&self.key, arn, purpose)
    }

    /// Describes a revision. If ECS does not have it, determines whether it was deleted. A resource
    /// with a permit to deregister does not queue for a permit to read.
    pub(super) async fn describe(
        &self,
        arn: &Arn,
        recorded: Option<&RevisionStatus>,
        newest: &mut NewestByFamily,
    ) -> Result<Seen, Stop> {
        if self.session.deregistrations.has_permit(&self.key) {
            self.session.reads.acquire_unqueued();
        } else {
            self.session.reads.take(&self.key).ok_or(Stop::Now(Progress::Queued))?.spend();
        }
        let seen = self.context.shutdown.abandon(self.session.ecs.describe(arn)).await;
        let seen = seen.ok_or(Stop::Now(Progress::Made))?;
        if is_throttled(&seen) {
            self.session.reads.throttled();
        }
        match seen {
            Err(absent) if absent.kind == FailureKind::Absent && !recorded.is_some_and(is_retired) => {
                let missing = self.context.shutdown.abandon(self.missing(arn, absent, newest)).await;
                missing.ok_or(Stop::Now(Progress::Made))
            }
            seen => Ok(seen),
        }
    }

    /// Determines whether a revision that ECS did not find was deleted: it was if ECS lists a
    /// revision of the family with a higher number. Returns `absent` if no such revision is listed.
    pub(super) async fn missing(&self, arn: &Arn, absent: Failure, newest: &mut NewestByFamily) -> Seen {
        let (family, number) = (arn.revision().family(), arn.revision().number());
        let deleted = || Err(Failure { kind: FailureKind::Deleted, ..absent.clone() });
        if newest.get(family).is_some_and(|newest| newest.is_after(number)) {
            return deleted();
        }
        for status in [Status::Active, Status::Inactive, Status::DeleteInProgress] {
            self.session.reads.acquire_unqueued();
            match self.session.ecs.newest(arn, &status).await {
                Ok(found) if found.is_after(number) => {
                    newest.insert(family.to_owned(), found);
                    // It may have been registered between the first description and the list.
                    return match self.describe_unqueued(arn).await {
                        Err(again) if again.kind == FailureKind::Absent => deleted(),
                        seen => seen,
                    };
                }
                Ok(Newest::Refused(refusal)) => {
                    let message = format!(
                        "{}; ecs:ListTaskDefinitions, which shows whether it was deleted, was refused: {}",
                        absent.message, refusal.message
                    );
                    return Err(Failure { message, ..absent });
                }
                Ok(_) => {}
                Err(failure) => {
                    if failure.kind == FailureKind::Throttled {
                        self.session.reads.throttled();
                    }
                    return Err(failure);
                }
            }
        }
        Err(absent)
    }

    /// Describes a revision without queueing for a read permit: the caller has already waited for a
    /// permit.
    pub(super) async fn describe_unqueued(&self, arn: &Arn) -> Seen {
        self.session.reads.acquire_unqueued();
        let seen = self.session.ecs.describe(arn).await;
        if is_throttled(&seen) {
            self.session.reads.throttled();
        }
        seen
    }
}

/// Returns true if the unused time of the row counts.
fn cools_down(row: &RevisionStatus) -> bool {
    row.unused_since.is_some() && row.reason != Reason::DryRun
}

/// Returns true if `usage` shows no usage later than the row does.
fn confirms(usage: &Use, row: &RevisionStatus) -> bool {
    let Use::Unused { last_used, .. } = usage else { return false };
    last_used.is_none_or(|last| row.unused_since.as_ref().is_some_and(|since| last <= since.0))
}

pub(super) fn is_throttled(answer: &Seen) -> bool {
    answer.as_ref().is_err_and(|failure| failure.kind == FailureKind::Throttled)
}

#[cfg(test)]
mod tests;
