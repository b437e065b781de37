//! The shell of a retirement: one pass over one resource, from the watch to the next look. Has the clients.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use kube::{Api, Client, ResourceExt};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    account::session::Account,
    api::{Reason, TaskDefinitionRetirement},
    calls,
    clock::Clock,
    ecs::{turns::Holder, view::MayAct},
    retirement::{
        act::{Slice, act},
        claims::Claims,
        declaration,
        guarded::Guarded,
        record::{self, Record},
        retry::{self, Progress},
        status::{Caller, Finding, Renewal, summarize},
        unwritten::Unwritten,
    },
};

/// How long the first status of a resource waits for AWS to say whose credentials these are.
const FIRST_STATUS: Duration = Duration::from_millis(100);

/// How long a pass waits for a slot: as long as it takes while AWS is quick.
const SLOT_WAIT: Duration = Duration::from_millis(50);

/// What all passes share.
pub struct Context {
    pub client: Client,
    pub account: Account,
    pub claims: Claims,
    pub unwritten: Unwritten,
    /// The name of this process in events, such as its pod's.
    pub instance: String,
    /// Whether this process may act at this very moment: it leads, and has not been told to stop.
    pub may_act: MayAct,
    pub clock: Clock,
    /// How many passes may be at work at AWS at once: fewer than there are workers, so that a slow AWS keeps no resource from its
    /// first status.
    pub slots: Semaphore,
}

impl Context {
    /// Forgets a resource that is gone.
    pub fn forget(&self, resource: &impl ResourceExt) {
        self.account.leave(&holder(resource));
        self.unwritten.forget(&resource.uid().unwrap_or_default());
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
    if !(context.may_act)() {
        return Ok(None);
    }
    match &object.0 {
        Ok(cached) if retry::work_is_due(cached) => Box::pin(pass(cached, &context)).await,
        Ok(settled) => {
            context.account.leave(&holder(settled));
            Ok(None)
        }
        Err(metadata) => record::report_unreadable(metadata, &context).await,
    }
}

/// How long to leave a resource alone after `error`: Kubernetes is asked again soon, and whatever ECS answered is not asked again.
#[must_use]
pub fn retry_after(error: &Error, uid: &str) -> Duration {
    match error {
        // Somebody else has changed the resource meanwhile.
        Error::PatchStatus(kube::Error::Api(status)) if status.is_conflict() => retry::after_conflict(uid),
        Error::ReadResource(_) | Error::PatchStatus(_) => retry::after_error(uid),
    }
}

async fn pass(cached: &TaskDefinitionRetirement, context: &Context) -> Result<Option<Duration>, Error> {
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let uid = cached.uid().unwrap_or_default();
    if is_out_of_reach(cached, context) {
        return Ok(Some(retry::after_outage(&uid)));
    }
    if has_no_slot(cached, context) {
        return Ok(Some(retry::without_slot(&uid)));
    }
    let live = match read(&api, cached).await? {
        Some(live) if retry::work_is_due(&live) => live,
        Some(_) => {
            context.account.leave(&holder(cached));
            return Ok(None);
        }
        None => {
            context.forget(cached);
            return Ok(None);
        }
    };
    let mut record = Record::open(api.clone(), live, context);
    let account = |record: &Record| record.resource().status.as_ref().and_then(|it| it.account.clone());

    let spec = record.resource().spec.clone();
    let recorded = record.resource().status.as_ref();
    let region = match declaration::region(&spec, recorded, context.account.default_region()) {
        Ok(region) => region,
        Err(invalid) => {
            let status = summarize(record.resource(), Finding::Invalid(&invalid), (context.clock)());
            record.write(status, &BTreeMap::new()).await?;
            context.account.leave(&holder(cached));
            return Ok(None);
        }
    };

    let session = context.account.session(&region);
    session.usage.leave(&holder(cached));
    if recorded.is_some_and(|it| Renewal::of(record.resource(), it).look_requested) {
        session.shorten_backoff();
    }
    let tell = |record: &Record, caller: Caller<'_>| {
        let identity = if let Caller::Known(identity) = caller { Some(identity) } else { None };
        let entries = declaration::entries(&spec, identity, account(record).as_deref());
        let outcomes = &BTreeMap::new();
        let finding = Finding::Valid { region: &region, entries: &entries, caller, outcomes, place: None };
        summarize(record.resource(), finding, (context.clock)())
    };
    let mut identity = pin!(session.identity());
    let mut known = None;
    if recorded.is_none_or(|it| it.conditions.is_empty() || Renewal::of(record.resource(), it).is_due()) {
        known = timeout(FIRST_STATUS, &mut identity).await.ok();
        let status = tell(&record, known.as_ref().map_or(Caller::NotAskedYet, Caller::of));
        record.write(status, &BTreeMap::new()).await?;
    }
    let slot = timeout(SLOT_WAIT, context.slots.acquire()).await;
    if slot.is_err() && !session.turns.is_called(&holder(cached)) {
        return Ok(Some(retry::without_slot(&uid)));
    }
    let identity = match known {
        Some(known) => known,
        None => identity.await,
    };
    // What short forms mean is on record before anything is done about it.
    if identity.is_ok() && account(&record).is_none() {
        let status = tell(&record, Caller::of(&identity));
        record.write(status, &BTreeMap::new()).await?;
    }

