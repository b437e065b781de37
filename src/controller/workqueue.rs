//! Mirrors the queue of kube-runtime for the workqueue metrics. It does not schedule anything.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::{Kind, guarded::Guarded};

pub const WORKQUEUE_ADDS: &str = "workqueue_adds_total";
pub const WORKQUEUE_RETRIES: &str = "workqueue_retries_total";
pub const WORKQUEUE_QUEUE_SECONDS: &str = "workqueue_queue_duration_seconds";
pub const WORKQUEUE_WORK_SECONDS: &str = "workqueue_work_duration_seconds";

/// The due time of each scheduled resource, and the start time of each reconcile in progress.
pub struct Queue<K: Kind> {
    state: Mutex<State<K>>,
}

struct State<K: Kind> {
    due: HashMap<ObjectRef<Guarded<K>>, Instant>,
    started: HashMap<ObjectRef<Guarded<K>>, Instant>,
}

impl<K: Kind> Default for Queue<K> {
    fn default() -> Self {
        Self { state: Mutex::new(State { due: HashMap::new(), started: HashMap::new() }) }
    }
}

/// A reconcile in progress, until dropped.
#[must_use = "the reconcile is in progress until this is dropped"]
pub struct Work<K: Kind> {
    queue: Arc<Queue<K>>,
    resource: ObjectRef<Guarded<K>>,
}

impl<K: Kind> Queue<K> {
    /// Schedules a reconcile for `due`. If one is scheduled already, the earlier time counts.
    pub fn add(&self, resource: &ObjectRef<Guarded<K>>, due: Instant) {
        let scheduled = &mut self.state.lock().due;
        scheduled.entry(resource.clone()).and_modify(|earlier| *earlier = due.min(*earlier)).or_insert_with(
            || {
                metrics::counter!(WORKQUEUE_ADDS, "name" => K::CONTROLLER).increment(1);
                due
            },
        );
    }

    /// Schedules a reconcile for `due` because the last one failed.
    pub fn retry(&self, resource: &ObjectRef<Guarded<K>>, due: Instant) {
        metrics::counter!(WORKQUEUE_RETRIES, "name" => K::CONTROLLER).increment(1);
        self.add(resource, due);
    }

    /// Records the start of a reconcile.
    pub fn start(self: &Arc<Self>, resource: &ObjectRef<Guarded<K>>, now: Instant) -> Work<K> {
        if let Some(due) = self.remove(resource) {
            let waited = now.saturating_duration_since(due);
            metrics::histogram!(WORKQUEUE_QUEUE_SECONDS, "name" => K::CONTROLLER).record(waited);
        }
        self.state.lock().started.insert(resource.clone(), now);
        Work { queue: self.clone(), resource: resource.clone() }
    }

    /// Removes a resource that was deleted.
    pub fn forget(&self, resource: &ObjectRef<Guarded<K>>) {
        self.remove(resource);
    }

    /// Removes a resource and returns its due time. Shrinks the map after a burst, such as after a
    /// restart.
    fn remove(&self, resource: &ObjectRef<Guarded<K>>) -> Option<Instant> {
        let scheduled = &mut self.state.lock().due;
        let due = scheduled.remove(resource);
        let left = scheduled.len();
        if left < scheduled.capacity() / 8 {
            scheduled.shrink_to(2 * left);
        }
        due
    }

    /// Returns the number of resources that are due at `now` and wait for a worker.
    #[must_use]
    pub fn depth(&self, now: Instant) -> usize {
        self.state.lock().due.values().filter(|due| **due <= now).count()
    }

    /// Returns the time spent so far in each reconcile in progress.
    #[must_use]
    pub fn unfinished(&self, now: Instant) -> Vec<Duration> {
        self.state.lock().started.values().map(|started| now.saturating_duration_since(*started)).collect()
    }
}

impl<K: Kind> Drop for Work<K> {
    fn drop(&mut self) {
        if let Some(started) = self.queue.state.lock().started.remove(&self.resource) {
            metrics::histogram!(WORKQUEUE_WORK_SECONDS, "name" => K::CONTROLLER).record(started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TaskDefinitionRetirement;

    fn resource(name: &str) -> ObjectRef<Guarded<TaskDefinitionRetirement>> {
        ObjectRef::new(name).within("platform")
    }

    #[test]
    fn depth_counts_resources_that_are_due_and_not_being_reconciled() {
        let (queue, now) = (Arc::new(Queue::default()), Instant::now());
        queue.add(&resource("due"), now);
        queue.add(&resource("due"), now + Duration::from_secs(5));
        queue.add(&resource("later"), now + Duration::from_secs(5));
        assert_eq!(queue.depth(now), 1);
        assert_eq!(queue.depth(now + Duration::from_secs(5)), 2);
        let _work = queue.start(&resource("due"), now);
        assert_eq!(queue.depth(now), 0);
        queue.forget(&resource("later"));
        assert_eq!(queue.depth(now + Duration::from_secs(5)), 0);
    }

    #[test]
    fn unfinished_work_is_measured_until_it_ends() {
        let (queue, now) = (Arc::new(Queue::default()), Instant::now());
        let first = queue.start(&resource("first"), now);
        let second = queue.start(&resource("second"), now + Duration::from_secs(2));
        let mut unfinished = queue.unfinished(now + Duration::from_secs(5));
        unfinished.sort();
        assert_eq!(unfinished, [Duration::from_secs(3), Duration::from_secs(5)]);
        drop(first);
        assert_eq!(queue.unfinished(now + Duration::from_secs(5)), [Duration::from_secs(3)]);
        drop(second);
        assert!(queue.unfinished(now).is_empty());
    }
}
