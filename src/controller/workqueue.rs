//! The queue of the resources of one kind that need a reconcile: first come, first served.
//!
//! A resource is queued at most once, and is not reconciled twice at the same time. kube-runtime's
//! own scheduler takes due resources in the order of their hashes, so that some would wait without
//! end while all workers are busy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::{Kind, guarded::Guarded};

pub const WORKQUEUE_ADDS: &str = "workqueue_adds_total";
pub const WORKQUEUE_RETRIES: &str = "workqueue_retries_total";
pub const WORKQUEUE_QUEUE_SECONDS: &str = "workqueue_queue_duration_seconds";
pub const WORKQUEUE_WORK_SECONDS: &str = "workqueue_work_duration_seconds";

/// The resources with a scheduled reconcile, and those whose reconcile is in progress.
pub struct Queue<K: Kind> {
    state: Mutex<State<K>>,
}

/// When a reconcile is due. Of those that are due at the same time, the one that was scheduled
/// first is the first.
type Position = (Instant, u64);

struct State<K: Kind> {
    positions: HashMap<ObjectRef<Guarded<K>>, Position>,
    order: BTreeMap<Position, ObjectRef<Guarded<K>>>,
    /// Number of reconciles that were scheduled so far.
    scheduled: u64,
    /// Start time of each reconcile in progress.
    started: HashMap<ObjectRef<Guarded<K>>, Instant>,
}

impl<K: Kind> Default for Queue<K> {
    fn default() -> Self {
        let (positions, order, started) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self { state: Mutex::new(State { positions, order, scheduled: 0, started }) }
    }
}

/// A reconcile in progress, until dropped.
#[must_use = "the reconcile is in progress until this is dropped"]
pub struct Work<K: Kind> {
    queue: Arc<Queue<K>>,
    pub resource: ObjectRef<Guarded<K>>,
}

impl<K: Kind> Queue<K> {
    /// Schedules a reconcile for `due`. If one is scheduled already, the earlier time counts.
    pub fn add(&self, resource: &ObjectRef<Guarded<K>>, due: Instant) {
        let state = &mut *self.state.lock();
        match state.positions.get(resource) {
            Some((earlier, _)) if *earlier <= due => return,
            Some(position) => drop(state.order.remove(position)),
            None => metrics::counter!(WORKQUEUE_ADDS, "name" => K::CONTROLLER).increment(1),
        }
        let position = (due, state.scheduled);
        state.scheduled += 1;
        state.positions.insert(resource.clone(), position);
        state.order.insert(position, resource.clone());
    }

    /// Schedules a reconcile for `due` because the last one failed.
    pub fn retry(&self, resource: &ObjectRef<Guarded<K>>, due: Instant) {
        metrics::counter!(WORKQUEUE_RETRIES, "name" => K::CONTROLLER).increment(1);
        self.add(resource, due);
    }

    /// Starts the reconcile that has been due for longest at `now`. Returns `None` if none is due.
    pub fn start(self: &Arc<Self>, now: Instant) -> Option<Work<K>> {
        let state = &mut *self.state.lock();
        let (due, resource) = state.next().filter(|(due, _)| *due <= now)?;
        let resource = resource.clone();
        state.remove(&resource);
        let waited = now.saturating_duration_since(due);
        metrics::histogram!(WORKQUEUE_QUEUE_SECONDS, "name" => K::CONTROLLER).record(waited);
        state.started.insert(resource.clone(), now);
        Some(Work { queue: self.clone(), resource })
    }

    /// Returns when the next reconcile is due. `None` if no reconcile is scheduled, or if all are
    /// for resources that are being reconciled.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.state.lock().next().map(|(due, _)| due)
    }

    /// Removes a resource that was deleted.
    pub fn forget(&self, resource: &ObjectRef<Guarded<K>>) {
        self.state.lock().remove(resource);
    }

    /// Returns the number of resources that are due at `now` and wait for a worker.
    #[must_use]
    pub fn depth(&self, now: Instant) -> usize {
        self.state.lock().order.range(..=(now, u64::MAX)).count()
    }

    /// Returns the time spent so far in each reconcile in progress.
    #[must_use]
    pub fn unfinished(&self, now: Instant) -> Vec<Duration> {
        self.state.lock().started.values().map(|started| now.saturating_duration_since(*started)).collect()
    }
}

