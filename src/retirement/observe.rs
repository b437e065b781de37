//! Observes a batch of revisions: their descriptions, and their usage from the cache. Reads from
//! AWS only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    api::{Priority, Reason, RevisionStatus},
    aws::{
        freshness::Purpose,
        response::{DescribeResult, Failure, FailureKind, Newest, Status},
        usage::Use,
    },
    retirement::{
        batch::Batch,
        outcome::RevisionKey,
        plan::{Observed, Step, must_wait, needs_usage, step},
        requeue::{self, Progress},
        resolve::{Entry, Target},
        revision_locks::RevisionLock,
        row::{recorded_row, waits_for_usage},
    },
    task_definition::Arn,
};

/// The longest cool-down that the interval between usage scans depends on.
const LONGEST_COOL_DOWN: Duration = Duration::from_hours(24);

/// The observations of a batch.
pub(super) struct Observations<'a> {
    /// The observed revisions, in the order in which they are processed.
    pub(super) revisions: Vec<(RevisionKey, Observed)>,
    /// The revisions that wait for a usage scan.
    pub(super) unscanned: BTreeSet<RevisionKey>,
    /// End of the usage scan by AWS's clock. `None` if the scan did not confirm all revisions that
    /// are cooling down.
    pub(super) scanned_at: Option<Timestamp>,
    /// Why the batch ended before all of its revisions were observed. `None` if all were.
    pub(super) stopped: Option<Progress>,
    /// The locks of the described revisions. Keep them until the plan is applied.
    pub(super) locks: Vec<RevisionLock<'a>>,
}

/// The newest revision of each family, as listed earlier in the batch.
pub(super) type NewestByFamily = BTreeMap<String, Newest>;

/// Observes the next batch of `entries`.
///
/// Revisions that are known to be ACTIVE and wait for their use to end are not described. Of those
/// that are ready to be deregistered, one more is described than permits are available: it is then
/// queued for the next one.
pub(super) async fn observe<'a>(batch: &Batch<'a>, entries: &[Entry]) -> Observations<'a> {
    let mut observations = batch.observe_cached(entries);
    let rest = entries.iter().filter(|entry| !observations.waits(&entry.key));
    let due = requeue::select_batch(rest, batch.rows, (batch.context.clock)());
    let permits = batch.session().limits().deregistrations.available(&batch.waiter.key);
    let (began, mut newest) = (Instant::now(), BTreeMap::new());
    let (mut ready, mut is_refused, mut has_kept) = (0, false, false);
    for entry in due {
        let Target::Resolved(arn) = &entry.target else { continue };
        let Some(lock) = batch.context.revision_locks.lock(arn) else { continue };
        observations.locks.push(lock);
        if !(batch.context.is_active)() || began.elapsed() > requeue::BATCH_TIME {
            observations.stopped = Some(Progress::Made);
            break;
        }
        let recorded = recorded_row(entry, batch.rows);
        let may_use_permit = ready < permits && batch.waiter.has_permit();
        let observed = match batch.observe_one(arn, recorded, may_use_permit, &mut newest).await {
            Ok(observed) => observed,
            // Do not queue retries while ECS rejects calls; back off instead. Do not queue them
            // after kept revisions either: a permit would cause another read of those at once.
            Err(Progress::Queued) if (is_refused || has_kept) && is_retry(recorded) => {
                batch.session().limits().reads.leave(&batch.waiter.key);
                observations.stopped = Some(Progress::Made);
                break;
            }
            Err(progress) => {
                observations.stopped = Some(progress);
                break;
            }
        };
        observations.stopped = reason_to_stop(recorded, &observed);
        is_refused |= observed.description.as_ref().is_some_and(is_rejected);
        let next = step(batch.spec(), recorded, observed.clone(), batch.now);
        has_kept |= matches!(next, Step::Keep { .. });
        ready += usize::from(matches!(next, Step::Deregister { .. }));
        observations.revisions.push((entry.key.clone(), observed));
        if observations.stopped.is_some() || ready > permits {
            break;
        }
    }
    observations
}

