//! Who uses the revisions of an account and region, as one scan found it, and how long that is good for. Pure: the clock is an argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    aws::{
        freshness::{Purpose, Timing},
        response::{Failure, FailureKind},
    },
    task_definition::{Arn, Reference},
};

/// How many users of one revision are named.
const NAMED: usize = 5;

/// How many successful scans the typical duration of a scan is judged by.
const JUDGED: usize = 5;

/// How long the last use of a revision is remembered: longer than the longest gap between two scans.
const LAST_USE_KEPT: SignedDuration = SignedDuration::from_hours(2);

/// After how long a scan that failed is tried again, at first and at the most.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// One user of a revision.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum User {
    Service { cluster: String, name: String },
    Task { cluster: String, id: String },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { cluster, name } => write!(f, "service/{cluster}/{name}"),
            Self::Task { cluster, id } => write!(f, "task/{cluster}/{id}"),
        }
    }
}

/// The users of one revision; at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Users {
    /// At most five, in order.
    pub named: Vec<User>,
    /// How many there are beside those.
    pub more: usize,
}

impl From<BTreeSet<User>> for Users {
    fn from(users: BTreeSet<User>) -> Self {
        let more = users.len().saturating_sub(NAMED);
        Self { named: users.into_iter().take(NAMED).collect(), more }
    }
}

/// What is known of the use of one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Use {
    InUse(Users),
    /// Unused, as reported at `at`, by AWS's clock and rounded up; `None` while AWS's time is unknown.
    Unused {
        at: Option<Timestamp>,
        /// The last use that recent scans showed, such as the end of a task that has stopped.
        last_used: Option<Timestamp>,
    },
    /// The scan failed, or a reference is unresolved.
    Unknown(Failure),
}

impl Use {
    /// Whether a resource that was told the one has nothing new to learn from the other.
    #[must_use]
    pub fn is_equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unused { at, last_used }, Self::Unused { at: other_at, last_used: other_last_used }) => {
                last_used == other_last_used && at.is_some() == other_at.is_some()
            }
            (Self::Unknown(one), Self::Unknown(other)) => one.is_same_error(other),
            _ => self == other,
        }
    }
}

/// All users that a scan found, and the references that it could not resolve.
#[derive(Debug, Default)]
pub struct Found {
    users: HashMap<String, BTreeSet<User>>,
    /// The end of the last task of each revision that has stopped; `None` if ECS does not say when.
    stopped: HashMap<String, Option<Timestamp>>,
    /// Why each of these may use any revision, by the name of the service, task or cluster.
    unresolved: BTreeMap<String, Failure>,
}

impl Found {
    /// Notes a user of a task definition, which ECS names by its ARN. One that ECS does not name is an unresolved reference.
    pub fn note(&mut self, task_definition: Option<&str>, user: &User) {
        if let Some(name) = self.revision(task_definition, user) {
            self.users.entry(name).or_default().insert(user.clone());
        }
    }

    /// Notes a task that has stopped: no user, but the revision was in use until then. `at` is `None` if ECS does not
    /// say when.
    pub fn note_stopped(&mut self, task_definition: Option<&str>, at: Option<Timestamp>, user: &User) {
        if let Some(name) = self.revision(task_definition, user) {
            let last = self.stopped.entry(name).or_insert(at);
            *last = last.zip(at).map(|(last, at)| last.max(at));
        }
    }

    /// Returns the revision that ECS names. Notes an unresolved reference of `user` if it names none.
    fn revision(&mut self, task_definition: Option<&str>, user: &User) -> Option<String> {
        let name = task_definition.unwrap_or("an answer without a task definition");
        if let Ok(Reference::Revision(revision)) = short(name).parse() {
            return Some(revision.to_string());
        }
        let text = format!("{name} is not a task definition revision");
        self.note_unresolved(user.to_string(), Failure::new(FailureKind::Unavailable, text));
        None
    }

    /// Notes that `user`, such as service/prod/web, may use any revision.
    pub fn note_unresolved(&mut self, user: String, failure: Failure) {
        self.unresolved.entry(user).or_insert(failure);
    }

    /// Returns the failure to report for revisions without a known user: an access denial before all others, since only that
    /// needs manual intervention.
    fn unresolved(&self) -> Option<Failure> {
        let is_denied = |(_, failure): &(&String, &Failure)| failure.kind == FailureKind::AccessDenied;
        let (user, failure) = self.unresolved.iter().find(is_denied).or(self.unresolved.iter().next())?;
        let more = match self.unresolved.len() {
            1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let message = format!("{user}: {}{more}", failure.message);
        Some(Failure { message, ..failure.clone() })
    }
}

/// What follows the last slash: within one account and region that says which, whatever form ECS answers in.
pub(super) fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

impl Failed {
    /// The failure of a scan that ended at `ended`; `before` is what was known until then.
    fn after(before: Option<&Scan>, failure: Failure, ended: Instant) -> Self {
        let earlier = before.and_then(|before| before.failed.as_ref()).map_or(0, |failed| failed.count);
        Self { failure, ended, count: earlier + 1 }
    }
}

/// What is known of usage: the last successful scan or, without one, why the last scan failed.
#[derive(Clone, Debug)]
pub struct Scan {
    timing: Timing,
    /// When it ended, by AWS's clock and rounded up.
    at: Option<Timestamp>,
    users: Result<HashMap<String, Users>, Failure>,
    /// Why a revision without a known user may be in use.
    unresolved: Option<Failure>,
    /// The last use of revisions that recent scans showed in use.
    last_used: HashMap<String, Timestamp>,
    /// How long the last few successful scans took.
    durations: Vec<Duration>,
    failed: Option<Failed>,
}

/// The scans that have failed, or left a reference unresolved, since the last one that did neither.
#[derive(Clone, Debug)]
struct Failed {
    failure: Failure,
    ended: Instant,
    count: u32,
}

impl Scan {
    /// Takes the result of a scan; `before` is what was known until then. `at` is the time at which the scan ended, by
    /// AWS's clock and rounded up, or `None` while that is unknown.
    #[must_use]
    pub fn new(
        began: Instant,
        (ended, at): (Instant, Option<Timestamp>),
        found: Result<Found, Failure>,
        before: Option<&Self>,
    ) -> Self {
        let durations = before.map(|before| before.durations.clone()).unwrap_or_default();
        let found = match found {
            Ok(found) => found,
            Err(failure) => return Self::failed(began, ended, failure, before),
        };
        let mut durations: Vec<Duration> =
            durations.into_iter().chain([ended.saturating_duration_since(began)]).collect();
        durations.drain(..durations.len().saturating_sub(JUDGED));
        let last_used = last_used(&found, at, before);
        let unresolved = found.unresolved();
        let failed = unresolved.clone().map(|failure| Failed::after(before, failure, ended));
        let users = found.users.into_iter().map(|(arn, users)| (arn, users.into())).collect();
        let timing = Timing { began, ended, median: median(&durations) };
        Self { timing, at, users: Ok(users), unresolved, last_used, durations, failed }
    }

