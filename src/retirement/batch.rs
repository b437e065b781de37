//! What the steps of one batch share, and its result.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    api::{RevisionStatus, TaskDefinitionRetirement},
    aws::{
        freshness::Purpose,
        session::{VerifiedSession, Waiter},
        usage::Use,
    },
    controller::Error,
    retirement::{
        admission::Admitted,
        context::Context,
        outcome::{Outcome, RevisionKey},
        plan::remaining_cool_down,
        requeue::Progress,
        validate::ValidatedSpec,
    },
    shutdown::Delay,
    task_definition::Arn,
};

/// Requeue delay while AWS's time is unknown.
const TIME_UNKNOWN_DELAY: Duration = Duration::from_secs(5);

/// The resource of a batch, its spec and its recorded rows, and the session in which it is
/// processed.
pub(super) struct Batch<'a> {
    pub(super) context: &'a Context,
    pub(super) api: &'a Api<TaskDefinitionRetirement>,
    pub(super) resource: &'a TaskDefinitionRetirement,
    pub(super) admitted: &'a Admitted,
    pub(super) rows: &'a [RevisionStatus],
    pub(super) waiter: &'a Waiter,
    /// The earliest possible time by AWS's clock, or `None` while it is unknown.
    pub(super) now: Option<Timestamp>,
    pub(super) newest_lists: NewestLists,
}

/// The newest ACTIVE revisions of each family, with the time at which their list began.
#[derive(Debug, Default)]
pub(super) struct NewestLists(pub(super) Mutex<HashMap<String, (Instant, Vec<i32>)>>);

/// Result of one batch.
pub(super) struct BatchResult {
    pub(super) outcomes: BTreeMap<RevisionKey, Outcome>,
    /// The entries that wait for the next usage scan, with the remaining time of their cool-down.
    /// `None` if the entry is not cooling down.
    pub(super) watched: BTreeMap<RevisionKey, Option<Duration>>,
    /// End of the usage scan by AWS's clock. `None` if the scan did not confirm all revisions that
    /// are cooling down.
    pub(super) scanned_at: Option<Timestamp>,
    pub(super) progress: Progress,
    /// `Err` if a Kubernetes call failed.
    pub(super) end: Result<(), Error>,
    /// Delays shutdown from before the first irreversible call. Keep it until the responses are
    /// recorded.
    pub(super) delay: Option<Delay>,
}

impl BatchResult {
    pub(super) fn new(progress: Progress) -> Self {
        let (outcomes, watched) = (BTreeMap::new(), BTreeMap::new());
        Self { outcomes, watched, scanned_at: None, progress, end: Ok(()), delay: None }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn spec(&self) -> &'a ValidatedSpec {
        &self.admitted.spec
    }

    pub(super) fn session(&self) -> &'a VerifiedSession {
        &self.waiter.session
    }

    /// Returns the recorded row of a resolved revision.
    pub(super) fn row(&self, key: &RevisionKey) -> Option<&'a RevisionStatus> {
        self.rows.iter().find(|row| row.revision == key.as_str())
    }

    pub(super) fn subscribe(&self, arn: &Arn, purpose: Purpose) -> Option<Use> {
        self.session().usage.subscribe(&self.waiter.key, arn, purpose)
    }

    /// Returns the remaining time of the cool-down of a revision, or `None` if it is not cooling
    /// down.
    pub(super) fn remaining_cool_down(&self, row: Option<&RevisionStatus>, usage: &Use) -> Option<Duration> {
        let left = remaining_cool_down(self.spec(), row, usage, self.now);
        let is_unknown = self.now.is_none() && matches!(usage, Use::Unused { .. });
        left.or(is_unknown.then_some(TIME_UNKNOWN_DELAY))
    }
}
