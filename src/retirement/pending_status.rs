//! Rows of revisions that ECS has deregistered and whose status write failed. They are
//! kept in memory until a write succeeds.

use std::collections::HashMap;

use crate::api::{RevisionStatus, TaskDefinitionRetirementStatus};
use parking_lot::Mutex;

/// Rows that are not written yet, by the uid of their resource.
#[derive(Debug, Default)]
pub struct PendingStatus {
    rows: Mutex<HashMap<String, Vec<RevisionStatus>>>,
}

impl PendingStatus {
    /// Keeps the rows of retired revisions until [`Self::forget`]: ECS returns the request id of a
    /// deregistration only once. Other rows are dropped, as they can be observed again.
    pub fn keep(&self, uid: &str, rows: impl Iterator<Item = RevisionStatus>) {
        let mut pending_status = self.rows.lock();
        for row in rows.filter(|row| row.reason.is_retired()) {
            let rows_of_resource = pending_status.entry(uid.to_owned()).or_default();
            rows_of_resource.retain(|older| older.revision != row.revision);
            rows_of_resource.push(row);
        }
    }

    /// Removes the rows of a resource. Call it once they are written or the resource is deleted.
    pub fn forget(&self, uid: &str) {
        self.rows.lock().remove(uid);
    }

    /// Returns the recorded status, with its rows replaced by those that are not written yet.
    /// Returns `None` if no status is recorded.
    #[must_use]
    pub fn restore(
        &self,
        uid: &str,
        recorded: Option<TaskDefinitionRetirementStatus>,
    ) -> Option<TaskDefinitionRetirementStatus> {
        let rows = self.rows.lock().get(uid).cloned();
        let mut status = recorded?;
        for row in rows.into_iter().flatten() {
            match status.revisions.iter_mut().find(|it| it.revision == row.revision) {
                // Another replica has recorded the revision meanwhile. ECS returns a request id
                // only once, so the kept one is used if none is recorded.
                Some(recorded) if recorded.reason.is_retired() => {
                    recorded.request_id = recorded.request_id.take().or(row.request_id);
                }
                Some(recorded) => *recorded = row,
                None => status.revisions.push(row),
            }
        }
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    fn row(revision: &str, status: &str, request_id: Option<&str>) -> RevisionStatus {
        RevisionStatus {
            revision: revision.to_owned(),
            status: Some(status.to_owned()),
            reason: if status == "ACTIVE" { Reason::Pending } else { Reason::Retired },
            request_id: request_id.map(str::to_owned),
            ..RevisionStatus::default()
        }
    }

    fn restored(pending_status: &PendingStatus, recorded: Vec<RevisionStatus>) -> Vec<RevisionStatus> {
        let status = TaskDefinitionRetirementStatus { revisions: recorded, ..Default::default() };
        pending_status.restore("uid", Some(status)).expect("a status").revisions
    }

    #[test]
    fn pending_row_replaces_the_recorded_one_until_it_is_written() {
        let pending_status = PendingStatus::default();
        let recorded = || vec![row("api:1", "ACTIVE", None), row("api:2", "ACTIVE", None)];
        let observed = row("api:1", "INACTIVE", Some("request"));
        pending_status.keep("uid", [observed.clone()].into_iter());
        assert_eq!(restored(&pending_status, recorded()), [observed, row("api:2", "ACTIVE", None)]);
        pending_status.forget("uid");
        assert_eq!(restored(&pending_status, recorded()), recorded());
    }

    #[test]
    fn latest_row_of_each_revision_is_kept_even_if_none_is_recorded() {
        let pending_status = PendingStatus::default();
        let (first, other) =
            (row("api:1", "INACTIVE", Some("first")), row("api:2", "INACTIVE", Some("other")));
        let latest = row("api:1", "INACTIVE", Some("latest"));
        pending_status.keep("uid", [first, other.clone()].into_iter());
        pending_status.keep("uid", [latest.clone(), row("api:3", "ACTIVE", None)].into_iter());
        assert_eq!(
            restored(&pending_status, Vec::new()),
            [other, latest],
            "an ACTIVE revision can be observed again"
        );
        assert_eq!(pending_status.restore("uid", None), None);
    }

    #[test]
    fn row_recorded_by_another_replica_only_gets_the_request_id() {
        let pending_status = PendingStatus::default();
        pending_status
            .keep("uid", [row("api:1", "INACTIVE", Some("ours")), row("api:2", "ACTIVE", None)].into_iter());
        let deleted = |request_id| row("api:1", "DELETE_IN_PROGRESS", request_id);
        let recorded = vec![deleted(None), row("api:2", "INACTIVE", Some("theirs"))];
        let expected = [deleted(Some("ours")), row("api:2", "INACTIVE", Some("theirs"))];
        assert_eq!(restored(&pending_status, recorded), expected);
    }
}
