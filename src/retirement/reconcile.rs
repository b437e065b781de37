//! The shell of a retirement: one pass over one resource, from the watch to the next look. Has the clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};

use crate::{
    account::session::{Account, Session},
    api::{Reason, TaskDefinitionRetirement},
    calls,
    clock::Clock,
    ecs::{
        answer::{FailureKind, Outcome, Seen, Status},
        turns::Holder,
        view::MayAct,
    },
    retirement::{
        claims::Claims,
        declaration::{self, Entry, Target},
        plan::{Step, asks_who, is_retired, keeps, plan},
        record::{self, Record},
        retry::{self, Progress},
        row::{recorded_row, wants_a_look},
        status::{Caller, Finding, Renewal, summarize},
        unwritten::Unwritten,
    },
};

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
pub async fn reconcile(
    object: Arc<DeserializeGuard<TaskDefinitionRetirement>>,
    context: Arc<Context>,
) -> Result<Option<Duration>, Error> {
    if !(context.may_act)() {
        return Ok(None);
    }
    match &object.0 {
        Ok(cached) if retry::work_is_due(cached) => pass(cached, &context).await,
        Ok(_) => Ok(None),
        Err(InvalidObject { metadata, .. }) => record::report_unreadable(metadata, &context).await,
    }
}

/// How long to leave a resource alone after `error`: Kubernetes is asked again soon, and whatever ECS answered is not asked again.
#[must_use]
pub fn retry_after(error: &Error, uid: &str) -> Duration {
    match error {
        // Somebody else has changed the resource meanwhile.
        Error::PatchStatus(kube::Error::Api(status)) if status.is_conflict() => Duration::ZERO,
        Error::ReadResource(_) | Error::PatchStatus(_) => retry::after_error(uid),
    }
}

async fn pass(cached: &TaskDefinitionRetirement, context: &Context) -> Result<Option<Duration>, Error> {
    let api = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    let uid = cached.uid().unwrap_or_default();
    if is_out_of_reach(cached, context) {
        return Ok(Some(retry::after_outage(&uid)));
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
            return Ok(None);
        }
    };

    if recorded.is_none_or(|it| it.conditions.is_empty() || Renewal::of(record.resource(), it).is_due()) {
        let entries = declaration::entries(&spec, None, account(&record).as_deref());
        let (caller, outcomes) = (Caller::NotAskedYet, &BTreeMap::new());
        let finding = Finding::Valid { region: &region, entries: &entries, caller, outcomes, place: None };
        let status = summarize(record.resource(), finding, (context.clock)());
        record.write(status, outcomes).await?;
    }

    let session = context.account.session(&region);
    session.usage.leave(&holder(cached));
    let identity = session.identity().await;
    let entries = declaration::entries(&spec, identity.as_ref().ok(), account(&record).as_deref());
    let (caller, slice) = match &identity {
        Ok(identity) => (Caller::Known(identity), act(&api, &record, &entries, &session, context).await),
        Err(failure) => (Caller::Unknown(failure), Slice::outage()),
    };
    if slice.progress != Progress::Queued {
        session.leave(&holder(cached));
    }
    let place = session.turns.place(&holder(cached));
    let outcomes = &slice.outcomes;
    let finding = Finding::Valid { region: &region, entries: &entries, caller, outcomes, place };
    let status = summarize(record.resource(), finding, (context.clock)());
    let next =
        retry::next_look(&spec, &status, &slice.watched, slice.progress, place, &uid, (context.clock)());
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

