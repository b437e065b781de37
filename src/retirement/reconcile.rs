//! Reconciles one `TaskDefinitionRetirement`: reads it uncached, acts at ECS, writes the status,
//! and returns the requeue delay. Owns the clients (I/O).

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use kube::{Api, Client, ResourceExt};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    api::{Reason, TaskDefinitionRetirement},
    aws::session::Account,
    aws::{rate_limiter::ResourceKey, usage_cache::IsActive},
    clock::Clock,
    in_flight,
    retirement::{
        apply::{BatchResult, act},
        events,
        guarded::Guarded,
        pending_status::PendingStatus,
        requeue::{self, Progress},
        resolve,
        revision_locks::RevisionLocks,
        status::{Caller, Observation, Trigger, summarize},
        status_writer::{self, Record},
    },
    shutdown::Shutdown,
};

/// How long the first status of a resource waits for the identity of the credentials.
const FIRST_STATUS: Duration = Duration::from_millis(100);

/// How long a reconcile waits for an AWS concurrency permit before the resource is requeued.
/// Permits are returned within this time while AWS responds normally.
const CONCURRENCY_PERMIT_WAIT: Duration = Duration::from_millis(50);

/// State shared by all reconciles.
pub struct Context {
    pub client: Client,
    pub account: Account,
    /// The AWS accounts whose credentials may be used; every account is allowed if empty.
    pub allowed_accounts: BTreeSet<String>,
    pub claims: RevisionLocks,
    pub pending_status: PendingStatus,
    pub recent_events: events::Recent,
    /// The name of this process in events, such as the name of its pod.
    pub instance: String,
    /// Returns true while this process may act: it is the leader and was not asked to shut down.
    pub is_active: IsActive,
    pub clock: Clock,
    pub shutdown: Shutdown,
    /// Limits how many reconciles call AWS concurrently. There are fewer permits than workers, so
    /// that a slow AWS does not delay the first status of a resource.
    pub slots: Semaphore,
}

impl Context {
    /// Removes what is kept in memory for a deleted resource.
    pub fn forget(&self, resource: &impl ResourceExt) {
        self.account.leave(&key(resource));
        self.pending_status.forget(&resource.uid().unwrap_or_default());
    }
}

