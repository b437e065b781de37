//! Access to a region by the test: no calls, no throttling, no log.

use super::{
    SECRET,
    caller::Caller,
    cluster::Cluster,
    clusters::Clusters,
    identifier::Identifier,
    simulation::Simulation,
    store::{Key, Revision, Status, TaskDefinitions},
    task_definitions,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::{fmt, iter, sync::Arc};

/// One region of one account. Cheap to clone, for use in hooks.
///
/// Revisions are named by `family:revision` or by ARN.
#[derive(Clone)]
pub struct Region {
    simulation: Arc<Simulation>,
    caller: Caller,
}

/// All facts about one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The full ARN.
    pub arn: String,
    /// The family.
    pub family: String,
    /// The revision number.
    pub revision: i32,
    /// The status.
    pub status: Status,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// When it was deregistered.
    pub deregistered_at: Option<Timestamp>,
    /// When its deletion was requested.
    pub delete_requested_at: Option<Timestamp>,
}

impl Region {
    pub(super) fn new(simulation: Arc<Simulation>, account: &str, region: &str) -> Self {
        Self { simulation, caller: Caller::of(account, region) }
    }

    /// Registers a revision with [`SECRET`] in its environment, and returns its number.
    #[expect(clippy::must_use_candidate, reason = "tests know the number of the first revision")]
    pub fn register(&self, family: &str) -> i32 {
        self.register_many(family, 1)
    }

    /// Registers `count` equal revisions, and returns the number of the last one, or 0 if `count`
    /// is 0.
    #[expect(clippy::must_use_candidate, reason = "tests know the number of the first revision")]
    pub fn register_many(&self, family: &str, count: usize) -> i32 {
        let now = self.now();
        self.with_store(|store| self.add_equal(store, family, iter::repeat_n(now, count)))
    }

    /// Registers `count` equal revisions, the first one at `first` and each other one `step` after
    /// the one before. Returns the number of the last one, or 0 if `count` is 0.
    ///
    /// # Panics
    ///
    /// Panics if a registration time would be earlier than that of the revision before.
    #[expect(clippy::must_use_candidate, reason = "tests know the number of the first revision")]
    pub fn register_many_at(
        &self,
        family: &str,
        count: usize,
        first: Timestamp,
        step: SignedDuration,
    ) -> i32 {
        assert!(!step.is_negative(), "registration times rise with the revision number");
        let times = iter::successors(Some(first), |time| time.checked_add(step).ok()).take(count);
        let latest = self.with_store(|store| store.latest(family).map(|latest| latest.registered_at));
        assert!(
            latest.is_none_or(|latest| latest <= first),
            "{first} is earlier than the registration of the revision before"
        );
        self.with_store(|store| self.add_equal(store, family, times))
    }

    /// Returns all facts about a revision, or `None` if it does not exist.
    #[must_use]
    pub fn describe(&self, revision: &str) -> Option<Record> {
        let key = self.key(revision);
        self.with_store(|store| store.get(&key).map(|found| self.record(&key, found)))
    }

    /// Returns the status of a revision, or `None` if it does not exist.
    #[must_use]
    pub fn status(&self, revision: &str) -> Option<Status> {
        self.describe(revision).map(|record| record.status)
    }

    /// Returns the ARN of a revision, whether or not it exists.
    #[must_use]
    pub fn arn(&self, revision: &str) -> String {
        let (family, number) = self.key(revision);
        self.caller.task_definition_arn(&family, number)
    }

    /// Sets the status of a revision, including transitions that ECS does not allow.
    ///
    /// # Panics
    ///
    /// Panics if the revision does not exist.
    pub fn set_status(&self, revision: &str, status: Status) {
        let key = self.key(revision);
        let now = self.simulation.now().time;
        let exists = self.with_store(|store| store.set_status(&key, status, now).is_some());
        assert!(exists, "{revision} does not exist");
    }

    /// Removes a revision. Its number is never reused.
    ///
    /// # Panics
    ///
    /// Panics if the revision does not exist.
    pub fn remove(&self, revision: &str) {
        let key = self.key(revision);
        let removed = self.with_store(|store| store.remove(&key));
        assert!(removed.is_some(), "{revision} does not exist");
    }

    /// Returns a cluster, which is created if it does not exist.
    #[expect(clippy::must_use_candidate, reason = "tests may only need an empty cluster")]
    pub fn cluster(&self, name: &str) -> Cluster {
        Cluster::new(self.clone(), name)
    }

    pub(super) fn with_clusters<T>(&self, run: impl FnOnce(&mut Clusters) -> T) -> T {
        run(self.simulation.lock().clusters(&self.caller))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.simulation.now().time
    }

    fn key(&self, revision: &str) -> Key {
        match Identifier::parse(revision, &self.caller) {
            Ok(Identifier { family, revision: Some(number) }) => (family, number),
            Ok(_) => panic!("{revision} has no revision number"),
            Err(failure) => panic!("{revision}: {}", failure.message),
        }
    }

    fn with_store<T>(&self, run: impl FnOnce(&mut TaskDefinitions) -> T) -> T {
        run(self.simulation.lock().task_definitions(&self.caller))
    }

    /// Adds one revision for each registration time; all share one definition.
    fn add_equal(
        &self,
        store: &mut TaskDefinitions,
        family: &str,
        times: impl Iterator<Item = Timestamp>,
    ) -> i32 {
        let input = json!({
            "containerDefinitions": [{
                "name": family,
                "image": "public.ecr.aws/docker/library/busybox:latest",
                "environment": [{"name": "DATABASE_PASSWORD", "value": SECRET}],
            }],
            "cpu": "256",
            "memory": "512",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
        });
        let definition = Arc::new(task_definitions::definition(&self.caller, &input));
        times.fold(0, |_, time| store.add(family, Arc::clone(&definition), time))
    }

    fn record(&self, (family, number): &Key, found: &Revision) -> Record {
        Record {
            arn: self.caller.task_definition_arn(family, *number),
            family: family.clone(),
            revision: *number,
            status: found.status,
            registered_at: found.registered_at,
            deregistered_at: found.deregistered_at,
            delete_requested_at: found.delete_requested_at,
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.caller.location().fmt(formatter)
    }
}
