//! Reconciles one `TaskDefinitionRetirement`: the order of all steps.

use std::{pin::pin, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use crate::{
    api::{Reason, TaskDefinitionRetirement},
    aws::{
        rate_limiter::ResourceKey,
        response::Failure,
        session::{Session, VerifiedSession},
        source::Source,
    },
    retirement::{
        account_guard::AccountGuard,
        apply::apply,
        batch::{Batch, BatchResult},
        context::{Context, Error, key, read},
        guarded::Guarded,
        observe::observe,
        plan::Plan,
        requeue::{self, Progress},
        resolve,
        status::{Findings, Report},
        status_writer::{self, Record},
        trigger::Trigger,
        validate::{InvalidSpec, ValidatedSpec, validate},
    },
};

/// How long the first status of a resource waits for the identity of the credentials.
const FIRST_STATUS: Duration = Duration::from_millis(100);

/// How long a reconcile waits for an AWS concurrency permit before the resource is requeued.
/// Permits are returned within this time while AWS responds normally.
const CONCURRENCY_PERMIT_WAIT: Duration = Duration::from_millis(50);

/// Reconciles one resource. Returns the requeue delay, or `None` to wait for a change of the
/// resource.
///
/// # Guarantees
/// - A revision is deregistered only if the resource declares it. The resource is read uncached
///   right before, and must have the same uid and generation, and be neither deleted nor suspended.
/// - Responses of ECS are written to the status, and kept in memory until the write succeeds.
/// - A resource that is final causes no call to AWS or to Kubernetes.
/// - A process that may not act does nothing.
///
/// # Errors
/// Returns [`Error::ReadResource`] or [`Error::PatchStatus`] if a call to the API server fails.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
    if !(context.is_active)() {
        return Ok(None);
    }
    match &object.0 {
        Ok(cached) if requeue::work_is_due(cached) => Box::pin(reconcile_due(cached, &context)).await,
        Ok(finished) => {
            context.waiters.remove(&key(finished));
            Ok(None)
        }
        Err(metadata) => status_writer::report_unreadable(metadata, &context).await,
    }
}

/// Returns the requeue delay after `error`. Only the Kubernetes call is repeated: the responses of
/// ECS are kept in memory.
#[must_use]
pub fn retry_after(error: &Error, uid: &str) -> Duration {
    match error {
        // The resource was changed by another client meanwhile.
        Error::PatchStatus(kube::Error::Api(status)) if status.is_conflict() => requeue::after_conflict(uid),
        Error::ReadResource(_) | Error::PatchStatus(_) => requeue::after_error(uid),
    }
}

async fn reconcile_due(
    cached: &TaskDefinitionRetirement,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let source = context.sources.ambient();
    if let Some(delay) = delay_before_reading(cached, source, context) {
        return Ok(Some(delay));
    }
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let live = match read(&api, cached).await? {
        Some(live) if requeue::work_is_due(&live) => live,
        Some(_) => {
            context.waiters.remove(&key(cached));
            return Ok(None);
        }
        None => {
            context.forget(cached);
            return Ok(None);
        }
    };
    // The same time is used for the whole reconcile, as the recorded cool-downs are checked against
    // it.
    let now = context.sources.time();
    let mut record = Record::open(api.clone(), live, context, now);
    let (spec, region) = match validated(record.resource(), source) {
        Ok(valid) => valid,
        Err(invalid) => {
            context.waiters.remove(&key(cached));
            record.update(Report::Invalid(&invalid)).await?;
            return Ok(None);
        }
    };
    let session = source.session(&region);
    let mut reconciliation = Reconciliation { context, record, spec, region, now };
    let Some((verified, _permit)) = reconciliation.verify(&session).await? else {
        return Ok(Some(requeue::at_concurrency_limit(&cached.uid().unwrap_or_default())));
    };
    let result = if let Ok(session) = &verified {
        reconciliation.process(&api, session).await
    } else {
        context.waiters.remove(&key(cached));
        BatchResult::new(Progress::Outage)
    };
    let next = reconciliation.report_and_requeue(&verified, &result).await?;
    result.end?;
    Ok(next)
}

/// Returns the requeue delay of a resource for which nothing can be done now, and whose status says
/// so already.
fn delay_before_reading(
    cached: &TaskDefinitionRetirement,
    source: &Source,
    context: &Context,
) -> Option<Duration> {
    let status = cached.status.as_ref()?;
    if status.conditions.is_empty() || Trigger::of(cached, status).is_due() {
        return None;
    }
    let uid = cached.uid().unwrap_or_default();
    let is_reported = || status.revisions.iter().any(|row| row.reason == Reason::Unavailable);
    if status.region.as_ref().is_some_and(|region| source.session(region).is_open()) && is_reported() {
        return Some(requeue::after_outage(&uid));
    }
    // A resource with a permit to deregister is not delayed.
    let has_permit = || context.waiters.get(&key(cached)).is_some_and(|waiter| waiter.has_permit());
    let is_at_limit = context.aws_concurrency.available_permits() == 0 && !has_permit();
    is_at_limit.then(|| requeue::at_concurrency_limit(&uid))
}

