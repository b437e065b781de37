//! Usage of the revisions in an account and region, as found by usage scans.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    aws::{
        freshness::{Purpose, Timing},
        response::{Failure, FailureKind},
        response_clock::Bounds,
    },
    task_definition::{Arn, Reference},
};

mod last_use;

pub(super) use last_use::latest;
use last_use::{LastUse, last_used};

/// Maximum number of users named per revision.
const NAMED: usize = 5;

/// Number of successful scans from which the median duration is computed.
const DURATIONS: usize = 5;

/// First and maximum delay before a failed scan is retried.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A service or task that uses a revision.
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

/// The users of one revision. There is at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Users {
    /// At most five users, sorted.
    pub named: Vec<User>,
    /// Number of users that are not named.
    pub more: usize,
}

impl From<BTreeSet<User>> for Users {
    fn from(users: BTreeSet<User>) -> Self {
        let more = users.len().saturating_sub(NAMED);
        Self { named: users.into_iter().take(NAMED).collect(), more }
    }
}

/// Usage of one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Use {
    InUse(Users),
    /// The revision is unused.
    Unused {
        /// The time of the report by AWS's clock, rounded up. `None` while AWS's time is unknown.
        at: Option<Timestamp>,
        /// The last use found by recent scans, such as the end of a stopped task.
        last_used: Option<Timestamp>,
    },
    /// The scan failed, or a reference is unresolved.
    Unknown(Failure),
}

impl Use {
    /// Returns true if both are equal, ignoring when they were reported.
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

/// The users found by a scan, and the references that it could not resolve.
#[derive(Debug, Default)]
pub struct Found {
    users: HashMap<String, BTreeSet<User>>,
    /// When the last stopped task of each revision ended. `None` if ECS does not report the time.
    stopped: HashMap<String, Option<Timestamp>>,
    /// Services, tasks and clusters that may use any revision, with the failure that prevented
    /// their resolution.
    unresolved: BTreeMap<String, Failure>,
}

impl Found {
    /// Adds a user of a task definition, given by its ARN. `None` adds an unresolved reference.
    pub fn note(&mut self, task_definition: Option<&str>, user: &User) {
        if let Some(name) = self.revision(task_definition, user) {
            self.users.entry(name).or_default().insert(user.clone());
        }
    }

    /// Adds a stopped task. It is not a user, but its revision was in use until `at`, which is
    /// `None` if ECS does not report the time.
    pub fn note_stopped(&mut self, task_definition: Option<&str>, at: Option<Timestamp>, user: &User) {
        if let Some(name) = self.revision(task_definition, user) {
            let last = self.stopped.entry(name).or_insert(at);
            *last = last.zip(at).map(|(last, at)| last.max(at));
        }
    }

    /// Parses the revision. Adds an unresolved reference of `user` and returns `None` if there is
    /// none.
    fn revision(&mut self, task_definition: Option<&str>, user: &User) -> Option<String> {
        let name = task_definition.unwrap_or("a response without a task definition");
        if let Ok(Reference::Revision(revision)) = short(name).parse() {
            return Some(revision.to_string());
        }
        let text = format!("{name} is not a task definition revision");
        self.note_unresolved(user.to_string(), Failure::new(FailureKind::Unavailable, text));
        None
    }

    /// Adds a `user`, such as service/prod/web, that may use any revision.
    pub fn note_unresolved(&mut self, user: String, failure: Failure) {
        self.unresolved.entry(user).or_insert(failure);
    }