/// A resource, as those know it who wait for a turn.
#[must_use]
pub fn holder(resource: &impl ResourceExt) -> Holder {
    Holder { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
}

/// Reads the resource uncached: `None` where it is gone, deleted, or another one of the same name.
async fn read(
    api: &Api<TaskDefinitionRetirement>,
    known: &TaskDefinitionRetirement,
) -> Result<Option<TaskDefinitionRetirement>, Error> {
    let name = known.name_any();
    let live = calls::kubernetes("get resource", api.get_opt(&name)).await.map_err(Error::ReadResource)?;
    Ok(live.filter(|live| live.uid() == known.uid() && live.metadata.deletion_timestamp.is_none()))
}

/// What a pass did at ECS.
struct Slice {
    outcomes: BTreeMap<String, Outcome>,
    /// The entries that wait for what there is to learn of their use.
    watched: BTreeSet<String>,
    progress: Progress,
    /// Whether Kubernetes answered whenever it had to.
    end: Result<(), Error>,
}

impl Slice {
    fn outage() -> Self {
        Self { progress: Progress::Outage, ..Self::begin() }
    }

    fn begin() -> Self {
        let (outcomes, watched) = (BTreeMap::new(), BTreeSet::new());
        Self { outcomes, watched, progress: Progress::Claimed, end: Ok(()) }
    }
}

fn is_throttled(answer: &Seen) -> bool {
    answer.as_ref().is_err_and(|failure| failure.kind == FailureKind::Throttled)
}

/// Finds the entries that are known to be ACTIVE, and that what is known of their use keeps from more: they cost no call.
fn watch(record: &Record<'_>, entries: &[Entry], session: &Session, now: Timestamp) -> Slice {
    let (resource, mut slice) = (record.resource(), Slice::begin());
    let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
    for entry in entries {
        let (Target::Here(arn), Some(row)) = (&entry.target, recorded_row(entry, rows)) else { continue };
        let asks = asks_who(&resource.spec, Some(row)) && wants_a_look(row);
        if !asks || row.status.as_deref() != Some(Status::Active.as_str()) {
            continue;
        }
        match session.usage.of(&holder(resource), arn) {
            Some(usage) if keeps(&resource.spec, Some(row), &usage, now) => {
                slice.outcomes.insert(entry.revision.clone(), Outcome::Used { before: None, usage });
            }
            Some(_) => continue,
            None => slice.progress = Progress::Scanning,
        }
        slice.watched.insert(entry.revision.clone());
    }
    slice
}

/// Looks at the next few entries, and deregisters those that are to be.
async fn act(
    api: &Api<TaskDefinitionRetirement>,
    record: &Record<'_>,
    entries: &[Entry],
    session: &Session,
    context: &Context,
) -> Slice {
    let resource = record.resource();
    let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
    let mut slice = watch(record, entries, session, (context.clock)());
    let rest = entries.iter().filter(|entry| !slice.watched.contains(&entry.revision));
    for entry in retry::slice(rest, rows) {
        let Target::Here(arn) = &entry.target else { continue };
        let Some(_claim) = context.claims.take(arn) else { continue };
        if !(context.may_act)() {
            break;
        }
        let recorded = recorded_row(entry, rows);
        // A look now would have to be made again.
        if asks_who(&resource.spec, recorded)
            && session.usage.is_awaited()
            && session.usage.of(&holder(resource), arn).is_none()
        {
            slice.progress = Progress::Scanning;
            break;
        }
        // Whose turn it is to deregister does not queue up for the look before.
        if session.turns.is_called(&holder(resource)) {
            session.looks.take_ahead();
        } else if let Some(look) = session.looks.take(&holder(resource)) {
            look.spend();
        } else {
            slice.progress = Progress::Queued;
            break;
        }
        let seen = session.ecs.describe(arn).await;
        if is_throttled(&seen) {
            session.looks.throttled();
        }
        let asks =
            seen.as_ref().is_ok_and(|it| it.status == Status::Active) && asks_who(&resource.spec, recorded);
        let usage = || asks.then(|| session.usage.of(&holder(resource), arn)).flatten();
        let outcome = match plan(&resource.spec, arn, recorded, seen, usage().as_ref(), (context.clock)()) {
            Step::Report(seen) => Outcome::Seen(seen),
            Step::Wait { before, usage } => {
                slice.watched.insert(entry.revision.clone());
                Outcome::Used { before: Some(before), usage }
            }
            Step::AskWho => {
                slice.progress = Progress::Scanning;
                break;
            }
            Step::Deregister { before, deregistration } => {
                let Some(turn) = session.turns.take(&holder(resource)) else {
                    slice.progress = Progress::Queued;
                    break;
                };
                match read(api, resource).await {
                    Ok(Some(live)) if live.metadata.generation == resource.metadata.generation => {}
                    // The spec has changed: what it says now is for the next pass.
                    Ok(_) => {
                        slice.progress = Progress::Made;
                        break;
                    }
                    Err(error) => {
                        slice.end = Err(error);
                        break;
                    }
                }
                let is_kept = |usage| keeps(&resource.spec, recorded, &usage, (context.clock)());
                if asks && usage().is_none_or(is_kept) {
                    slice.progress = Progress::Scanning;
                    break;
                }
                if !(context.may_act)() {
                    break;
                }
                turn.spend();
                let reply = session.ecs.deregister(&deregistration).await;
                if is_throttled(&reply.answer) {
                    session.turns.throttled();
                }
                let after = if reply.wants_a_look() {
                    session.looks.take_ahead();
                    Some(session.ecs.describe(arn).await)
                } else {
                    None
                };
                Outcome::Asked { before, reply, after }
            }
        };
        // More calls now would only make it worse; but a look for a time only is not worth the others' turn.
        slice.progress = match outcome.failure().filter(|_| !recorded.is_some_and(is_retired)) {
            Some(FailureKind::Throttled) => Progress::Throttled,
            Some(FailureKind::Unavailable) => Progress::Outage,
            _ => Progress::Made,
        };
        slice.outcomes.insert(entry.revision.clone(), outcome);
        if slice.progress != Progress::Made {
            break;
        }
    }
    slice
}
