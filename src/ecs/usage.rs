//! Who uses the revisions of an account and region, as one scan found it, and how long that is good for. Pure: the clock is an argument.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{ecs::answer::Failure, task_definition::Arn};

/// How many users of one revision are named.
const NAMED: usize = 5;

/// How old a scan may be, counted from its beginning, when a deregistration rests on it.
const LIFETIME: Duration = Duration::from_mins(1);

/// How long before the last scan is too old the next one is to be done.
const MARGIN: Duration = Duration::from_secs(5);

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

impl fmt::Display for Users {
    /// For a person: service web in cluster prod.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.named.iter().map(|user| match user {
            User::Service { cluster, name } => format!("service {name} in cluster {cluster}"),
            User::Task { cluster, id } => format!("task {id} in cluster {cluster}"),
        });
        f.write_str(&told.collect::<Vec<_>>().join(", "))?;
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
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
    By(Users),
    /// Nobody used it when the scan of that time looked.
    Nobody {
        at: Timestamp,
    },
    /// The scan failed, so somebody may.
    Unknown(Failure),
}

impl Use {
    /// Whether a resource that was told the one has nothing new to learn from the other.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nobody { .. }, Self::Nobody { .. }) => true,
            (Self::Unknown(one), Self::Unknown(other)) => one.is_same_error(other),
            _ => self == other,
        }
    }
}

/// All users that a scan found, while it is under way.
#[derive(Debug, Default)]
pub struct Found(HashMap<String, BTreeSet<User>>);

impl Found {
    /// Notes a user of a task definition, which ECS names by its ARN.
    pub fn note(&mut self, task_definition: Option<&str>, user: &User) {
        if let Some(name) = task_definition.map(short) {
            self.0.entry(name.to_owned()).or_default().insert(user.clone());
        }
    }
}

/// What follows the last slash: within one account and region that says which, whatever form ECS answers in.
pub(super) fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// One scan, from its beginning to its end.
#[derive(Debug)]
pub struct Scan {
    began: Instant,
    ended: Instant,
    at: Timestamp,
    users: Result<HashMap<String, Users>, Failure>,
    /// When the last one that failed ended.
    retried: Instant,
    /// How many scans, this one included, have failed one after another.
    failures: u32,
}

impl Scan {
    #[must_use]
    pub fn new(
        (began, at): (Instant, Timestamp),
        ended: Instant,
        found: Result<Found, Failure>,
        before: Option<&Self>,
    ) -> Self {
        // To the next second, since Kubernetes keeps no fractions of one.
        let at = Timestamp::from_second(at.as_second() + 1).unwrap_or(at);
        let failures = if found.is_ok() { 0 } else { before.map_or(0, |before| before.failures) + 1 };
        let users = found.map(|found| found.0.into_iter().map(|(arn, users)| (arn, users.into())).collect());
        match before {
            // What was found before is good for as long as it would have been.
            Some(before) if users.is_err() && before.users.is_ok() && before.is_fresh(ended) => {
                Self { retried: ended, failures, users: before.users.clone(), ..*before }
            }
            _ => Self { began, ended, at, users, retried: ended, failures },
        }
    }

    /// What it says of a revision.
    #[must_use]
    pub fn of(&self, arn: &Arn) -> Use {
        match &self.users {
            Ok(users) => users
                .get(&arn.revision().to_string())
                .map_or(Use::Nobody { at: self.at }, |users| Use::By(users.clone())),
            Err(failure) => Use::Unknown(failure.clone()),
        }
    }

