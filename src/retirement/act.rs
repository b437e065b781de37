//! The shell of what a pass does at ECS: looks at the next few revisions, and deregisters those that are to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::time::Instant;

use crate::{
    account::session::Session,
    api::{Reason, RevisionStatus, TaskDefinitionRetirement},
    ecs::{
        answer::{Description, Failure, FailureKind, Newest, Outcome, Seen, Status},
        freshness::Purpose,
        turns::Holder,
        usage::Use,
    },
    retirement::{
        declaration::{Entry, Target},
        plan::{Deregistration, Step, asks_who, cools_down_for, is_retired, keeps, plan},
        reconcile::{Context, Error, holder, read},
        record::Record,
        retry::{self, Progress},
        row::{recorded_row, waits_for_use},
    },
    shutdown::Delay,
    task_definition::Arn,
};

/// Requeue delay while AWS's time is unknown.
const TIME_UNKNOWN_DELAY: Duration = Duration::from_secs(5);

/// Longest cool-down that the interval between scans depends on.
const LONGEST_COOL_DOWN: Duration = Duration::from_hours(24);

/// What a pass did at ECS.
pub(super) struct Slice {
    pub(super) outcomes: BTreeMap<String, Outcome>,
    /// The entries that wait for the next usage scan, and how long their cool-down lasts.
    pub(super) watched: BTreeMap<String, Option<Duration>>,
    /// When the usage scan that tells of all revisions that cool down ended, by AWS's clock.
    pub(super) scanned_at: Option<Timestamp>,
    pub(super) progress: Progress,
    /// Whether Kubernetes answered whenever it had to.
    pub(super) end: Result<(), Error>,
    /// Held from before the first irreversible call. Keep it until the answers are recorded.
    pub(super) delay: Option<Delay>,
}

impl Slice {
    pub(super) fn outage() -> Self {
        Self { progress: Progress::Outage, ..Self::begin() }
    }

    fn begin() -> Self {
        let (outcomes, watched) = (BTreeMap::new(), BTreeMap::new());
        let progress = Progress::Claimed;
        Self { outcomes, watched, scanned_at: None, progress, end: Ok(()), delay: None }
    }
}

/// The newest revision of each family, as listed before the revisions that are described now.
type NewestByFamily = BTreeMap<String, Newest>;

/// What the steps of a pass at ECS have at hand.
struct Pass<'a> {
    api: &'a Api<TaskDefinitionRetirement>,
    resource: &'a TaskDefinitionRetirement,
    session: &'a Session,
    context: &'a Context,
    holder: Holder,
    /// Delays shutdown once an irreversible call is about to be made.
    delay: OnceLock<Delay>,
    /// The time by AWS's clock, or `None` while that is unknown.
    now: Option<Timestamp>,
}

/// Why a pass ends before it is through.
enum Stop {
    Now(Progress),
    Kubernetes(Error),
}

/// Looks at the next few entries, and deregisters those that are to be.
pub(super) async fn act(
    api: &Api<TaskDefinitionRetirement>,
    record: &Record<'_>,
    entries: &[Entry],
    session: &Session,
    (context, now): (&Context, Option<Timestamp>),
) -> Slice {
    let resource = record.resource();
    let rows = resource.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
    let holder = holder(resource);
    let pass = Pass { api, resource, session, context, holder, delay: OnceLock::new(), now };
    let mut slice = pass.watch(entries, rows);
    let rest = entries.iter().filter(|entry| !slice.watched.contains_key(&entry.revision));
    let (began, mut is_refused, mut newest) = (Instant::now(), false, BTreeMap::new());
    for entry in retry::slice(rest, rows, (context.clock)()) {
        let Target::Here(arn) = &entry.target else { continue };
        let Some(_claim) = context.claims.take(arn) else { continue };
        if !(context.may_act)() || began.elapsed() > retry::SLICE_TIME {
            slice.progress = Progress::Made;
            break;
        }
        let recorded = recorded_row(entry, rows);
        let outcome = match pass.step(arn, recorded, &mut newest).await {
            Ok(outcome) => outcome,
            // While ECS refuses, none is worth a place in the line that has been tried before: it is tried again after a pause.
            Err(Stop::Now(Progress::Queued)) if is_refused && is_retry(recorded) => {
                slice.progress = Progress::Made;
                break;
            }
            Err(Stop::Now(progress)) => {
                slice.progress = progress;
                break;
            }
            Err(Stop::Kubernetes(error)) => {
                slice.end = Err(error);
                break;
            }
        };
        let is_missing = |kind| matches!(kind, FailureKind::Absent | FailureKind::Deleted);
        is_refused |= outcome.failure().is_some_and(|kind| !is_missing(kind));
        // More calls now would only make it worse; but a look for a time only is not worth the others' turn.
        slice.progress = match outcome.failure().filter(|_| !recorded.is_some_and(is_retired)) {
            Some(FailureKind::Throttled) => Progress::Throttled,
            Some(FailureKind::Unavailable) => Progress::Outage,
            _ => Progress::Made,
        };
        if let Outcome::Used { usage, .. } = &outcome {
            slice.watched.insert(entry.revision.clone(), pass.cools_down_for(recorded, usage));
        }
        slice.outcomes.insert(entry.revision.clone(), outcome);
        if slice.progress != Progress::Made {
            break;
        }
    }
    slice.delay = pass.delay.into_inner();
    slice
}