    /// Returns the failure to report for revisions without a known user. Access denials take
    /// precedence because only they require manual intervention. `None` if every reference is
    /// resolved.
    #[must_use]
    pub fn unresolved(&self) -> Option<Failure> {
        let is_denied = |(_, failure): &(&String, &Failure)| failure.kind == FailureKind::AccessDenied;
        let (user, failure) = self.unresolved.iter().find(is_denied).or(self.unresolved.iter().next())?;
        // Without their number: it changes often, and each change would be a write.
        let more = if self.unresolved.len() > 1 { " (and others)" } else { "" };
        let message = format!("{user}: {}{more}", failure.message);
        Some(Failure { message, ..failure.clone() })
    }
}

/// Strips the ARN prefix. The result is unique within an account and region, and the same for long
/// and short ARNs.
pub(super) fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

impl Failed {
    /// Creates the failure of a scan that ended at `ended`. `previous` is the result of the scan
    /// before it.
    fn after(previous: Option<&Scan>, failure: Failure, ended: Instant) -> Self {
        let earlier = previous.and_then(|scan| scan.failed.as_ref()).map_or(0, |failed| failed.count);
        Self { failure, ended, count: earlier + 1 }
    }
}

/// Known usage: the last successful scan or, without one, the failure of the last scan.
#[derive(Clone, Debug)]
pub struct Scan {
    timing: Timing,
    /// When the scan ended, by AWS's clock.
    at: Option<Bounds>,
    users: Result<HashMap<String, Users>, Failure>,
    /// The failure to report for revisions without a known user.
    unresolved: Option<Failure>,
    /// Last use of the revisions that recent scans found in use.
    last_used: HashMap<String, LastUse>,
    /// Durations of the last few successful scans.
    durations: Vec<Duration>,
    failed: Option<Failed>,
}

/// Scans that failed or left a reference unresolved since the last scan that did neither.
#[derive(Clone, Debug)]
struct Failed {
    failure: Failure,
    ended: Instant,
    count: u32,
}

impl Scan {
    /// Creates the usage after a scan. `previous` is the usage before it. `at` is the time at which
    /// the scan ended, by AWS's clock, or `None` while AWS's time is unknown.
    #[must_use]
    pub fn new(
        began: Instant,
        (ended, at): (Instant, Option<Bounds>),
        found: Result<Found, Failure>,
        previous: Option<&Self>,
    ) -> Self {
        let durations = previous.map(|scan| scan.durations.clone()).unwrap_or_default();
        let found = match found {
            Ok(found) => found,
            Err(failure) => return Self::failed(began, ended, failure, previous),
        };
        let mut durations: Vec<Duration> =
            durations.into_iter().chain([ended.saturating_duration_since(began)]).collect();
        durations.drain(..durations.len().saturating_sub(DURATIONS));
        let last_used = last_used(&found, (ended, at), previous);
        let unresolved = found.unresolved();
        let failed = unresolved.clone().map(|failure| Failed::after(previous, failure, ended));
        let users = found.users.into_iter().map(|(arn, users)| (arn, users.into())).collect();
        let timing = Timing { began, ended, median: median(&durations) };
        Self { timing, at, users: Ok(users), unresolved, last_used, durations, failed }
    }

    /// Creates the usage after a failed scan. The result of the previous successful scan stays
    /// valid as long as it would have been.
    fn failed(began: Instant, ended: Instant, failure: Failure, previous: Option<&Self>) -> Self {
        let failed = Some(Failed::after(previous, failure.clone(), ended));
        match previous {
            Some(scan) if scan.users.is_ok() => Self { failed, ..scan.clone() },
            _ => {
                let durations = previous.map(|scan| scan.durations.clone()).unwrap_or_default();
                let timing = Timing { began, ended, median: median(&durations) };
                let (users, last_used) = (Err(failure), HashMap::new());
                Self { timing, at: None, users, unresolved: None, last_used, durations, failed }
            }
        }
    }

    /// Returns the usage of a revision, or `None` if no result is fresh enough for `purpose`. A
    /// failed scan leaves usage unknown, unless the scan before it is still fresh enough.
    #[must_use]
    pub fn of(&self, arn: &Arn, purpose: Purpose, now: Instant) -> Option<Use> {
        if self.timing.is_fresh(purpose, now) {
            return Some(self.usage(arn));
        }
        self.failure(now).map(|failure| Use::Unknown(failure.clone()))
    }

    /// Returns true if a result, including a failure, is fresh enough for `purpose`.
    #[must_use]
    pub fn is_known(&self, purpose: Purpose, now: Instant) -> bool {
        self.timing.is_fresh(purpose, now) || self.failure(now).is_some()
    }

    /// Returns why the last scan failed, if that is fresh and the scan before it is stale.
    fn failure(&self, now: Instant) -> Option<&Failure> {
        let failed = self.failed.as_ref().filter(|_| !self.timing.is_fresh(Purpose::Report, now))?;
        let timing = Timing { began: failed.ended, ended: failed.ended, ..self.timing };
        timing.is_fresh(Purpose::Report, now).then_some(&failed.failure)
    }

    fn usage(&self, arn: &Arn) -> Use {
        let name = arn.revision().to_string();
        let users = match &self.users {
            Ok(users) => users.get(&name),
            Err(failure) => return Use::Unknown(failure.clone()),
        };
        match (users, &self.unresolved) {
            (Some(users), _) => Use::InUse(users.clone()),
            (None, Some(failure)) => Use::Unknown(failure.clone()),
            (None, None) => Use::Unused {
                at: self.at.map(latest),
                last_used: self.last_used.get(&name).map(|last| last.time),
            },
        }
    }

    /// Returns the earliest time at which the last scan may have ended, by AWS's clock. `None`
    /// unless it resolved every reference.
    #[must_use]
    pub fn scanned_at(&self) -> Option<Timestamp> {
        let at = self.users.as_ref().ok().filter(|_| self.unresolved.is_none()).and(self.at)?;
        Timestamp::from_second(at.earliest.as_second()).ok()
    }

    /// Returns when the last successful scan was made or, without one, the last failed scan.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Returns when to retry a scan that failed or left a reference unresolved; `None` after any
    /// other scan.
    #[must_use]
    pub fn retry(&self) -> Option<Instant> {
        let failed = self.failed.as_ref()?;
        let doubled = SHORTEST_RETRY * 2_u32.saturating_pow(failed.count - 1).min(1 << 10);
        Some(failed.ended + doubled.min(LONGEST_RETRY))
    }

    /// Returns the time since the scan began.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.timing.began)
    }
}

/// Returns the median of a few durations, or zero if there are none.
fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