impl Observations<'_> {
    fn waits(&self, key: &RevisionKey) -> bool {
        self.unscanned.contains(key)
            || self.revisions.iter().any(|(other, observed)| {
                other == key && observed.description.is_none() && observed.usage.is_some()
            })
    }
}

impl<'a> Batch<'a> {
    /// Returns the observations from the usage cache, without an ECS call, for entries that are
    /// known to be ACTIVE and have to wait.
    fn observe_cached(&self, entries: &[Entry]) -> Observations<'a> {
        let (spec, usage) = (self.spec(), &self.session().usage);
        let mut observations = Observations {
            revisions: Vec::new(),
            unscanned: BTreeSet::new(),
            scanned_at: None,
            stopped: None,
            locks: Vec::new(),
        };
        let scanned_at = usage.scanned_at().filter(|_| self.now.is_some());
        let mut unconfirmed: BTreeSet<&str> =
            self.rows.iter().filter(|row| cools_down(row)).map(|row| row.revision.as_str()).collect();
        for entry in entries {
            let (Target::Resolved(arn), Some(row)) = (&entry.target, recorded_row(entry, self.rows)) else {
                continue;
            };
            let waits = waits_for_usage(row);
            let is_watched = needs_usage(spec, Some(row)) && (waits || cools_down(row));
            // A revision that another resource retired meanwhile has to be described.
            if !is_watched || usage.take_invalidated(&self.waiter.key, arn) {
                continue;
            }
            let known = self.subscribe(arn, self.purpose(row, waits));
            let has_to_wait = known.as_ref().is_some_and(|usage| must_wait(spec, Some(row), usage, self.now));
            if known.as_ref().is_some_and(|usage| confirms(usage, row)) {
                unconfirmed.remove(row.revision.as_str());
            }
            // A revision that waits for a permit goes back to waiting for its usage to end if it is
            // in use again.
            if !(waits || has_to_wait && row.reason == Reason::Pending) {
                continue;
            }
            match known {
                Some(usage) if has_to_wait => {
                    if !matches!(usage, Use::Unknown(_)) {
                        unconfirmed.remove(row.revision.as_str());
                    }
                    let usage = Some(usage);
                    let observed = Observed { arn: arn.clone(), description: None, usage, newer: None };
                    observations.revisions.push((entry.key.clone(), observed));
                }
                Some(_) => {}
                None => drop(observations.unscanned.insert(entry.key.clone())),
            }
        }
        observations.scanned_at = scanned_at.filter(|_| unconfirmed.is_empty());
        observations
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

    /// Observes one revision. Returns `Err` if it cannot be observed yet.
    async fn observe_one(
        &self,
        arn: &Arn,
        recorded: Option<&RevisionStatus>,
        may_use_permit: bool,
        newest: &mut NewestByFamily,
    ) -> Result<Observed, Progress> {
        let checks_usage = needs_usage(self.spec(), recorded);
        if checks_usage && may_use_permit && self.subscribe(arn, Purpose::Deregister).is_none() {
            return Err(Progress::Verifying);
        }
        // Skip DescribeTaskDefinition: it would have to be repeated after the scan.
        if checks_usage
            && self.session().usage.is_first_scan_pending()
            && self.subscribe(arn, Purpose::Report).is_none()
        {
            return Err(Progress::Scanning);
        }
        let description = self.describe(arn, recorded, may_use_permit, newest).await?;
        let is_active = description.as_ref().is_ok_and(|it| it.status == Status::Active);
        let usage = if checks_usage && is_active { self.subscribe(arn, Purpose::Report) } else { None };
        let mut observed = Observed { arn: arn.clone(), description: Some(description), usage, newer: None };
        // The list is read only if nothing else prevents the deregistration.
        let next = step(self.spec(), recorded, observed.clone(), self.now);
        if let (Step::NeedNewer, Some(count)) = (next, self.spec().keep_latest) {
            match self.newer(arn, count).await {
                Ok(newer) => observed.newer = Some(newer),
                Err(failure) => observed.description = Some(Err(failure)),
            }
        }
        Ok(observed)
    }

