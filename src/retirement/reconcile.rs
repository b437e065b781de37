//! Reconciles one `TaskDefinitionRetirement`: the order of all steps.

use std::{pin::pin, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use tokio::{sync::SemaphorePermit, time::timeout};

use crate::{
    account::authorize::Refused,
    api::{Reason, TaskDefinitionRetirement},
    aws::{identity::Identity, rate_limiter::ResourceKey, response::Failure, session::VerifiedSession},
    controller::{Error, guarded::Guarded},
    retirement::{
        account_guard::AccountGuard,
        admission::{self, Admission, Admitted},
        apply::apply,
        batch::{Batch, BatchResult, NewestLists},
        context::{Context, key, read},
        observe::observe,
        plan::Plan,
        requeue::{self, Progress},
        resolve::{self, Entry},
        status::{Findings, Report},
        status_writer::{self, Record},
        trigger::Trigger,
    },
};

/// How long the first status of a resource waits for the identity of the credentials.
const FIRST_STATUS: Duration = Duration::from_millis(100);

/// How long a reconcile waits for an AWS concurrency permit before the resource is requeued.
/// Permits are returned within this time while AWS responds normally.
const CONCURRENCY_PERMIT_WAIT: Duration = Duration::from_millis(50);

/// Requeue delay while the EcsAccounts are being listed after a start.
const ACCOUNTS_DELAY: Duration = Duration::from_millis(200);

/// Reconciles one resource. Returns the requeue delay, or `None` to wait for a change of the
/// resource.
///
/// # Guarantees
/// - A revision is deregistered only if the resource declares it. The resource is read uncached
///   right before, and must have the same uid and generation, and be neither deleted nor suspended.
///   So is its EcsAccount, which must allow it.
/// - Responses of ECS are written to the status, and kept in memory until the write succeeds.
/// - A resource that is final causes no call to AWS or to Kubernetes.
/// - A process that may not act does nothing.
///
/// # Errors
/// Returns [`Error::ReadResource`] or [`Error::PatchStatus`] if a call to the API server fails.
pub async fn reconcile(
    object: Arc<Guarded<TaskDefinitionRetirement>>,
    context: Arc<Context>,
) -> Result<Option<Duration>, Error> {
    let next = match &object.0 {
        _ if !(context.is_active)() => Ok(None),
        Ok(cached) if requeue::work_is_due(cached) => Box::pin(reconcile_due(cached, &context)).await,
        Ok(_) => Ok(None),
        Err(metadata) => status_writer::report_unreadable(metadata, &context).await,
    };
    // A resource without another reconcile waits for nothing.
    if matches!(next, Ok(None)) {
        context.waiters.remove(&key(object.as_ref()));
    }
    next
}

async fn reconcile_due(
    cached: &TaskDefinitionRetirement,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    if let Some(delay) = admission::delay(cached, context) {
        return Ok(Some(delay));
    }
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let live = match read(&api, cached).await? {
        Some(live) if requeue::work_is_due(&live) => live,
        Some(_) => return Ok(None),
        None => {
            context.forget(cached);
            return Ok(None);
        }
    };
    // The same time is used for the whole reconcile, as the recorded cool-downs are checked against
    // it.
    let time = context.sources.time();
    let mut record = Record::open(api.clone(), live, context, time.map(|time| time.latest));
    let admitted = match admission::admit(record.resource(), context) {
        Ok(Admission::Admitted(admitted)) => *admitted,
        Ok(Admission::Pending) => return Ok(Some(ACCOUNTS_DELAY)),
        Ok(Admission::ServedByOther) => return Ok(None),
        Err(invalid) => {
            record.update(Report::Invalid(&invalid)).await?;
            return Ok(None);
        }
    };
    let now = time.map(|time| time.earliest);
    let mut reconciliation = Reconciliation { context, record, admitted, now };
    let Some((verified, _permit)) = reconciliation.verify().await? else {
        return Ok(Some(requeue::at_concurrency_limit(&cached.uid().unwrap_or_default())));
    };
    reconciliation.refuse_ambient(&verified);
    let result = reconciliation.process(&api, &verified).await;
    let next = reconciliation.report_and_requeue(&verified, &result).await?;
    result.end?;
    Ok(next)
}

/// The result of a verification. `NotNeeded` if the resource may use no credentials.
enum Verified {
    Session(Arc<VerifiedSession>),
    Failed(Failure),
    NotNeeded,
}

impl Verified {
    fn new(result: Result<Arc<VerifiedSession>, Failure>) -> Self {
        match result {
            Ok(session) => Self::Session(session),
            Err(failure) => Self::Failed(failure),
        }
    }

    fn identity(&self) -> Option<&Identity> {
        if let Self::Session(session) = self { Some(&session.identity) } else { None }
    }
}

/// The reconciliation of a resource with a valid spec.
struct Reconciliation<'a> {
    context: &'a Context,
    record: Record<'a>,
    admitted: Admitted,
    /// The earliest possible time by AWS's clock, or `None` while it is unknown.
    now: Option<Timestamp>,
}

impl<'a> Reconciliation<'a> {
    fn key(&self) -> ResourceKey {
        key(self.record.resource())
    }