impl<K: Kind> State<K> {
    /// Returns the first resource that is not being reconciled, and when it is due.
    fn next(&self) -> Option<(Instant, &ObjectRef<Guarded<K>>)> {
        let mut waiting = self.order.iter().filter(|(_, resource)| !self.started.contains_key(*resource));
        waiting.next().map(|((due, _), resource)| (*due, resource))
    }

    /// Removes a resource. Shrinks the map after a burst, such as after a restart.
    fn remove(&mut self, resource: &ObjectRef<Guarded<K>>) {
        let Some(position) = self.positions.remove(resource) else { return };
        self.order.remove(&position);
        let left = self.positions.len();
        if left < self.positions.capacity() / 8 {
            self.positions.shrink_to(2 * left);
        }
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

    type Retirements = Queue<TaskDefinitionRetirement>;

    fn resource(name: &str) -> ObjectRef<Guarded<TaskDefinitionRetirement>> {
        ObjectRef::new(name).within("platform")
    }

    fn start(queue: &Arc<Retirements>, now: Instant) -> Option<Work<TaskDefinitionRetirement>> {
        queue.start(now)
    }

    fn name(work: Option<&Work<TaskDefinitionRetirement>>) -> Option<&str> {
        work.map(|work| work.resource.name.as_str())
    }

    #[test]
    fn depth_counts_resources_that_are_due_and_wait() {
        let (queue, now) = (Arc::new(Retirements::default()), Instant::now());
        queue.add(&resource("due"), now);
        queue.add(&resource("due"), now + Duration::from_secs(5));
        queue.add(&resource("later"), now + Duration::from_secs(5));
        assert_eq!(queue.depth(now), 1);
        assert_eq!(queue.depth(now + Duration::from_secs(5)), 2);
        let work = start(&queue, now);
        assert_eq!((name(work.as_ref()), queue.depth(now)), (Some("due"), 0));
        queue.forget(&resource("later"));
        assert_eq!((queue.depth(now + Duration::from_secs(5)), queue.next_due()), (0, None));
    }

    #[test]
    fn resource_that_has_been_due_for_longest_is_first() {
        let (queue, now) = (Arc::new(Retirements::default()), Instant::now());
        let second = |second| now + Duration::from_secs(second);
        for (name, due) in [("c", 3), ("a", 1), ("later", 9), ("b", 1), ("d", 9)] {
            queue.add(&resource(name), second(due));
        }
        queue.add(&resource("d"), second(3));
        assert!(start(&queue, now).is_none());
        assert_eq!(queue.next_due(), Some(second(1)));
        let started: Vec<_> = std::iter::from_fn(|| start(&queue, second(8))).collect();
        let names: Vec<&str> = started.iter().map(|work| work.resource.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(queue.next_due(), Some(second(9)));
    }

    #[test]
    fn resource_is_not_reconciled_twice_at_the_same_time() {
        let (queue, now) = (Arc::new(Retirements::default()), Instant::now());
        queue.add(&resource("a"), now);
        let first = start(&queue, now);
        queue.add(&resource("a"), now);
        assert!(start(&queue, now).is_none());
        assert_eq!(queue.next_due(), None, "its reconcile ends first");
        queue.add(&resource("b"), now);
        let other = start(&queue, now);
        assert_eq!(name(other.as_ref()), Some("b"));
        drop(first);
        assert_eq!(queue.next_due(), Some(now));
        assert_eq!(name(start(&queue, now).as_ref()), Some("a"));
    }

    #[test]
    fn unfinished_work_is_measured_until_it_ends() {
        let (queue, now) = (Arc::new(Retirements::default()), Instant::now());
        queue.add(&resource("first"), now);
        let first = start(&queue, now);
        queue.add(&resource("second"), now);
        let second = start(&queue, now + Duration::from_secs(2));
        let mut unfinished = queue.unfinished(now + Duration::from_secs(5));
        unfinished.sort();
        assert_eq!(unfinished, [Duration::from_secs(3), Duration::from_secs(5)]);
        drop(first);
        assert_eq!(queue.unfinished(now + Duration::from_secs(5)), [Duration::from_secs(3)]);
        drop(second);
        assert!(queue.unfinished(now).is_empty());
    }
}