    let entries = declaration::entries(&spec, identity.as_ref().ok(), account(&record).as_deref());
    let (caller, slice) = match &identity {
        Ok(_) => (Caller::of(&identity), act(&api, &record, &entries, &session, context).await),
        Err(_) => (Caller::of(&identity), Slice::outage()),
    };
    if slice.progress != Progress::Queued {
        session.leave(&holder(cached));
    }
    let place = session.turns.place(&holder(cached));
    let in_line = place.or_else(|| session.looks.place(&holder(cached)));
    let outcomes = &slice.outcomes;
    let finding = Finding::Valid { region: &region, entries: &entries, caller, outcomes, place };
    let status = summarize(record.resource(), finding, (context.clock)());
    let next =
        retry::next_look(&spec, &status, &slice.watched, slice.progress, in_line, &uid, (context.clock)());
    // Who has nothing to wait for keeps no scan going.
    if next.is_none() {
        session.usage.leave(&holder(cached));
    }
    record.write(status, outcomes).await?;
    slice.end?;
    Ok(next)
}

/// Whether a pass over a resource that has told so already could do nothing, since AWS does not answer in its region.
fn is_out_of_reach(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let has_told = status.revisions.iter().any(|row| row.reason == Reason::Unavailable);
    let region = status.region.as_ref().filter(|_| has_told && !Renewal::of(cached, status).is_due());
    region.is_some_and(|region| context.account.session(region).is_closed())
}

/// Whether all that a pass may do at AWS at once is being done for others. One that has told nobody anything yet is not held up,
/// nor is one whose turn it is.
fn has_no_slot(cached: &TaskDefinitionRetirement, context: &Context) -> bool {
    let Some(status) = &cached.status else { return false };
    let has_told = !status.conditions.is_empty() && !Renewal::of(cached, status).is_due();
    let is_called = |region: &String| context.account.session(region).turns.is_called(&holder(cached));
    has_told && context.slots.available_permits() == 0 && !status.region.as_ref().is_some_and(is_called)
}

/// A resource, as those know it who wait for a turn.
#[must_use]
pub fn holder(resource: &impl ResourceExt) -> Holder {
    Holder { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
}

/// Reads the resource uncached: `None` where it is gone, deleted, or another one of the same name.
pub(super) async fn read(
    api: &Api<TaskDefinitionRetirement>,
    known: &TaskDefinitionRetirement,
) -> Result<Option<TaskDefinitionRetirement>, Error> {
    let name = known.name_any();
    let live = calls::kubernetes("get resource", api.get_opt(&name)).await.map_err(Error::ReadResource)?;
    Ok(live.filter(|live| live.uid() == known.uid() && live.metadata.deletion_timestamp.is_none()))
}

#[cfg(test)]
mod tests;
