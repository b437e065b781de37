//! What users changed or requested since a status was recorded. No I/O.

use kube::ResourceExt;

use crate::{
    api::{REQUESTED_AT, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    retirement::size::REQUESTED_AT_BYTES,
    text::cut,
};

/// Returns the value of the annotation that requests a reconcile, truncated as in the status.
#[must_use]
pub fn requested_at(resource: &TaskDefinitionRetirement) -> Option<String> {
    let mut requested = resource.annotations().get(REQUESTED_AT).cloned();
    if let Some(requested) = &mut requested {
        cut(requested, REQUESTED_AT_BYTES);
    }
    requested
}

/// Changes and requests by users since the status was recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trigger {
    pub spec_changed: bool,
    pub reconcile_requested: bool,
}

impl Trigger {
    #[must_use]
    pub fn of(resource: &TaskDefinitionRetirement, recorded: &TaskDefinitionRetirementStatus) -> Self {
        let requested = requested_at(resource);
        Self {
            spec_changed: recorded.observed_generation != resource.metadata.generation,
            reconcile_requested: requested.is_some() && requested != recorded.last_handled_reconcile_at,
        }
    }

    #[must_use]
    pub fn is_due(self) -> bool {
        self.spec_changed || self.reconcile_requested
    }
}