    /// Verifies the identity of the credentials. The first status of a new or changed resource does
    /// not wait for AWS. Returns `None` if no concurrency permit is free.
    async fn verify(&mut self) -> Result<Option<(Verified, Option<SemaphorePermit<'a>>)>, Error> {
        let trigger = self.record.trigger();
        let session = self.admitted.session.clone();
        let is_new = trigger.is_none_or(Trigger::is_due) || self.resumes();
        let Some(session) = session else { return Ok(Some((Verified::NotNeeded, None))) };
        if trigger.is_some_and(|trigger| trigger.reconcile_requested) {
            session.shorten_backoff();
        }
        let (mut verifying, mut verified) = (pin!(session.verify()), None);
        if is_new {
            verified = timeout(FIRST_STATUS, &mut verifying).await.ok().map(Verified::new);
            if let Some(verified) = &verified {
                self.refuse_ambient(verified);
            }
            self.report(verified.as_ref(), &BatchResult::new(Progress::Made)).await?;
        }
        let acquired = timeout(CONCURRENCY_PERMIT_WAIT, self.context.aws_concurrency.acquire()).await;
        let permit = acquired.ok().and_then(Result::ok);
        let has_permit = || self.context.waiters.get(&self.key()).is_some_and(|waiter| waiter.has_permit());
        if permit.is_none() && !has_permit() {
            return Ok(None);
        }
        let verified = match verified {
            Some(verified) => verified,
            None => Verified::new(verifying.await),
        };
        Ok(Some((verified, permit)))
    }

    /// Returns true if a revision was suspended by an EcsAccount that is no longer suspended.
    fn resumes(&self) -> bool {
        let resource = self.record.resource();
        let rows = resource.status.iter().flat_map(|status| &status.revisions);
        self.admitted.spec.suspended.is_none()
            && rows.into_iter().any(|row| requeue::is_suspended_by_account(resource, row))
    }

    /// Refuses the ambient credentials if a served EcsAccount is for their AWS account: leaving
    /// `spec.accountRef` out must not lift its limits.
    fn refuse_ambient(&mut self, verified: &Verified) {
        let Some(identity) = verified.identity() else { return };
        let is_managed = || self.context.accounts.is_managed(&identity.account);
        // A wrong account is reported as such.
        let is_wrong = || self.guard().refusal(Some(identity)).is_some();
        if self.admitted.account().is_none() && !is_wrong() && is_managed() {
            let message = format!(
                "AWS account {} is managed by EcsAccounts: name an EcsAccount in spec.accountRef",
                identity.account
            );
            self.admitted.refused = Some(Refused { reason: Reason::NotAllowed, message });
        }
    }

    /// Records the account, then observes, plans and applies a batch.
    async fn process(&mut self, api: &Api<TaskDefinitionRetirement>, verified: &Verified) -> BatchResult {
        let session = match verified {
            Verified::Session(session) if self.admitted.refused.is_none() => session,
            _ => {
                self.context.waiters.remove(&self.key());
                let is_failed = matches!(verified, Verified::Failed(_));
                return BatchResult::new(if is_failed { Progress::Outage } else { Progress::Denied });
            }
        };
        // The account is recorded before anything is deregistered, so that short forms cannot
        // change their meaning.
        if self.guard().recorded.is_none()
            && let Err(error) = self.report(Some(verified), &BatchResult::new(Progress::Made)).await
        {
            return BatchResult { end: Err(error), ..BatchResult::new(Progress::Made) };
        }
        let (context, resource, now) = (self.context, self.record.resource(), self.now);
        let waiter = context.waiters.enter(&self.key(), session);
        session.usage.unsubscribe(&waiter.key);
        let entries = self.entries(Some(&session.identity));
        let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
        let admitted = &self.admitted;
        let newest_lists = NewestLists::default();
        let batch = Batch { context, api, resource, admitted, rows, waiter: &waiter, now, newest_lists };
        let observations = observe(&batch, &entries).await;
        let observed = observations.revisions.iter().cloned();
        let observed = observed.map(|(key, it)| (key.clone(), batch.row(&key), it));
        let plan = Plan::new(&admitted.spec, observed, now);
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
        Ok(resource.status.as_ref().and_then(|status| {
            requeue::requeue_delay(status, &result.watched, result.progress, position, &uid, now)
        }))
    }

    /// Summarizes what is known, and writes the status if it differs.
    async fn report(&mut self, verified: Option<&Verified>, result: &BatchResult) -> Result<(), Error> {
        let waiter = self.context.waiters.get(&self.key());
        let identity = verified.and_then(Verified::identity);
        let account = self.guard().account(identity).map(str::to_owned);
        let entries = self.entries(identity);
        let findings = Findings {
            spec: &self.admitted.spec,
            region: self.admitted.region.as_deref(),
            account: account.as_deref(),
            entries: &entries,
            identity_failure: match verified {
                Some(Verified::Failed(failure)) => Some(failure),
                _ => None,
            },
            outcomes: &result.outcomes,
            position: waiter.and_then(|waiter| waiter.queue_positions().0),
            scanned_at: result.scanned_at,
        };
        self.record.update(Report::Valid(findings)).await
    }

    fn entries(&self, identity: Option<&Identity>) -> Vec<Entry> {
        let Admitted { spec, refused, region, .. } = &self.admitted;
        let namespace = self.record.resource().namespace().unwrap_or_default();
        let refuse_family = |family: &str| self.admitted.refuse_family(&namespace, family);
        resolve::entries(spec, identity, &self.guard(), region.as_deref(), refused.as_ref(), refuse_family)
    }

    /// Returns the limits on the AWS account of the resource.
    fn guard(&self) -> AccountGuard<'_> {
        let status = self.record.resource().status.as_ref();
        AccountGuard {
            declared: self.admitted.spec.account_id.as_deref(),
            recorded: status.and_then(|status| status.account.as_deref()),
            account: self.admitted.account(),
            allowed: &self.context.allowed_accounts,
        }
    }
}

#[cfg(test)]
mod tests;