    /// What was found before stays known for as long as it would have been.
    fn failed(began: Instant, ended: Instant, failure: Failure, before: Option<&Self>) -> Self {
        let failed = Some(Failed::after(before, failure.clone(), ended));
        match before {
            Some(before) if before.users.is_ok() => Self { failed, ..before.clone() },
            _ => {
                let durations = before.map(|before| before.durations.clone()).unwrap_or_default();
                let timing = Timing { began, ended, median: median(&durations) };
                let (users, last_used) = (Err(failure), HashMap::new());
                Self { timing, at: None, users, unresolved: None, last_used, durations, failed }
            }
        }
    }

    /// Returns the use of a revision, or `None` if nothing is known that is recent enough for `purpose`. A scan that
    /// failed leaves usage unknown, unless the scan before it is still recent enough.
    #[must_use]
    pub fn of(&self, arn: &Arn, purpose: Purpose, now: Instant) -> Option<Use> {
        if self.timing.is_fresh(purpose, now) {
            return Some(self.shows(arn));
        }
        self.failure(now).map(|failure| Use::Unknown(failure.clone()))
    }

    /// Returns true if anything is known that is recent enough for `purpose`, a failure included.
    #[must_use]
    pub fn is_known(&self, purpose: Purpose, now: Instant) -> bool {
        self.timing.is_fresh(purpose, now) || self.failure(now).is_some()
    }

    /// Why the last scan failed, if that was a short while ago and the scan before it can be reported no longer.
    fn failure(&self, now: Instant) -> Option<&Failure> {
        let failed = self.failed.as_ref().filter(|_| !self.timing.is_fresh(Purpose::Report, now))?;
        let timing = Timing { began: failed.ended, ended: failed.ended, ..self.timing };
        timing.is_fresh(Purpose::Report, now).then_some(&failed.failure)
    }

    fn shows(&self, arn: &Arn) -> Use {
        let name = arn.revision().to_string();
        let users = match &self.users {
            Ok(users) => users.get(&name),
            Err(failure) => return Use::Unknown(failure.clone()),
        };
        match (users, &self.unresolved) {
            (Some(users), _) => Use::InUse(users.clone()),
            (None, Some(failure)) => Use::Unknown(failure.clone()),
            (None, None) => Use::Unused { at: self.at, last_used: self.last_used.get(&name).copied() },
        }
    }

    /// Returns when the last scan ended, by AWS's clock, if it resolved every reference.
    #[must_use]
    pub fn scanned_at(&self) -> Option<Timestamp> {
        self.users.as_ref().ok().filter(|_| self.unresolved.is_none()).and(self.at)
    }

    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Returns when a scan that failed or left a reference unresolved is repeated; `None` after any other.
    #[must_use]
    pub fn retry(&self) -> Option<Instant> {
        let failed = self.failed.as_ref()?;
        let doubled = SHORTEST_RETRY * 2_u32.saturating_pow(failed.count - 1).min(1 << 10);
        Some(failed.ended + doubled.min(LONGEST_RETRY))
    }

    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.timing.began)
    }
}

/// Returns the last use of each revision that is not in use: as ECS shows it, or as earlier scans did.
fn last_used(found: &Found, at: Option<Timestamp>, before: Option<&Scan>) -> HashMap<String, Timestamp> {
    let mut last_used = HashMap::new();
    let mut note = |name: &String, time: Timestamp| {
        let is_recent = at.is_none_or(|at| at.duration_since(time) < LAST_USE_KEPT);
        if is_recent && !found.users.contains_key(name) {
            let last = last_used.entry(name.clone()).or_insert(time);
            *last = time.max(*last);
        }
    };
    for (name, stopped) in &found.stopped {
        // If ECS does not say when the task stopped, it may have been just now.
        if let Some(time) = stopped.map(next_second).or(at) {
            note(name, time);
        }
    }
    if let Some(before) = before {
        before.last_used.iter().for_each(|(name, time)| note(name, *time));
        if let (Ok(users), Some(at)) = (&before.users, before.at) {
            for name in users.keys() {
                note(name, at);
            }
        }
    }
    last_used
}

/// Rounds up, since Kubernetes must_wait no fractions of a second.
pub(super) fn next_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second() + 1).unwrap_or(time)
}

/// Returns the median of a few durations, or zero if there are none.
fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