/// Returns the spec and the region of a resource.
fn validated(
    resource: &TaskDefinitionRetirement,
    source: &Source,
) -> Result<(ValidatedSpec, String), InvalidSpec> {
    let spec = validate(&resource.spec)?;
    let region = resolve::region(&spec, resource.status.as_ref(), source.default_region())?;
    Ok((spec, region))
}

type Verified = Result<Arc<VerifiedSession>, Failure>;

/// The reconciliation of a resource with a valid spec.
struct Reconciliation<'a> {
    context: &'a Context,
    record: Record<'a>,
    spec: ValidatedSpec,
    region: String,
    /// The time by AWS's clock, or `None` while it is unknown.
    now: Option<Timestamp>,
}

impl<'a> Reconciliation<'a> {
    fn key(&self) -> ResourceKey {
        key(self.record.resource())
    }

    /// Verifies the identity of the credentials. The first status of a new or changed resource does
    /// not wait for AWS. Returns `None` if no concurrency permit is free.
    async fn verify(&mut self, session: &Session) -> Result<Option<(Verified, impl Sized + use<'a>)>, Error> {
        let trigger = self.record.trigger();
        if trigger.is_some_and(|trigger| trigger.reconcile_requested) {
            session.shorten_backoff();
        }
        let (mut verifying, mut verified) = (pin!(session.verify()), None);
        if trigger.is_none_or(Trigger::is_due) {
            verified = timeout(FIRST_STATUS, &mut verifying).await.ok();
            self.report(verified.as_ref(), &BatchResult::new(Progress::Made)).await?;
        }
        let permit = timeout(CONCURRENCY_PERMIT_WAIT, self.context.aws_concurrency.acquire()).await;
        let has_permit = || self.context.waiters.get(&self.key()).is_some_and(|waiter| waiter.has_permit());
        if permit.is_err() && !has_permit() {
            return Ok(None);
        }
        let verified = match verified {
            Some(verified) => verified,
            None => verifying.await,
        };
        // The account is recorded before anything is deregistered, so that short forms cannot change
        // their meaning.
        if verified.is_ok() && self.guard().recorded.is_none() {
            self.report(Some(&verified), &BatchResult::new(Progress::Made)).await?;
        }
        Ok(Some((verified, permit)))
    }

    /// Observes, plans and applies a batch.
    async fn process(
        &self,
        api: &Api<TaskDefinitionRetirement>,
        session: &Arc<VerifiedSession>,
    ) -> BatchResult {
        let (context, resource, spec, now) = (self.context, self.record.resource(), &self.spec, self.now);
        let entries = resolve::entries(spec, Some(&session.identity), &self.guard());
        let waiter = context.waiters.enter(&self.key(), session);
        session.usage.unsubscribe(&waiter.key);
        let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
        let batch = Batch { context, api, resource, spec, rows, waiter: &waiter, now };
        let observations = observe(&batch, &entries).await;
        let observed = observations.revisions.iter().cloned();
        let plan = Plan::new(spec, observed.map(|(key, it)| (key.clone(), batch.row(&key), it)), now);
        tracing::debug!(%plan);
        let result = apply(&batch, plan, &observations).await;
        if !matches!(result.progress, Progress::Queued | Progress::Verifying) {
            waiter.leave_queues();
        }
        result
    }

    /// Writes the status of a complete reconcile. Returns the requeue delay.
    async fn report_and_requeue(
        &mut self,
        verified: &Verified,
        result: &BatchResult,
    ) -> Result<Option<Duration>, Error> {
        self.report(Some(verified), result).await?;
        let key = self.key();
        let resource = self.record.resource();
        let (uid, now) = (resource.uid().unwrap_or_default(), (self.context.clock)());
        let positions = self.context.waiters.get(&key).map(|waiter| waiter.queue_positions());
        let position = positions.and_then(|(deregistration, read)| deregistration.or(read));
        let next = resource.status.as_ref().and_then(|status| {
            requeue::requeue_delay(status, &result.watched, result.progress, position, &uid, now)
        });
        if next.is_none() {
            self.context.waiters.remove(&key);
        }
        Ok(next)
    }

    /// Summarizes what is known, and writes the status if it differs.
    async fn report(&mut self, verified: Option<&Verified>, result: &BatchResult) -> Result<(), Error> {
        let waiter = self.context.waiters.get(&self.key());
        let identity = verified.and_then(|it| it.as_ref().ok()).map(|session| &session.identity);
        let guard = self.guard();
        let account = guard.account(identity).map(str::to_owned);
        let entries = resolve::entries(&self.spec, identity, &guard);
        let findings = Findings {
            spec: &self.spec,
            region: Some(&self.region),
            account: account.as_deref(),
            entries: &entries,
            identity_failure: verified.and_then(|it| it.as_ref().err()),
            outcomes: &result.outcomes,
            position: waiter.and_then(|waiter| waiter.queue_positions().0),
            scanned_at: result.scanned_at,
        };
        self.record.update(Report::Valid(findings)).await
    }

    /// Returns the limits on the AWS account of the resource.
    fn guard(&self) -> AccountGuard<'_> {
        AccountGuard::new(&self.spec, self.record.resource().status.as_ref(), &self.context.allowed_accounts)
    }
}

#[cfg(test)]
mod tests;
