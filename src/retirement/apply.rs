//! Processes one batch of revisions at ECS: observes, plans and deregisters (I/O).

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::time::Instant;

use crate::{
    api::{Priority, RevisionStatus, TaskDefinitionRetirement},
    aws::session::Session,
    aws::{
        freshness::Purpose,
        rate_limiter::ResourceKey,
        response::{Description, FailureKind, Newest, Outcome, Status},
    },
    retirement::{
        observe::is_throttled,
        plan::{Deregistration, Step, is_retired, must_wait, needs_usage, plan},
        reconcile::{Context, Error, key, read},
        requeue::{self, Progress},
        resolve::{Entry, Target},
        row::recorded_row,
        status_writer::Record,
    },
    shutdown::Delay,
    task_definition::Arn,
};

/// Result of one batch.
pub(super) struct BatchResult {
    pub(super) outcomes: BTreeMap<String, Outcome>,
    /// The entries that wait for the next usage scan, with the remaining time of their cool-down.
    /// `None` if the entry is not cooling down.
    pub(super) watched: BTreeMap<String, Option<Duration>>,
    /// End of the usage scan by AWS's clock. `None` if the scan did not confirm all revisions that
    /// are cooling down.
    pub(super) scanned_at: Option<Timestamp>,
    pub(super) progress: Progress,
    /// `Err` if a Kubernetes call failed.
    pub(super) end: Result<(), Error>,
    /// Delays shutdown from before the first irreversible call. Keep it until the responses are
    /// recorded.
    pub(super) delay: Option<Delay>,
}

impl BatchResult {
    pub(super) fn outage() -> Self {
        Self { progress: Progress::Outage, ..Self::empty() }
    }

    pub(super) fn empty() -> Self {
        let (outcomes, watched) = (BTreeMap::new(), BTreeMap::new());
        let progress = Progress::Locked;
        Self { outcomes, watched, scanned_at: None, progress, end: Ok(()), delay: None }
    }
}

/// The newest revision of each family, as listed earlier in the batch.
pub(super) type NewestByFamily = BTreeMap<String, Newest>;

/// Shared context of the steps of one batch.
pub(super) struct Batch<'a> {
    api: &'a Api<TaskDefinitionRetirement>,
    pub(super) resource: &'a TaskDefinitionRetirement,
    pub(super) session: &'a Session,
    pub(super) context: &'a Context,
    pub(super) key: ResourceKey,
    /// Delays shutdown once an irreversible call is about to be made.
    delay: OnceLock<Delay>,
    /// The time by AWS's clock, or `None` while it is unknown.
    pub(super) now: Option<Timestamp>,
}

/// Why a batch ends early.
pub(super) enum Stop {
    Now(Progress),
    Kubernetes(Error),
}

/// Processes the next batch of entries: describes them, and deregisters those that the plan
/// selects.
pub(super) async fn act(
    api: &Api<TaskDefinitionRetirement>,
    record: &Record<'_>,
    entries: &[Entry],
    session: &Session,
    (context, now): (&Context, Option<Timestamp>),
) -> BatchResult {
    let resource = record.resource();
    let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
    let key = key(resource);
    let batch = Batch { api, resource, session, context, key, delay: OnceLock::new(), now };
    let mut result = batch.wait_from_cache(entries, rows);
    let rest = entries.iter().filter(|entry| !result.watched.contains_key(&entry.revision));
    let (began, mut is_refused, mut newest) = (Instant::now(), false, BTreeMap::new());
    for entry in requeue::select_batch(rest, rows, (context.clock)()) {
        let Target::Resolved(arn) = &entry.target else { continue };
        let Some(_claim) = context.claims.take(arn) else { continue };
        if !(context.is_active)() || began.elapsed() > requeue::BATCH_TIME {
            result.progress = Progress::Made;
            break;
        }
        let recorded = recorded_row(entry, rows);
        let outcome = match batch.step(arn, recorded, &mut newest).await {
            Ok(outcome) => outcome,
            // Do not queue retries while ECS rejects calls; back off instead.
            Err(Stop::Now(Progress::Queued)) if is_refused && is_retry(recorded) => {
                result.progress = Progress::Made;
                break;
            }
            Err(Stop::Now(progress)) => {
                result.progress = progress;
                break;
            }
            Err(Stop::Kubernetes(error)) => {
                result.end = Err(error);
                break;
            }
        };
        let is_missing = |kind| matches!(kind, FailureKind::Absent | FailureKind::Deleted);
        is_refused |= outcome.failure().is_some_and(|kind| !is_missing(kind));
        // Stop after a throttle or an outage, unless it affected only the `deregisteredAt` lookup
        // of a revision that is already retired.
        result.progress = match outcome.failure().filter(|_| !recorded.is_some_and(is_retired)) {
            Some(FailureKind::Throttled) => Progress::Throttled,
            Some(FailureKind::Unavailable) => Progress::Outage,
            _ => Progress::Made,
        };
        if let Outcome::MustWait { usage, .. } = &outcome {
            result.watched.insert(entry.revision.clone(), batch.remaining_cool_down(recorded, usage));
        }
        result.outcomes.insert(entry.revision.clone(), outcome);
        if result.progress != Progress::Made {
            break;
        }
    }
    result.delay = batch.delay.into_inner();
    result
}

