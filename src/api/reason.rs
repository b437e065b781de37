//! The reasons of a row, and the properties of each reason. No I/O.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// The state of a revision, and why it has that state.
///
/// The CRD has no `enum` for it, because an older CRD would then reject every status with a newer
/// reason. An unknown reason is read as [`Self::Pending`], which is not final, so the next
/// reconcile replaces it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    Eq,
    Hash,
    IntoStaticStr,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    VariantArray,
)]
pub enum Reason {
    /// ECS reports it as INACTIVE.
    Retired,
    /// ECS is deleting it.
    Deleting,
    /// ECS has deleted it. This is known because it was retired before, or its family has a newer
    /// revision.
    Deleted,
    /// It is ACTIVE and in use.
    InUse,
    /// It is ACTIVE and unused, but not yet for `spec.unusedFor`. Earlier versions wrote `Quiet`.
    #[serde(alias = "Quiet")]
    CoolingDown,
    /// It is ACTIVE, and `spec.keepLatest` or the policy of the resource keeps it now.
    Kept,
    /// ECS throttles the account's calls; retried automatically.
    Throttled,
    /// AWS is unreachable or returned a server error; retried automatically.
    Unavailable,
    /// It is ACTIVE and `spec.suspend` is set.
    Suspended,
    /// It is ACTIVE and would be deregistered without `spec.dryRun`.
    DryRun,
    /// The entry is not a revision; ECS was not called.
    Invalid,
    /// The entry belongs to another account or partition; ECS was not called.
    WrongAccount,
    /// The entry belongs to another region; ECS was not called.
    WrongRegion,
    /// There is no EcsAccount of the declared name; ECS was not called.
    AccountNotFound,
    /// The credentials of the EcsAccount cannot be used; ECS was not called.
    AccountNotReady,
    /// The EcsAccount does not allow it; ECS was not called.
    NotAllowed,
    /// AWS denies the call; retried with backoff.
    AccessDenied,
    /// ECS rejects the call; retried with backoff.
    Refused,
    /// ECS has no such revision; not retried until the spec changes or a reconcile is requested.
    NotFound,
    /// It waits to be described or deregistered.
    #[default]
    #[serde(other)]
    Pending,
}

/// The class of a reason, which decides the conditions and counts of the resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReasonClass {
    Retired,
    Progressing,
    /// Suspended or a dry run.
    OnHold,
    /// Manual intervention is required.
    Rejected,
}

/// The order in which the rows of one resource are processed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    Untried,
    /// Only a description is pending, such as for `deregisteredAt`.
    Verification,
    Failed,
}

impl Reason {
    /// Returns the reason as it is written in the status, such as `CoolingDown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the class of the reason.
    #[must_use]
    pub fn class(self) -> ReasonClass {
        match self {
            Self::Retired | Self::Deleting | Self::Deleted => ReasonClass::Retired,
            Self::Pending
            | Self::InUse
            | Self::CoolingDown
            | Self::Kept
            | Self::Throttled
            | Self::Unavailable => ReasonClass::Progressing,
            Self::Suspended | Self::DryRun => ReasonClass::OnHold,
            Self::Invalid
            | Self::WrongAccount
            | Self::WrongRegion
            | Self::AccountNotFound
            | Self::AccountNotReady
            | Self::NotAllowed
            | Self::AccessDenied
            | Self::Refused
            | Self::NotFound => ReasonClass::Rejected,
        }
    }

    /// Returns true if ECS has reported the revision as retired.
    #[must_use]
    pub fn is_retired(self) -> bool {
        self.class() == ReasonClass::Retired
    }

    /// Returns true if the EcsAccount is the cause.
    #[must_use]
    pub fn is_of_account(self) -> bool {
        matches!(self, Self::AccountNotFound | Self::AccountNotReady | Self::NotAllowed)
    }

    /// Returns true if nothing is left to do until the spec changes or a reconcile is requested.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Retired
            | Self::Deleting
            | Self::Deleted
            | Self::Suspended
            | Self::DryRun
            | Self::Invalid
            | Self::WrongRegion
            | Self::NotFound => true,
            // The credentials may be switched back to the recorded account, and the EcsAccount may
            // change.
            Self::WrongAccount
            | Self::AccountNotFound
            | Self::AccountNotReady
            | Self::NotAllowed
            | Self::Pending
            | Self::InUse
            | Self::CoolingDown
            | Self::Kept
            | Self::Throttled
            | Self::Unavailable
            | Self::AccessDenied
            | Self::Refused => false,
        }
    }

    /// Returns the priority of a row with this reason among the rows of its resource.
    #[must_use]
    pub fn priority(self) -> Priority {
        match self {
            Self::Pending | Self::InUse | Self::CoolingDown => Priority::Untried,
            Self::Retired | Self::Deleting | Self::Deleted => Priority::Verification,
            Self::Kept
            | Self::Throttled
            | Self::Unavailable
            | Self::Suspended
            | Self::DryRun
            | Self::Invalid
            | Self::WrongAccount
            | Self::WrongRegion
            | Self::AccountNotFound
            | Self::AccountNotReady
            | Self::NotAllowed
            | Self::AccessDenied
            | Self::Refused
            | Self::NotFound => Priority::Failed,
        }
    }

    /// Returns true if a transition to the reason publishes an event. Transitions to waiting for a
    /// permit and to automatic retries do not.
    #[must_use]
    pub fn emits_event(self) -> bool {
        match self {
            Self::Pending | Self::Throttled | Self::Unavailable => false,
            Self::Retired
            | Self::Deleting
            | Self::Deleted
            | Self::InUse
            | Self::CoolingDown
            | Self::Kept
            | Self::Suspended
            | Self::DryRun
            | Self::Invalid
            | Self::WrongAccount
            | Self::WrongRegion
            | Self::AccountNotFound
            | Self::AccountNotReady
            | Self::NotAllowed
            | Self::AccessDenied
            | Self::Refused
            | Self::NotFound => true,
        }
    }

    /// Returns true if the cause often disappears automatically, such as while a new role or policy
    /// takes effect, so that the resource is stalled only after some time.
    #[must_use]
    pub fn has_grace(self) -> bool {
        matches!(self, Self::AccountNotFound | Self::AccountNotReady | Self::AccessDenied)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Reason {
        serde_json::from_value(json!(text)).expect("a reason")
    }

    #[test]
    fn reason_is_written_and_read_by_its_name() {
        for &reason in Reason::VARIANTS {
            assert_eq!(json!(reason), json!(reason.as_str()));
            assert_eq!(parse(reason.as_str()), reason);
        }
    }

    #[test]
    fn reason_of_an_earlier_version_is_converted() {
        assert_eq!(parse("Quiet"), Reason::CoolingDown);
    }

    #[test]
    fn reason_of_a_later_version_is_not_final() {
        assert_eq!(parse("AwaitingApproval"), Reason::Pending);
        assert!(!parse("AwaitingApproval").is_final());
    }
}