    /// Describes a revision. If ECS does not have it, determines whether it was deleted. A resource
    /// with a permit to deregister does not queue for a permit to read.
    async fn describe(
        &self,
        arn: &Arn,
        recorded: Option<&RevisionStatus>,
        may_use_permit: bool,
        newest: &mut NewestByFamily,
    ) -> Result<DescribeResult, Progress> {
        let reads = &self.session().limits().reads;
        if may_use_permit {
            reads.acquire_unqueued();
        } else {
            reads.acquire(&self.waiter.key).ok_or(Progress::Queued)?.spend();
        }
        let described = self.context.shutdown.abandon(self.session().ecs.describe(arn)).await;
        let described = described.ok_or(Progress::Made)?;
        if is_throttled(&described) {
            reads.throttled();
        }
        match described {
            Err(absent)
                if absent.kind == FailureKind::Absent
                    && !recorded.is_some_and(|row| row.reason.is_retired()) =>
            {
                let missing = self.context.shutdown.abandon(self.missing(arn, absent, newest)).await;
                missing.ok_or(Progress::Made)
            }
            described => Ok(described),
        }
    }

    /// Determines whether a revision that ECS did not find was deleted: it was if ECS lists a
    /// revision of the family with a higher number. Returns `absent` if no such revision is listed.
    pub(super) async fn missing(
        &self,
        arn: &Arn,
        absent: Failure,
        newest: &mut NewestByFamily,
    ) -> DescribeResult {
        let (family, number) = (arn.revision().family(), arn.revision().number());
        let deleted = || Err(Failure { kind: FailureKind::Deleted, ..absent.clone() });
        if newest.get(family).is_some_and(|newest| newest.is_after(number)) {
            return deleted();
        }
        let reads = &self.session().limits().reads;
        for status in [Status::Active, Status::Inactive, Status::DeleteInProgress] {
            reads.acquire_unqueued();
            match self.session().ecs.newest(arn, &status).await {
                Ok(found) if found.is_after(number) => {
                    newest.insert(family.to_owned(), found);
                    // It may have been registered between the first description and the list.
                    return match self.describe_unqueued(arn).await {
                        Err(again) if again.kind == FailureKind::Absent => deleted(),
                        described => described,
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
                        reads.throttled();
                    }
                    return Err(failure);
                }
            }
        }
        Err(absent)
    }

    /// Describes a revision without queueing for a read permit: the caller has already waited for a
    /// permit.
    pub(super) async fn describe_unqueued(&self, arn: &Arn) -> DescribeResult {
        self.session().limits().reads.acquire_unqueued();
        let described = self.session().ecs.describe(arn).await;
        if is_throttled(&described) {
            self.session().limits().reads.throttled();
        }
        described
    }
}

/// Returns why the batch ends after a revision: ECS throttled the call or did not respond,
/// unless that affected only the `deregisteredAt` lookup of a revision that is already retired.
fn reason_to_stop(recorded: Option<&RevisionStatus>, observed: &Observed) -> Option<Progress> {
    let failure = observed.description.as_ref()?.as_ref().err()?;
    match failure.kind {
        _ if recorded.is_some_and(|row| row.reason.is_retired()) => None,
        FailureKind::Throttled => Some(Progress::Throttled),
        FailureKind::Unavailable => Some(Progress::Outage),
        _ => None,
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

/// Returns true if a call for a revision with this row was tried before and failed.
pub(super) fn is_retry(recorded: Option<&RevisionStatus>) -> bool {
    recorded.is_some_and(|row| row.reason.priority() != Priority::Untried)
}

/// Returns true if the call failed for another reason than that the revision does not exist.
pub(super) fn is_rejected(result: &DescribeResult) -> bool {
    let is_missing = |kind| matches!(kind, FailureKind::Absent | FailureKind::Deleted);
    result.as_ref().is_err_and(|failure| !is_missing(failure.kind))
}

pub(super) fn is_throttled(result: &DescribeResult) -> bool {
    result.as_ref().is_err_and(|failure| failure.kind == FailureKind::Throttled)
}

#[cfg(test)]
mod tests;
