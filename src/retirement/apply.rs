//! Applies the plan of a batch: makes the irreversible calls.

use tokio::time::Instant;

use crate::{
    account::authorize::is_still_allowed,
    api::{RevisionStatus, TaskDefinitionRetirement},
    aws::{
        freshness::Purpose,
        response::{Description, FailureKind},
    },
    controller::Error,
    deregistration::Deregistration,
    retirement::{
        batch::{Batch, BatchResult},
        context::{Context, read},
        observe::{NewestByFamily, Observations, is_retry, is_throttled},
        outcome::{Outcome, RevisionKey},
        plan::{Plan, Step, must_wait, needs_usage},
        policy_guard,
        requeue::{self, Progress},
    },
    shutdown::Delay,
    task_definition::Arn,
};

/// Why a batch ends early.
enum Stop {
    Now(Progress),
    Kubernetes(Error),
}

/// State of a batch while its plan is applied.
#[derive(Default)]
struct Applying {
    /// Delays shutdown once an irreversible call is about to be made.
    delay: Option<Delay>,
    newest: NewestByFamily,
    /// True once ECS has refused a call of this batch, or a revision is kept now. Others are likely
    /// to end in the same way, and are not retried for each permit.
    backs_off: bool,
}

/// Applies the steps of `plan`: records what was observed, then deregisters. Right before each
/// irreversible call it acquires a permit, reads the resource again, and checks the usage and that
/// this process is still active.
pub(super) async fn apply(batch: &Batch<'_>, plan: Plan, observations: &Observations<'_>) -> BatchResult {
    let mut result = BatchResult::new(Progress::Locked);
    result.scanned_at = observations.scanned_at;
    if !observations.unscanned.is_empty() {
        result.progress = Progress::Scanning;
    }
    result.watched.extend(observations.unscanned.iter().map(|key| (key.clone(), None)));
    let mut applying = Applying::default();
    let mut deregistrations = Vec::new();
    for (key, step) in plan.steps {
        let outcome = match step {
            Step::Deregister { before, deregistration } => {
                deregistrations.push((key, before, deregistration));
                continue;
            }
            Step::Report(described) => Outcome::Described(described),
            Step::Wait { before, usage } => Outcome::MustWait { before, usage },
            Step::Keep { before, newer } => Outcome::Kept { before, because: batch.kept_because(newer) },
            Step::Resume => Outcome::Unused,
            Step::NeedUsage | Step::NeedNewer => {
                result.watched.insert(key, None);
                continue;
            }
        };
        if !matches!(outcome, Outcome::MustWait { before: None, .. }) {
            result.progress = Progress::Made;
        }
        applying.record(batch, &mut result, key, outcome);
    }
    result.progress = observations.stopped.unwrap_or(result.progress);
    if observations.stopped != Some(Progress::Outage) {
        deregister_all(batch, &mut applying, deregistrations, &mut result).await;
    }
    // The next ones are likely to be kept, too: do not describe one of them with each permit.
    if result.progress == Progress::Queued && result.outcomes.values().any(is_kept) {
        batch.waiter.leave_queues();
        result.progress = Progress::Made;
    }
    result.delay = applying.delay;
    result
}

/// Deregisters revisions in order until one cannot be deregistered now.
async fn deregister_all(
    batch: &Batch<'_>,
    applying: &mut Applying,
    deregistrations: Vec<(RevisionKey, Description, Deregistration)>,
    result: &mut BatchResult,
) {
    let began = Instant::now();
    for (key, before, deregistration) in deregistrations {
        let recorded = batch.row(&key);
        let stop = if began.elapsed() > requeue::BATCH_TIME {
            Stop::Now(Progress::Made)
        } else {
            match batch.deregister_if_permitted(applying, recorded, before, &deregistration).await {
                Ok(outcome) => {
                    let failure = outcome.failure();
                    if result.progress == Progress::Locked {
                        result.progress = Progress::Made;
                    }
                    applying.record(batch, result, key, outcome);
                    match failure {
                        Some(FailureKind::Throttled) => Stop::Now(Progress::Throttled),
                        Some(FailureKind::Unavailable) => Stop::Now(Progress::Outage),
                        _ => continue,
                    }
                }
                Err(Stop::Now(Progress::Queued)) if applying.backs_off && is_retry(recorded) => {
                    batch.waiter.leave_queues();
                    Stop::Now(Progress::Made)
                }
                Err(stop) => stop,
            }
        };
        match stop {
            Stop::Now(progress) => result.progress = progress,
            Stop::Kubernetes(error) => result.end = Err(error),
        }
        return;
    }
}

fn is_kept(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Kept { .. })
}

impl Applying {
    fn record(&mut self, batch: &Batch<'_>, result: &mut BatchResult, key: RevisionKey, outcome: Outcome) {
        let is_missing = |kind| matches!(kind, FailureKind::Absent | FailureKind::Deleted);
        self.backs_off |= outcome.failure().is_some_and(|kind| !is_missing(kind)) || is_kept(&outcome);
        if let Outcome::MustWait { usage, .. } = &outcome {
            result.watched.insert(key.clone(), batch.remaining_cool_down(batch.row(&key), usage));
        }
        result.outcomes.insert(key, outcome);
    }
}

