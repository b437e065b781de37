//! Which resources are due for a pass, and since when: what the workqueue metrics tell. It decides nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use crate::{
    operator::metrics::{WORKQUEUE_ADDS, WORKQUEUE_SECONDS},
    retirement::guarded::Guarded,
};

/// When each resource that is scheduled is due.
#[derive(Debug, Default)]
pub struct Queue {
    due: Mutex<HashMap<ObjectRef<Guarded>, Instant>>,
}

impl Queue {
    /// Notes that a resource is to have a pass at `due`, or earlier if it was to have one already.
    pub fn add(&self, resource: &ObjectRef<Guarded>, due: Instant) {
        let mut scheduled = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        scheduled.entry(resource.clone()).and_modify(|earlier| *earlier = due.min(*earlier)).or_insert_with(
            || {
                metrics::counter!(WORKQUEUE_ADDS).increment(1);
                due
            },
        );
    }

    /// Notes that its pass has begun.
    pub fn start(&self, resource: &ObjectRef<Guarded>, now: Instant) {
        if let Some(due) = self.remove(resource) {
            metrics::histogram!(WORKQUEUE_SECONDS).record(now.saturating_duration_since(due));
        }
    }

    /// Notes that the resource is gone.
    pub fn forget(&self, resource: &ObjectRef<Guarded>) {
        self.remove(resource);
    }

    /// Keeps no room for the many that were due at once, after a restart for example.
    fn remove(&self, resource: &ObjectRef<Guarded>) -> Option<Instant> {
        let mut scheduled = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let due = scheduled.remove(resource);
        let left = scheduled.len();
        if left < scheduled.capacity() / 8 {
            scheduled.shrink_to(2 * left);
        }
        due
    }

    /// How many resources are due at `now`, and wait for a worker.
    #[must_use]
    pub fn depth(&self, now: Instant) -> usize {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|due| **due <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_depth_counts_what_is_due_and_has_not_begun() {
        let (queue, now) = (Queue::default(), Instant::now());
        let resource = |name: &str| ObjectRef::new(name).within("platform");
        queue.add(&resource("due"), now);
        queue.add(&resource("due"), now + Duration::from_secs(5));
        queue.add(&resource("later"), now + Duration::from_secs(5));
        assert_eq!(queue.depth(now), 1);
        assert_eq!(queue.depth(now + Duration::from_secs(5)), 2);
        queue.start(&resource("due"), now);
        assert_eq!(queue.depth(now), 0);
        queue.forget(&resource("later"));
        assert_eq!(queue.depth(now + Duration::from_secs(5)), 0);
    }
}