impl Batch<'_> {
    /// Describes one revision, and deregisters it if the plan says so.
    async fn step(
        &self,
        arn: &Arn,
        recorded: Option<&RevisionStatus>,
        newest: &mut NewestByFamily,
    ) -> Result<Outcome, Stop> {
        let spec = &self.resource.spec;
        let checks_usage = needs_usage(spec, recorded);
        let has_permit = || self.session.deregistrations.has_permit(&self.key);
        if checks_usage && has_permit() && self.usage(arn, Purpose::Deregister).is_none() {
            return Err(Stop::Now(Progress::Verifying));
        }
        // Skip DescribeTaskDefinition: it would have to be repeated after the scan.
        if checks_usage
            && self.session.usage.is_first_scan_pending()
            && self.usage(arn, Purpose::Report).is_none()
        {
            return Err(Stop::Now(Progress::Scanning));
        }
        let seen = self.describe(arn, recorded, newest).await?;
        let checks_usage = checks_usage && seen.as_ref().is_ok_and(|it| it.status == Status::Active);
        let usage = if checks_usage { self.usage(arn, Purpose::Report) } else { None };
        match plan(spec, arn, recorded, seen, usage.as_ref(), self.now) {
            Step::Report(seen) => Ok(Outcome::Described(seen)),
            Step::Wait { before, usage } => Ok(Outcome::MustWait { before: Some(before), usage }),
            Step::NeedUsage => Err(Stop::Now(Progress::Scanning)),
            Step::Deregister { before, deregistration } => {
                let Some(permit) = self.session.deregistrations.take(&self.key) else {
                    if checks_usage {
                        self.session.usage.expect_permit(&self.key);
                    }
                    return Err(Stop::Now(Progress::Queued));
                };
                self.is_still_declared().await?;
                if checks_usage {
                    // The permit is kept until a usage scan is recent enough.
                    let Some(usage) = self.usage(arn, Purpose::Deregister) else {
                        permit.keep(&self.key);
                        return Err(Stop::Now(Progress::Verifying));
                    };
                    if must_wait(spec, recorded, &usage, self.now) {
                        return Ok(Outcome::MustWait { before: Some(before), usage });
                    }
                }
                self.delay.get_or_init(|| self.context.shutdown.delay());
                if !(self.context.is_active)() {
                    return Err(Stop::Now(Progress::Made));
                }
                permit.spend();
                Ok(self.deregister(before, &deregistration, newest).await)
            }
        }
    }

    /// Reads the resource uncached. Stops the batch if its spec has changed: the next reconcile
    /// uses the new spec.
    async fn is_still_declared(&self) -> Result<(), Stop> {
        let live = self.context.shutdown.abandon(read(self.api, self.resource)).await;
        let live = live.ok_or(Stop::Now(Progress::Made))?.map_err(Stop::Kubernetes)?;
        let generation = self.resource.metadata.generation;
        let is_same = live.is_some_and(|live| live.metadata.generation == generation);
        is_same.then_some(()).ok_or(Stop::Now(Progress::Made))
    }

    async fn deregister(
        &self,
        before: Description,
        deregistration: &Deregistration,
        newest: &mut NewestByFamily,
    ) -> Outcome {
        let (session, arn) = (self.session, deregistration.arn());
        let reply = session.ecs.deregister(deregistration).await;
        if is_throttled(&reply.answer) {
            session.deregistrations.throttled();
        }
        if reply.answer.is_ok() {
            session.usage.invalidate(&self.key, arn);
        }
        let after = if reply.is_due_for_ecs() {
            let described = async {
                match self.describe_unqueued(arn).await {
                    Err(absent) if reply.answer.is_err() && absent.kind == FailureKind::Absent => {
                        self.missing(arn, absent, newest).await
                    }
                    seen => seen,
                }
            };
            self.context.shutdown.abandon(described).await
        } else {
            None
        };
        Outcome::Deregistered { before, reply, after }
    }
}

fn is_retry(recorded: Option<&RevisionStatus>) -> bool {
    recorded.is_some_and(|row| row.reason.priority() != Priority::Untried)
}

#[cfg(test)]
mod tests;
