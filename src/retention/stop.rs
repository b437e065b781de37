//! Why a run ends early. No I/O.

use crate::{aws::response::Failure, controller::Error};

/// Why a run ends early. The next reconcile resumes it.
#[derive(Debug)]
pub enum Stop {
    /// The policy, or what its EcsAccount allows, has changed. The next reconcile uses the new one.
    Changed,
    /// This process is no longer the leader, or shuts down.
    Inactive,
    Aws(Failure),
    Kubernetes(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Kubernetes(error)
    }
}
