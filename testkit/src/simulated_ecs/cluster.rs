//! The test's own way to the services and tasks of a cluster: no call, no throttling, no log.

use super::{
    clusters::{Members, Vanished},
    region::Region,
    service::Service,
    task::Task,
};

/// One cluster of a region. Cheap to clone, so that a hook can own one.
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

    /// Puts a service in the place of the one of that name, if there is one.
    ///
    /// # Panics
    ///
    /// When what it uses is not the name of a task definition revision.
    pub fn put_service(&self, service: Service) {
        let service = service.with_arns(|revision| self.region.arn(revision), self.region.now());
        self.with_members(|members| members.services.insert(service.name.clone(), service));
    }

    /// Makes a service vanish, as ECS does long after a deletion.
    ///
    /// # Panics
    ///
    /// When there is no such service.
    pub fn remove_service(&self, name: &str) {
        let removed = self.with_members(|members| members.services.remove(name));
        assert!(removed.is_some(), "service {name} does not exist");
    }

    /// Puts a task in the place of the one of that id, if there is one.
    ///
    /// # Panics
    ///
    /// When what it uses is not the name of a task definition revision.
    pub fn put_task(&self, task: Task) {
        let task = task.with_arn(|revision| self.region.arn(revision), self.region.now());
        self.with_members(|members| members.tasks.insert(task.id.clone(), task));
    }

    /// Makes a task vanish, as ECS does an hour after it stopped.
    ///
    /// # Panics
    ///
    /// When there is no such task.
    pub fn remove_task(&self, id: &str) {
        let removed = self.with_members(|members| members.tasks.remove(id));
        assert!(removed.is_some(), "task {id} does not exist");
    }

    /// Makes the cluster vanish with all that is in it; to put something into it makes it anew.
    pub fn remove(&self) {
        self.region.with_clusters(|clusters| clusters.remove(&self.name));
    }

    /// Makes the cluster vanish with all that is in it, but for its place in the list; to put something into it makes it anew.
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
