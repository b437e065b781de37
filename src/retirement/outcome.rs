//! The outcome of one reconcile for one revision, and the key of its row. No I/O.

use std::fmt;

use crate::aws::{
    response::{DescribeResult, Description, FailureKind, Reply},
    usage::Use,
};

/// The key of a row: the revision in the short form, or the entry of the spec as it is written if
/// it belongs to another account or region.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RevisionKey(String);

impl RevisionKey {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RevisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Result of one reconcile for one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Described; no action.
    Described(DescribeResult),
    /// ACTIVE, and `DeregisterTaskDefinition` was called. `after` is the description after the
    /// call, if one was required.
    Deregistered { before: Description, reply: Reply, after: Option<DescribeResult> },
    /// ACTIVE, and must not be deregistered yet because of `usage`. `before` is the description, if
    /// one was read.
    MustWait { before: Option<Description>, usage: Use },
    /// Unused and ready to be deregistered.
    Unused,
    /// ACTIVE, and kept for this reason.
    Kept { before: Description, because: String },
}

impl Outcome {
    /// Returns the kind of failure of the deregistration or, without one, of the description.
    /// `None` if it succeeded.
    #[must_use]
    pub fn failure(&self) -> Option<FailureKind> {
        let result = match self {
            Self::Described(described) => described,
            Self::Deregistered { reply, .. } => &reply.response,
            Self::MustWait { .. } | Self::Unused | Self::Kept { .. } => return None,
        };
        result.as_ref().err().map(|failure| failure.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::response::{Failure, Status};

    #[test]
    fn failure_is_that_of_the_deregistration_or_description() {
        let failure = |kind| Failure::new(kind, String::new());
        let before = Description { status: Status::Active, registered_at: None, deregistered_at: None };
        let deregistered = |response| Outcome::Deregistered {
            before: before.clone(),
            reply: Reply { response, request_id: None },
            after: Some(Err(failure(FailureKind::Throttled))),
        };
        let rejected = FailureKind::Refused;
        assert_eq!(Outcome::Described(Err(failure(rejected))).failure(), Some(rejected));
        assert_eq!(deregistered(Err(failure(rejected))).failure(), Some(rejected));
        assert_eq!(
            deregistered(Ok(before.clone())).failure(),
            None,
            "the description afterwards does not count"
        );
        assert_eq!(Outcome::Unused.failure(), None);
    }
}