impl Batch<'_> {
    /// Deregisters one revision if a permit is available and nothing has changed since it was
    /// observed.
    async fn deregister_if_permitted(
        &self,
        applying: &mut Applying,
        recorded: Option<&RevisionStatus>,
        before: Description,
        deregistration: &Deregistration,
    ) -> Result<Outcome, Stop> {
        let (key, arn) = (&self.waiter.key, deregistration.arn());
        let checks_usage = needs_usage(self.spec(), recorded);
        let Some(permit) = self.session().limits().deregistrations.acquire(key) else {
            if checks_usage {
                self.session().usage.expect_permit(key);
            }
            return Err(Stop::Now(Progress::Queued));
        };
        if let Some(count) = self.spec().keep_latest {
            let listed = self.context.shutdown.abandon(self.newer(arn, count)).await;
            match listed.ok_or(Stop::Now(Progress::Made))? {
                Ok(newer) if newer < count => {
                    return Ok(Outcome::Kept { before, because: self.kept_because(newer) });
                }
                Ok(_) => {}
                Err(failure) => return Ok(Outcome::Described(Err(failure))),
            }
        }
        let live = self.check_unchanged().await?;
        self.check_allowed(arn).await?;
        if let Some(because) = self.kept_by_policy(&live).await? {
            return Ok(Outcome::Kept { before, because });
        }
        if checks_usage {
            // The permit is kept until a usage scan is recent enough.
            let Some(usage) = self.subscribe(arn, Purpose::Deregister) else {
                permit.keep(key);
                return Err(Stop::Now(Progress::Verifying));
            };
            if must_wait(self.spec(), recorded, &usage, self.now) {
                return Ok(Outcome::MustWait { before: Some(before), usage });
            }
        }
        let is_stale = self.spec().keep_latest.is_some() && !self.is_counted_recently(arn);
        applying.delay.get_or_insert_with(|| self.context.shutdown.delay());
        if is_stale || !(self.context.is_active)() {
            return Err(Stop::Now(Progress::Made));
        }
        permit.spend();
        Ok(self.deregister(before, deregistration, &mut applying.newest).await)
    }

    /// Reads the resource uncached. Stops the batch if its spec has changed: the next reconcile
    /// uses the new spec.
    async fn check_unchanged(&self) -> Result<TaskDefinitionRetirement, Stop> {
        let live = self.context.shutdown.abandon(read(self.api, self.resource)).await;
        let live = live.ok_or(Stop::Now(Progress::Made))?.map_err(Stop::Kubernetes)?;
        let generation = self.resource.metadata.generation;
        live.filter(|live| live.metadata.generation == generation).ok_or(Stop::Now(Progress::Made))
    }

    /// Returns why the policy that controls the resource keeps its revisions now, by an uncached
    /// read. `None` if it does not, or if no policy controls the resource.
    async fn kept_by_policy(&self, live: &TaskDefinitionRetirement) -> Result<Option<String>, Stop> {
        let read = policy_guard::kept_by(live, &self.context.client);
        let kept = self.context.shutdown.abandon(read).await.ok_or(Stop::Now(Progress::Made))?;
        kept.map_err(Stop::Kubernetes)
    }

    fn kept_because(&self, newer: u32) -> String {
        format!(
            "kept: its family has {newer} newer ACTIVE revisions, and spec.keepLatest is {}",
            self.spec().keep_latest.unwrap_or_default()
        )
    }

    /// Reads the EcsAccount uncached. Stops the batch if it has changed, or if there is one now for
    /// the account of the ambient credentials: the next reconcile uses it.
    async fn check_allowed(&self, arn: &Arn) -> Result<(), Stop> {
        let Context { accounts, client, shutdown, .. } = self.context;
        let Some(account) = self.admitted.account() else {
            let is_managed = accounts.is_managed(arn.account());
            return (!is_managed).then_some(()).ok_or(Stop::Now(Progress::Locked));
        };
        let namespace = &self.waiter.key.namespace;
        let (subject, family) = (self.admitted.subject(namespace), arn.revision().family());
        let check = is_still_allowed((accounts, client), account, &subject, family);
        let is_allowed = shutdown.abandon(check).await.ok_or(Stop::Now(Progress::Made))?;
        // The cache may not have the change yet.
        is_allowed.map_err(Stop::Kubernetes)?.then_some(()).ok_or(Stop::Now(Progress::Locked))
    }

    async fn deregister(
        &self,
        before: Description,
        deregistration: &Deregistration,
        newest: &mut NewestByFamily,
    ) -> Outcome {
        let (session, arn) = (self.session(), deregistration.arn());
        let reply = session.ecs.deregister(deregistration).await;
        if is_throttled(&reply.response) {
            session.limits().deregistrations.throttled();
        }
        if reply.response.is_ok() {
            session.usage.invalidate(&self.waiter.key, arn);
        }
        let after = if reply.needs_description() {
            let described = async {
                match self.describe_unqueued(arn).await {
                    Err(absent) if reply.response.is_err() && absent.kind == FailureKind::Absent => {
                        self.missing(arn, absent, newest).await
                    }
                    described => described,
                }
            };
            self.context.shutdown.abandon(described).await
        } else {
            None
        };
        Outcome::Deregistered { before, reply, after }
    }
}

#[cfg(test)]
mod tests;