impl Pass<'_> {
    /// Finds the entries that are known to be ACTIVE, and that what is known of their use keeps from more: they cost no call.
    fn watch(&self, entries: &[Entry], rows: &[RevisionStatus]) -> Slice {
        let (spec, mut slice) = (&self.resource.spec, Slice::begin());
        let scanned_at = self.session.usage.scanned_at().filter(|_| self.now.is_some());
        let mut unconfirmed: BTreeSet<&str> =
            rows.iter().filter(|row| cools_down(row)).map(|row| row.revision.as_str()).collect();
        for entry in entries {
            let (Target::Here(arn), Some(row)) = (&entry.target, recorded_row(entry, rows)) else { continue };
            let waits = waits_for_use(row);
            let is_watched = asks_who(spec, Some(row)) && (waits || cools_down(row));
            // What another resource has retired meanwhile is to be looked at.
            if !is_watched || self.session.usage.takes_doubt(&self.holder, arn) {
                continue;
            }
            let usage = self.usage(arn, self.purpose(row, waits));
            let is_kept = usage.as_ref().is_some_and(|usage| keeps(spec, Some(row), usage, self.now));
            if usage.as_ref().is_some_and(|usage| confirms(usage, row)) {
                unconfirmed.remove(row.revision.as_str());
            }
            // A revision that waits for a permit waits for the end of its use instead once it is in use again.
            if !(waits || is_kept && row.reason == Reason::Pending) {
                continue;
            }
            match usage {
                Some(usage) if is_kept => {
                    if !matches!(usage, Use::Unknown(_)) {
                        unconfirmed.remove(row.revision.as_str());
                    }
                    slice.watched.insert(entry.revision.clone(), self.cools_down_for(Some(row), &usage));
                    slice.outcomes.insert(entry.revision.clone(), Outcome::Used { before: None, usage });
                }
                Some(_) => drop(slice.outcomes.insert(entry.revision.clone(), Outcome::Free)),
                None => {
                    slice.progress = Progress::Scanning;
                    slice.watched.insert(entry.revision.clone(), None);
                }
            }
        }
        slice.scanned_at = scanned_at.filter(|_| unconfirmed.is_empty());
        slice
    }

    /// What usage is needed for, for a row of which `waits` tells whether it waits for usage to end.
    fn purpose(&self, row: &RevisionStatus, waits: bool) -> Purpose {
        let usage = Use::Nobody { at: None, last_used: None };
        let left = match self.cools_down_for(Some(row), &usage) {
            Some(left) if row.reason == Reason::Quiet => left,
            _ if waits => Duration::ZERO,
            // The time for which it has been unused is to count on, whatever it waits for.
            _ => LONGEST_COOL_DOWN,
        };
        if left.is_zero() {
            return Purpose::Report;
        }
        Purpose::CoolDown { until: Instant::now() + left.min(LONGEST_COOL_DOWN) }
    }

    /// Returns how long the cool-down of a revision lasts, or `None` if it does not cool down.
    fn cools_down_for(&self, row: Option<&RevisionStatus>, usage: &Use) -> Option<Duration> {
        let left = cools_down_for(&self.resource.spec, row, usage, self.now);
        let is_unknown = self.now.is_none() && matches!(usage, Use::Nobody { .. });
        left.or(is_unknown.then_some(TIME_UNKNOWN_DELAY))
    }

    /// Looks at one revision, and deregisters it if it is to be.
    async fn step(
        &self,
        arn: &Arn,
        recorded: Option<&RevisionStatus>,
        newest: &mut NewestByFamily,
    ) -> Result<Outcome, Stop> {
        let spec = &self.resource.spec;
        let asks = asks_who(spec, recorded);
        let is_called = || self.session.turns.is_called(&self.holder);
        if asks && is_called() && self.usage(arn, Purpose::Deregister).is_none() {
            return Err(Stop::Now(Progress::Verifying));
        }
        // A look now would have to be made again.
        if asks && self.session.usage.is_awaited() && self.usage(arn, Purpose::Report).is_none() {
            return Err(Stop::Now(Progress::Scanning));
        }
        let seen = match self.look(arn).await? {
            Err(absent) if absent.kind == FailureKind::Absent && !recorded.is_some_and(is_retired) => {
                let missing = self.context.shutdown.abandon(self.missing(arn, absent, newest)).await;
                missing.ok_or(Stop::Now(Progress::Made))?
            }
            seen => seen,
        };
        let asks = asks && seen.as_ref().is_ok_and(|it| it.status == Status::Active);
        let usage = if asks { self.usage(arn, Purpose::Report) } else { None };
        match plan(spec, arn, recorded, seen, usage.as_ref(), self.now) {
            Step::Report(seen) => Ok(Outcome::Seen(seen)),
            Step::Wait { before, usage } => Ok(Outcome::Used { before: Some(before), usage }),
            Step::AskWho => Err(Stop::Now(Progress::Scanning)),
            Step::Deregister { before, deregistration } => {
                let Some(turn) = self.session.turns.take(&self.holder) else {
                    if asks {
                        self.session.usage.expect_permit(&self.holder);
                    }
                    return Err(Stop::Now(Progress::Queued));
                };
                self.is_declared_still().await?;
                if asks {
                    // The permit is kept while a scan is made that is recent enough.
                    let Some(usage) = self.usage(arn, Purpose::Deregister) else {
                        turn.keep(&self.holder);
                        return Err(Stop::Now(Progress::Verifying));
                    };
                    if keeps(spec, recorded, &usage, self.now) {
                        return Ok(Outcome::Used { before: Some(before), usage });
                    }
                }
                self.delay.get_or_init(|| self.context.shutdown.delay());
                if !(self.context.may_act)() {
                    return Err(Stop::Now(Progress::Made));
                }
                turn.spend();
                Ok(self.deregister(before, &deregistration, newest).await)
            }
        }
    }

    fn usage(&self, arn: &Arn, purpose: Purpose) -> Option<Use> {
        self.session.usage.of(&self.holder, arn, purpose)
    }

    /// Whose turn it is to deregister does not queue up for the look before.
    async fn look(&self, arn: &Arn) -> Result<Seen, Stop> {
        if self.session.turns.is_called(&self.holder) {
            self.session.looks.take_ahead();
        } else {
            self.session.looks.take(&self.holder).ok_or(Stop::Now(Progress::Queued))?.spend();
        }
        let seen = self.context.shutdown.abandon(self.session.ecs.describe(arn)).await;
        let seen = seen.ok_or(Stop::Now(Progress::Made))?;
        if is_throttled(&seen) {
            self.session.looks.throttled();
        }
        Ok(seen)
    }

    /// Finds out whether a revision was deleted that ECS did not find: its number was registered before that of a newer
    /// revision. Returns `absent` if no newer revision is listed.
    async fn missing(&self, arn: &Arn, absent: Failure, newest: &mut NewestByFamily) -> Seen {
        let (family, number) = (arn.revision().family(), arn.revision().number());
        let deleted = || Err(Failure { kind: FailureKind::Deleted, ..absent.clone() });
        if newest.get(family).is_some_and(|newest| newest.is_after(number)) {
            return deleted();
        }
        for status in [Status::Active, Status::Inactive, Status::DeleteInProgress] {
            self.session.looks.take_ahead();
            match self.session.ecs.newest(arn, &status).await {
                Ok(found) if found.is_after(number) => {
                    newest.insert(family.to_owned(), found);
                    // It may have been registered between the first description and the list.
                    return match self.describe_ahead(arn).await {
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
                        self.session.looks.throttled();
                    }
                    return Err(failure);
                }
            }
        }
        Err(absent)
    }

    /// Describes a revision with a permit that the wait queue does not delay: the caller was delayed before.
    async fn describe_ahead(&self, arn: &Arn) -> Seen {
        self.session.looks.take_ahead();
        let seen = self.session.ecs.describe(arn).await;
        if is_throttled(&seen) {
            self.session.looks.throttled();
        }
        seen
    }

    /// Reads the resource uncached: if its spec has changed, what it says now is for the next pass.
    async fn is_declared_still(&self) -> Result<(), Stop> {
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
            session.turns.throttled();
        }
        if reply.answer.is_ok() {
            session.usage.doubt(&self.holder, arn);
        }
        let after = if reply.wants_a_look() {
            let described = async {
                match self.describe_ahead(arn).await {
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
        Outcome::Asked { before, reply, after }
    }
}

/// Whether the time counts for which the revision of the row has been unused.
fn cools_down(row: &RevisionStatus) -> bool {
    row.unused_since.is_some() && row.reason != Reason::DryRun
}

/// Whether `usage` shows no use later than the row does.
fn confirms(usage: &Use, row: &RevisionStatus) -> bool {
    let Use::Nobody { last_used, .. } = usage else { return false };
    last_used.is_none_or(|last| row.unused_since.as_ref().is_some_and(|since| last <= since.0))
}

fn is_retry(recorded: Option<&RevisionStatus>) -> bool {
    recorded.is_some_and(|row| retry::turn(row.reason) != retry::Turn::Untried)
}

fn is_throttled(answer: &Seen) -> bool {
    answer.as_ref().is_err_and(|failure| failure.kind == FailureKind::Throttled)
}

#[cfg(test)]
mod tests;
