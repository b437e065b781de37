//! The test's own way to what a region has: no call, no throttling, no log.

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

/// One region of one account. Cheap to clone, so that a hook can own one.
///
/// Revisions go by `family:revision`; the ARN does as well.
#[derive(Clone)]
pub struct Region {
    simulation: Arc<Simulation>,
    caller: Caller,
}

/// What there is to know about one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The full ARN.
    pub arn: String,
    /// The family's name.
    pub family: String,
    /// The number in the family.
    pub revision: i32,
    /// Where in its life it is.
    pub status: Status,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// When it was deregistered.
    pub deregistered_at: Option<Timestamp>,
    /// When its deletion was asked for.
    pub delete_requested_at: Option<Timestamp>,
}

impl Region {
    pub(super) fn new(simulation: Arc<Simulation>, account: &str, region: &str) -> Self {
        let caller = Caller { account: account.to_owned(), region: region.to_owned() };
        Self { simulation, caller }
    }

    /// Registers a revision with [`SECRET`] in its environment; gives its number.
    #[expect(clippy::must_use_candidate, reason = "a test that registers the first one knows its number")]
    pub fn register(&self, family: &str) -> i32 {
        self.register_many(family, 1)
    }

    /// Registers that many revisions alike; gives the number of the last one, or 0 for none.
    #[expect(clippy::must_use_candidate, reason = "a test that registers the first one knows its number")]
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

    /// Everything about a revision, if it exists.
    #[must_use]
    pub fn describe(&self, revision: &str) -> Option<Record> {
        let key = self.key(revision);
        self.with_store(|store| store.get(&key).map(|found| self.record(&key, found)))
    }

    /// The status of a revision, if it exists.
    #[must_use]
    pub fn status(&self, revision: &str) -> Option<Status> {
        self.describe(revision).map(|record| record.status)
    }

    /// The ARN of a revision, existing or not.
    #[must_use]
    pub fn arn(&self, revision: &str) -> String {
        let (family, number) = self.key(revision);
        self.caller.task_definition_arn(&family, number)
    }

    /// Moves a revision to a status, even to one that ECS would not move it to.
    ///
    /// # Panics
    ///
    /// When there is no such revision.
    pub fn set_status(&self, revision: &str, status: Status) {
        let key = self.key(revision);
        let now = self.simulation.now().time;
        let found = self.with_store(|store| store.get_mut(&key).map(|found| found.set_status(status, now)));
        assert!(found.is_some(), "{revision} does not exist");
    }

    /// Makes a revision vanish; its number is never given out again.
    ///
    /// # Panics
    ///
    /// When there is no such revision.
    pub fn remove(&self, revision: &str) {
        let key = self.key(revision);
        let removed = self.with_store(|store| store.remove(&key));
        assert!(removed.is_some(), "{revision} does not exist");
    }

    /// A cluster, to put users of task definitions into; it is made where it does not exist.
    #[expect(clippy::must_use_candidate, reason = "a test may want no more than a cluster that is empty")]
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
