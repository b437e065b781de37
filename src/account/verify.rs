//! Verifies the credentials of an EcsAccount.

use kube::ResourceExt;

use crate::{
    account::{context::Context, validate::ValidatedAccount},
    api::{AwsError, EcsAccount, REQUESTED_AT},
    aws::response::{Failure, FailureKind},
    controller::conditions::{State, aws_error},
};

/// The result of a verification: the value and the reason of the condition Ready, and its message.
pub(super) struct Verification {
    pub(super) state: State,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The AWS error that `message` reports.
    pub(super) error: Option<AwsError>,
    pub(super) caller_arn: Option<String>,
}

impl Verification {
    /// The result if the spec is invalid.
    pub(super) fn invalid(message: String) -> Self {
        Self { state: State::Stalled, reason: "InvalidSpec", message, error: None, caller_arn: None }
    }

    /// The result while AWS has not responded yet.
    pub(super) fn in_progress() -> Self {
        let message = "waiting for AWS to return the identity of the credentials".to_owned();
        Self { state: State::Reconciling, reason: "Unavailable", message, error: None, caller_arn: None }
    }
}

pub(super) async fn verify(
    account: &EcsAccount,
    validated: &ValidatedAccount,
    context: &Context,
) -> Verification {
    let source = context.sources.account(&validated.name, &validated.source);
    let session = source.session(&validated.source.region);
    let handled = account.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
    if account.annotations().get(REQUESTED_AT).is_some_and(|requested| Some(requested) != handled) {
        session.shorten_backoff();
    }
    match session.verify().await {
        Ok(session) => Verification {
            state: State::Ready,
            reason: "Verified",
            message: format!("the credentials belong to account {}", session.identity.account),
            error: None,
            caller_arn: Some(session.principal.clone()),
        },
        Err(failure) => not_verified(failure),
    }
}

pub(super) fn not_verified(failure: Failure) -> Verification {
    let (state, reason) = match failure.kind {
        FailureKind::AccountMismatch => (State::Stalled, "AccountMismatch"),
        FailureKind::AccessDenied | FailureKind::Refused | FailureKind::Absent | FailureKind::Deleted => {
            (State::Denied, "AccessDenied")
        }
        FailureKind::Throttled | FailureKind::Unavailable | FailureKind::ServerFault => {
            (State::Reconciling, "Unavailable")
        }
    };
    let error = aws_error(&failure);
    Verification { state, reason, message: failure.message, error, caller_arn: None }
}
