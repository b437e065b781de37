//! The shell of a retirement: one pass over one resource, from the watch to the next look. Has the clients.

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

/// How long the first status of a resource waits for AWS to say whose credentials these are.
const FIRST_STATUS: Duration = Duration::from_millis(100);

/// How long a pass waits for a slot: as long as it takes while AWS is quick.
const SLOT_WAIT: Duration = Duration::from_millis(50);

/// What all passes share.
pub struct Context {
    pub client: Client,
    pub account: Account,
    /// The AWS accounts whose credentials may be used; all of them if empty.
    pub allowed_accounts: BTreeSet<String>,
    pub claims: RevisionLocks,
    pub pending_status: PendingStatus,
    pub recent_events: events::Recent,
    /// The name of this process in events, such as its pod's.
    pub instance: String,
    /// Whether this process may act at this very moment: it leads, and has not been told to stop.
    pub is_active: IsActive,
    pub clock: Clock,
    pub shutdown: Shutdown,
    /// How many passes may be at work at AWS at once: fewer than there are workers, so that a slow AWS must_wait no resource from its
    /// first status.
    pub slots: Semaphore,
}

impl Context {
    /// Forgets a resource that is gone.
    pub fn forget(&self, resource: &impl ResourceExt) {
        self.account.leave(&key(resource));
        self.pending_status.forget(&resource.uid().unwrap_or_default());
    }
}

/// Why a pass could not do its part in Kubernetes. What AWS answers is never an error: it is an outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource")]
    ReadResource(#[source] kube::Error),
    #[error("cannot write the status")]
    PatchStatus(#[source] kube::Error),
}

/// One pass over one resource. Gives how long to leave it alone then; `None` until it changes.
///
/// # Guarantees
/// - Nothing is deregistered that the resource, read uncached right before, does not declare with the same
///   uid and generation, neither deleted nor suspended.
/// - What ECS answered is written to the status, or kept in memory until it is.
/// - A settled resource costs no call, to AWS or to Kubernetes.
/// - A process that may not act does nothing at all.
///
/// # Errors
/// Where Kubernetes does not take or give the resource; nothing else ends a pass.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
    if !(context.is_active)() {
        return Ok(None);
    }
    match &object.0 {
        Ok(cached) if requeue::work_is_due(cached) => Box::pin(pass(cached, &context)).await,
        Ok(settled) => {
            context.account.leave(&key(settled));
            Ok(None)
        }
        Err(metadata) => status_writer::report_unreadable(metadata, &context).await,
    }
}

/// How long to leave a resource alone after `error`: Kubernetes is asked again soon, and whatever ECS answered is not asked again.
#[must_use]
pub fn retry_after(error: &Error, uid: &str) -> Duration {
    match error {
        // Somebody else has changed the resource meanwhile.
        Error::PatchStatus(kube::Error::Api(status)) if status.is_conflict() => requeue::after_conflict(uid),
        Error::ReadResource(_) | Error::PatchStatus(_) => requeue::after_error(uid),
    }
}

async fn pass(cached: &TaskDefinitionRetirement, context: &Context) -> Result<Option<Duration>, Error> {
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let uid = cached.uid().unwrap_or_default();
    if is_region_unavailable(cached, context) {
        return Ok(Some(requeue::after_outage(&uid)));
    }
    if is_at_concurrency_limit(cached, context) {
        return Ok(Some(requeue::without_slot(&uid)));
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
    // One time for the whole reconcile: what it decides rests on what was checked against it here.
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
    let tell = |record: &Record, caller: Caller<'_>| {
        let identity = if let Caller::Known(identity) = caller { Some(identity) } else { None };
        let guard = record.account_guard();
        let entries = resolve::entries(&spec, identity, &guard);
        let (account, outcomes) = (guard.account(identity), &BTreeMap::new());
        let (region, entries) = (region.as_str(), entries.as_slice());
        let (place, scanned_at) = (None, None);
        let finding = Observation::Valid { region, account, entries, caller, outcomes, place, scanned_at };
        summarize(record.resource(), finding, (context.clock)())
    };
    let mut identity = pin!(session.identity());
    let mut known = None;
    if recorded.is_none_or(|it| it.conditions.is_empty() || Trigger::of(record.resource(), it).is_due()) {
        known = timeout(FIRST_STATUS, &mut identity).await.ok();
        let status = tell(&record, known.as_ref().map_or(Caller::NotRequested, Caller::of));
        record.write(status, &BTreeMap::new()).await?;
    }
    let slot = timeout(SLOT_WAIT, context.slots.acquire()).await;
    if slot.is_err() && !session.deregistrations.has_permit(&key(cached)) {
        return Ok(Some(requeue::without_slot(&uid)));
    }
    let identity = match known {
        Some(known) => known,
        None => identity.await,
    };
    // What short forms mean is on record before anything is done about it.
    if identity.is_ok() && record.account_guard().recorded.is_none() {
        let status = tell(&record, Caller::of(&identity));
        record.write(status, &BTreeMap::new()).await?;
    }

    let known = identity.as_ref().ok();
    let entries = resolve::entries(&spec, known, &record.account_guard());
    let (caller, slice) = match &identity {
        Ok(_) => (Caller::of(&identity), act(&api, &record, &entries, &session, (context, now)).await),
        Err(_) => (Caller::of(&identity), BatchResult::outage()),
    };
    if !matches!(slice.progress, Progress::Queued | Progress::Verifying) {
        session.leave(&key(cached));
    }
    let place = session.deregistrations.place(&key(cached));
    let in_line = place.or_else(|| session.reads.place(&key(cached)));
    let outcomes = &slice.outcomes;
    let (region, entries) = (region.as_str(), entries.as_slice());
    let (account, scanned_at) = (record.account_guard().account(known), slice.scanned_at);
    let finding = Observation::Valid { region, account, entries, caller, outcomes, place, scanned_at };
    let status = summarize(record.resource(), finding, (context.clock)());
    let next =
        requeue::requeue_delay(&status, &slice.watched, slice.progress, in_line, &uid, (context.clock)());
    // Who has nothing to wait for must_wait no scan going.
    if next.is_none() {
        session.usage.leave(&key(cached));
    }
    record.write(status, outcomes).await?;
    slice.end?;
    Ok(next)
}

/// Whether a pass over a resource that has told so already could do nothing, since AWS does not answer in its region.
fn is_region_unavailable(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let has_told = status.revisions.iter().any(|row| row.reason == Reason::Unavailable);
    let region = status.region.as_ref().filter(|_| has_told && !Trigger::of(cached, status).is_due());
    region.is_some_and(|region| context.account.session(region).is_open())
}

/// Whether all that a pass may do at AWS at once is being done for others. One that has told nobody anything yet is not held up,
/// nor is one whose turn it is.
fn is_at_concurrency_limit(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let has_told = !status.conditions.is_empty() && !Trigger::of(cached, status).is_due();
    let has_permit =
        |region: &String| context.account.session(region).deregistrations.has_permit(&key(cached));
    has_told && context.slots.available_permits() == 0 && !status.region.as_ref().is_some_and(has_permit)
}

/// A resource, as those know it who wait for a turn.
#[must_use]
pub fn key(resource: &impl ResourceExt) -> ResourceKey {
    ResourceKey { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
}

/// Reads the resource uncached: `None` where it is gone, deleted, or another one of the same name.
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
