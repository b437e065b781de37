//! Access to the services and tasks of a cluster by the test: no calls, no throttling, no log.

use super::{
    clusters::{Members, Vanished},
    region::Region,
    service::Service,
    task::Task,
};

/// One cluster of a region. Cheap to clone, for use in hooks.
#[derive(Clone, Debug)]
pub struct Cluster {
    region: Region,
    name: String,
}

impl Cluster {
    pub(super) fn new(region: Region, name: &str) -> Self {
        let cluster = Self { region, name: name.to_owned() };
        cluster.with_members(|_| ());
        cluster
    }

    /// Adds a service, or replaces the service of that name.
    ///
    /// # Panics
    ///
    /// Panics if a revision that it uses is not a valid name.
    pub fn put_service(&self, service: Service) {
        let service = service.with_arns(|revision| self.region.arn(revision), self.region.now());
        self.with_members(|members| members.services.insert(service.name.clone(), service));
    }

    /// Removes a service, as ECS does long after a deletion.
    ///
    /// # Panics
    ///
    /// Panics if the service does not exist.
    pub fn remove_service(&self, name: &str) {
        let removed = self.with_members(|members| members.services.remove(name));
        assert!(removed.is_some(), "service {name} does not exist");
    }

    /// Adds a task, or replaces the task of that ID.
    ///
    /// # Panics
    ///
    /// Panics if a revision that it uses is not a valid name.
    pub fn put_task(&self, task: Task) {
        let task = task.with_arn(|revision| self.region.arn(revision), self.region.now());
        self.with_members(|members| members.tasks.insert(task.id.clone(), task));
    }

    /// Removes a task, as ECS does an hour after it stopped.
    ///
    /// # Panics
    ///
    /// Panics if the task does not exist.
    pub fn remove_task(&self, id: &str) {
        let removed = self.with_members(|members| members.tasks.remove(id));
        assert!(removed.is_some(), "task {id} does not exist");
    }

    /// Removes the cluster and its contents. Adding something to it creates it again.
    pub fn remove(&self) {
        self.region.with_clusters(|clusters| clusters.remove(&self.name));
    }

    /// Removes the contents of the cluster but keeps listing it. Adding something to it creates it
    /// again.
    pub fn vanish(&self, vanished: Vanished) {
        self.region.with_clusters(|clusters| {
            *clusters.members_of(&self.name) = Members { vanished: Some(vanished), ..Members::default() };
        });
    }

    fn with_members<T>(&self, run: impl FnOnce(&mut Members) -> T) -> T {
        self.region.with_clusters(|clusters| {
            let members = clusters.members_of(&self.name);
            members.vanished = None;
            run(members)
        })
    }
}
