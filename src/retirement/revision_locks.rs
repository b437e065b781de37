//! Which revisions are in a pass's hands now: two resources that declare one revision deregister it once.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::task_definition::Arn;

/// The revisions in hand in this process.
#[derive(Debug, Default)]
pub struct RevisionLocks {
    taken: Mutex<HashSet<Arn>>,
}

/// A revision in hand until dropped, however the pass ends.
#[derive(Debug)]
pub struct RevisionLock<'a> {
    claims: &'a RevisionLocks,
    arn: Arn,
}

impl RevisionLocks {
    /// Takes a revision in hand; `None` while another pass has it.
    pub fn take(&self, arn: &Arn) -> Option<RevisionLock<'_>> {
        let is_free = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(arn.clone());
        is_free.then(|| RevisionLock { claims: self, arn: arn.clone() })
    }
}

impl Drop for RevisionLock<'_> {
    fn drop(&mut self) {
        self.claims.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.arn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_definition::Reference;

    #[test]
    fn a_revision_is_in_one_hand_at_a_time() {
        let arn = |revision| {
            let text = format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{revision}");
            let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
            arn
        };
        let claims = RevisionLocks::default();
        let claim = claims.take(&arn("api:1")).expect("nobody has it");
        assert!(claims.take(&arn("api:1")).is_none());
        assert!(claims.take(&arn("api:2")).is_some());
        drop(claim);
        assert!(claims.take(&arn("api:1")).is_some());
    }
}
