//! Locks for revisions, by ARN: a revision that two resources declare is deregistered once.

use std::collections::HashSet;

use crate::task_definition::Arn;
use parking_lot::Mutex;

/// The revisions that are locked in this process.
#[derive(Debug, Default)]
pub struct RevisionLocks {
    locked: Mutex<HashSet<Arn>>,
}

/// RAII lock for one revision; released on drop.
#[derive(Debug)]
pub struct RevisionLock<'a> {
    locks: &'a RevisionLocks,
    arn: Arn,
}

impl RevisionLocks {
    /// Locks a revision. Returns `None` if another reconcile has locked it.
    pub fn lock(&self, arn: &Arn) -> Option<RevisionLock<'_>> {
        let is_free = self.locked.lock().insert(arn.clone());
        is_free.then(|| RevisionLock { locks: self, arn: arn.clone() })
    }
}

impl Drop for RevisionLock<'_> {
    fn drop(&mut self) {
        self.locks.locked.lock().remove(&self.arn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_definition::Reference;

    #[test]
    fn revision_is_locked_once_at_a_time() {
        let arn = |revision| {
            let text = format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{revision}");
            let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
            arn
        };
        let locks = RevisionLocks::default();
        let lock = locks.lock(&arn("api:1")).expect("a lock");
        assert!(locks.lock(&arn("api:1")).is_none());
        assert!(locks.lock(&arn("api:2")).is_some());
        drop(lock);
        assert!(locks.lock(&arn("api:1")).is_some());
    }
}
