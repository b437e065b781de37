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
use jiff::Timestamp;
use serde_json::json;
use std::{fmt, sync::Arc};

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
        let caller = Caller { account: account.to_owned(), region: region.to_owned() };
        Self { simulation, caller }
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
        let now = self.simulation.now().time;
        self.with_store(|store| (0..count).fold(0, |_, _| store.add(family, Arc::clone(&definition), now)))
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
        let found = self.with_store(|store| store.get_mut(&key).map(|found| found.set_status(status, now)));
        assert!(found.is_some(), "{revision} does not exist");
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
        self.caller.fmt(formatter)
    }
}