    /// Whether what it says may be acted on: while it is not older than a minute or, where scans take longer, than
    /// the time of one until the next is done. That it failed is good for as long.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.began + LIFETIME.max(2 * self.took())
    }

    /// When the next one is to begin, if anybody waits by then.
    #[must_use]
    pub fn next(&self) -> Instant {
        if self.failures > 0 {
            let doubled = SHORTEST_RETRY * 2_u32.saturating_pow(self.failures - 1).min(1 << 10);
            return self.retried + doubled.min(LONGEST_RETRY);
        }
        self.began + self.took().max(LIFETIME.saturating_sub(self.took() + MARGIN))
    }

    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    #[must_use]
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;

    use super::*;
    use crate::{ecs::answer::FailureKind, task_definition::Reference};

    fn arn(revision: &str) -> Arn {
        let text = format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{revision}");
        let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
        arn
    }

    fn task(id: &str) -> User {
        User::Task { cluster: "prod".to_owned(), id: id.to_owned() }
    }

    fn scan(took: u64, found: Result<Found, Failure>, before: Option<&Scan>) -> Scan {
        let began = Instant::now();
        Scan::new((began, Timestamp::UNIX_EPOCH), began + Duration::from_secs(took), found, before)
    }

    fn failed(before: Option<&Scan>) -> Scan {
        let failure = Failure::new(FailureKind::AccessDenied, "no");
        scan(0, Err(failure), before)
    }

    fn after(seconds: u64, scan: &Scan) -> Instant {
        scan.began + Duration::from_secs(seconds)
    }

    #[test]
    fn each_user_is_counted_once_and_five_are_named() {
        let mut found = Found::default();
        let web = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
        for id in ["f", "e", "d", "c", "b", "a", "a"] {
            found.note(Some(&arn("web:3").to_string()), &task(id));
        }
        found.note(Some(&arn("web:3").to_string()), &web);
        found.note(None, &web);
        let scan = scan(0, Ok(found), None);
        let Use::By(users) = scan.of(&arn("web:3")) else { panic!("in use") };
        let named: Vec<String> = users.named.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["service/prod/web", "task/prod/a", "task/prod/b", "task/prod/c", "task/prod/d"]);
        assert_eq!(users.more, 2);
        assert_eq!(
            scan.of(&arn("web:30")),
            Use::Nobody { at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1) }
        );
    }

    #[test]
    fn users_are_told_to_a_person_in_words() {
        let web = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
        let users = |more| Users { named: vec![web.clone(), task("a")], more };
        assert_eq!(users(0).to_string(), "service web in cluster prod, task a in cluster prod");
        assert_eq!(users(2).to_string(), "service web in cluster prod, task a in cluster prod and 2 more");
    }

    #[test]
    fn nobody_is_the_same_whenever_it_was_found_out() {
        let nobody = |second| Use::Nobody { at: Timestamp::from_second(second).expect("a time") };
        let by = |id: &str| Use::By(Users { named: vec![task(id)], more: 0 });
        assert!(nobody(1).says_the_same_as(&nobody(2)));
        assert!(by("a").says_the_same_as(&by("a")));
        assert!(!by("a").says_the_same_as(&by("b")));
        assert!(!by("a").says_the_same_as(&nobody(1)));
        assert!(!nobody(1).says_the_same_as(&by("a")));
    }

    #[test]
    fn a_scan_knows_how_old_it_is_and_how_long_it_took() {
        let scan = scan(2, Ok(Found::default()), None);
        assert_eq!(scan.age(after(30, &scan)), Duration::from_secs(30));
        assert_eq!(scan.took(), Duration::from_secs(2));
    }

    #[test]
    fn a_scan_is_good_for_a_minute_or_until_the_next_one_can_be_done() {
        let quick = scan(2, Ok(Found::default()), None);
        assert!(quick.is_fresh(after(59, &quick)));
        assert!(!quick.is_fresh(after(60, &quick)));
        assert_eq!(quick.next(), after(53, &quick));

        let slow = scan(25, Ok(Found::default()), None);
        assert_eq!(slow.next(), after(30, &slow), "done when this one is 55 s old");

        let slower = scan(100, Ok(Found::default()), None);
        assert_eq!(slower.next(), after(100, &slower), "one after another");
        assert!(slower.is_fresh(after(199, &slower)));
        assert!(!slower.is_fresh(after(200, &slower)));
    }

    #[test]
    fn a_scan_that_fails_takes_nothing_back_that_is_still_fresh() {
        let first = scan(2, Ok(Found::default()), None);
        let failure = || Failure::new(FailureKind::ServerFault, "a fault");
        let late = |seconds| (after(seconds, &first), Timestamp::UNIX_EPOCH);
        let second = Scan::new(late(53), after(55, &first), Err(failure()), Some(&first));
        assert!(matches!(second.of(&arn("web:3")), Use::Nobody { .. }));
        assert!(!second.is_fresh(after(60, &first)), "no longer than it would have been");
        assert_eq!(second.next(), after(60, &first));
        let third = Scan::new(late(60), after(61, &first), Err(failure()), Some(&second));
        assert_eq!(third.of(&arn("web:3")), Use::Unknown(failure()));
        assert_eq!(third.next(), after(71, &first));
    }

    #[test]
    fn a_failed_scan_says_that_anything_may_be_in_use_and_is_tried_again_ever_more_slowly() {
        let mut scan = failed(None);
        for wait in [5, 10, 20, 30, 30] {
            assert!(matches!(scan.of(&arn("web:3")), Use::Unknown(_)));
            assert_eq!(scan.next(), after(wait, &scan));
            scan = failed(Some(&scan));
        }
        let scan = self::scan(0, Ok(Found::default()), Some(&scan));
        assert!(matches!(scan.of(&arn("web:3")), Use::Nobody { .. }));
    }
}
