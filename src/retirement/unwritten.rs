//! What ECS answered and no status holds yet, because a write failed: kept until one succeeds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::api::{RevisionStatus, TaskDefinitionRetirementStatus};

/// Rows that are still to be written, by the uid of their resource.
#[derive(Debug, Default)]
pub struct Unwritten {
    rows: Mutex<HashMap<String, Vec<RevisionStatus>>>,
}

impl Unwritten {
    /// Keeps `rows` until [`Self::forget`].
    pub fn keep(&self, uid: &str, rows: Vec<RevisionStatus>) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), rows);
    }

    /// To be called once they are written, or the resource is gone.
    pub fn forget(&self, uid: &str) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The recorded status with the rows that are still to be written in the place of older ones.
    #[must_use]
    pub fn restore(
        &self,
        uid: &str,
        recorded: Option<TaskDefinitionRetirementStatus>,
    ) -> Option<TaskDefinitionRetirementStatus> {
        let unwritten = self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
        let (Some(rows), Some(mut status)) = (unwritten, recorded.clone()) else { return recorded };
        let older = |row: &RevisionStatus| !rows.iter().any(|it| it.revision == row.revision);
        status.revisions.retain(older);
        status.revisions.extend(rows);
        Some(status)
    }
}