/// A failed Kubernetes call. Failures of AWS calls are outcomes, not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource")]
    ReadResource(#[source] kube::Error),
    #[error("cannot write the status")]
    PatchStatus(#[source] kube::Error),
}

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
            context.account.leave(&key(finished));
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
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let uid = cached.uid().unwrap_or_default();
    if is_region_unavailable(cached, context) {
        return Ok(Some(requeue::after_outage(&uid)));
    }
    if is_at_concurrency_limit(cached, context) {
        return Ok(Some(requeue::at_concurrency_limit(&uid)));
    }
    let live = match read(&api, cached).await? {
        Some(live) if requeue::work_is_due(&live) => live,
        Some(_) => {
            context.account.leave(&key(cached));
            return Ok(None);
        }
        None => {
            context.forget(cached);
            return Ok(None);
        }
    };
    // The same time is used for the whole reconcile, as the recorded cool-downs are checked against
    // it.
    let now = context.account.time();
    let mut record = Record::open(api.clone(), live, context, now);
    let spec = record.resource().spec.clone();
    let recorded = record.resource().status.as_ref();
    let region = match resolve::region(&spec, recorded, context.account.default_region()) {
        Ok(region) => region,
        Err(invalid) => {
            let status = summarize(record.resource(), Observation::Invalid(&invalid), (context.clock)());
            record.write(status, &BTreeMap::new()).await?;
            context.account.leave(&key(cached));
            return Ok(None);
        }
    };

    let session = context.account.session(&region);
    session.usage.leave(&key(cached));
    if recorded.is_some_and(|it| Trigger::of(record.resource(), it).reconcile_requested) {
        session.shorten_backoff();
    }
    let without_outcomes = |record: &Record, caller: Caller<'_>| {
        let identity = if let Caller::Known(identity) = caller { Some(identity) } else { None };
        let guard = record.account_guard();
        let entries = resolve::entries(&spec, identity, &guard);
        let (account, outcomes) = (guard.account(identity), &BTreeMap::new());
        let (region, entries) = (region.as_str(), entries.as_slice());
        let (position, scanned_at) = (None, None);
        let observation =
            Observation::Valid { region, account, entries, caller, outcomes, position, scanned_at };
        summarize(record.resource(), observation, (context.clock)())
    };
    let mut identity = pin!(session.identity());
    let mut known = None;
    if recorded.is_none_or(|it| it.conditions.is_empty() || Trigger::of(record.resource(), it).is_due()) {
        known = timeout(FIRST_STATUS, &mut identity).await.ok();
        let status = without_outcomes(&record, known.as_ref().map_or(Caller::NotRequested, Caller::of));
        record.write(status, &BTreeMap::new()).await?;
    }
    let permit = timeout(CONCURRENCY_PERMIT_WAIT, context.slots.acquire()).await;
    if permit.is_err() && !session.deregistrations.has_permit(&key(cached)) {
        return Ok(Some(requeue::at_concurrency_limit(&uid)));
    }
    let identity = match known {
        Some(known) => known,
        None => identity.await,
    };
    // The account is recorded before anything is deregistered, so that short forms cannot change
    // their meaning.
    if identity.is_ok() && record.account_guard().recorded.is_none() {
        let status = without_outcomes(&record, Caller::of(&identity));
        record.write(status, &BTreeMap::new()).await?;
    }

    let known = identity.as_ref().ok();
    let entries = resolve::entries(&spec, known, &record.account_guard());
    let (caller, result) = match &identity {
        Ok(_) => (Caller::of(&identity), act(&api, &record, &entries, &session, (context, now)).await),
        Err(_) => (Caller::of(&identity), BatchResult::outage()),
    };
    if !matches!(result.progress, Progress::Queued | Progress::Verifying) {
        session.leave(&key(cached));
    }
    let position = session.deregistrations.place(&key(cached));
    let queue_pos = position.or_else(|| session.reads.place(&key(cached)));
    let outcomes = &result.outcomes;
    let (region, entries) = (region.as_str(), entries.as_slice());
    let (account, scanned_at) = (record.account_guard().account(known), result.scanned_at);
    let observation = Observation::Valid { region, account, entries, caller, outcomes, position, scanned_at };
    let status = summarize(record.resource(), observation, (context.clock)());
    let next =
        requeue::requeue_delay(&status, &result.watched, result.progress, queue_pos, &uid, (context.clock)());
    // Unsubscribe from usage scans if nothing is left to wait for.
    if next.is_none() {
        session.usage.leave(&key(cached));
    }
    record.write(status, outcomes).await?;
    result.end?;
    Ok(next)
}

/// Returns true if the circuit breaker of the region is open and the status already reports it.
fn is_region_unavailable(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let is_reported = status.revisions.iter().any(|row| row.reason == Reason::Unavailable);
    let region = status.region.as_ref().filter(|_| is_reported && !Trigger::of(cached, status).is_due());
    region.is_some_and(|region| context.account.session(region).is_open())
}

/// Returns true if no AWS concurrency permit is free. Resources without a current status and
/// resources with a rate limit permit are not delayed.
fn is_at_concurrency_limit(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let is_current = !status.conditions.is_empty() && !Trigger::of(cached, status).is_due();
    let has_permit =
        |region: &String| context.account.session(region).deregistrations.has_permit(&key(cached));
    is_current && context.slots.available_permits() == 0 && !status.region.as_ref().is_some_and(has_permit)
}

/// Returns the key of a resource in the rate limiters and the usage cache.
#[must_use]
pub fn key(resource: &impl ResourceExt) -> ResourceKey {
    ResourceKey { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
}

/// Reads the resource uncached. Returns `None` if it does not exist, is being deleted, or was
/// recreated under the same name.
pub(super) async fn read(
    api: &Api<TaskDefinitionRetirement>,
    known: &TaskDefinitionRetirement,
) -> Result<Option<TaskDefinitionRetirement>, Error> {
    let name = known.name_any();
    let live =
        in_flight::kubernetes("get resource", api.get_opt(&name)).await.map_err(Error::ReadResource)?;
    Ok(live.filter(|live| live.uid() == known.uid() && live.metadata.deletion_timestamp.is_none()))
}

#[cfg(test)]
mod tests;
