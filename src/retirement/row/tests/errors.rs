//! Tests of the AWS error in a row and its message.

use super::*;
use crate::api::AwsError;

fn denied(text: &str, code: &str) -> Failure {
    let failure = Failure::new(FailureKind::AccessDenied, text).during("DescribeTaskDefinition");
    Failure { code: Some(code.to_owned()), ..failure }
}

#[test]
fn messages_stay_while_the_error_is_the_same() {
    let spec = default_spec();
    let attempt =
        |before: RevisionStatus, failure: Failure| after(&spec, before, Outcome::Described(Err(failure)));
    let first = attempt(recorded(Reason::Pending), denied("session 1", "AccessDeniedException"));
    assert_eq!(first.message.as_deref(), Some("session 1"));
    assert_eq!(attempt(first.clone(), denied("session 2", "AccessDeniedException")), first);

    let other = attempt(first.clone(), denied("expired", "ExpiredTokenException"));
    assert_eq!(other.message.as_deref(), Some("expired"));
    let without_response = attempt(first.clone(), Failure::new(FailureKind::Unavailable, "no response"));
    assert_eq!((without_response.message.as_deref(), &without_response.error), (Some("no response"), &None));
    assert_eq!(after(&spec, first.clone(), seen(Status::Active)).error, None);

    // A row of the previous version has no error: one write adds it.
    let old = RevisionStatus { error: None, ..first.clone() };
    let written = attempt(old, denied("session 2", "AccessDeniedException"));
    assert_eq!(written.error, first.error);
    assert_eq!(attempt(written.clone(), denied("session 3", "AccessDeniedException")), written);
}

#[test]
fn messages_are_refreshed_when_a_user_asks() {
    let failure = denied("session 1", "AccessDeniedException");
    let first = without_outcome(&resolved(), &recorded(Reason::Pending), NOT_TRIGGERED, Some(&failure));
    let later = denied("session 2", "AccessDeniedException");
    let kept = without_outcome(&resolved(), &first, NOT_TRIGGERED, Some(&later));
    assert_eq!(kept, first);
    for trigger in [SPEC_CHANGED, RECONCILE_REQUESTED] {
        let triggered = without_outcome(&resolved(), &first, trigger, Some(&later));
        assert_eq!(triggered.message.as_deref(), Some("session 2"));
    }
}

#[test]
fn denied_credentials_are_forgotten_once_the_account_is_known() {
    let of = |operation: &str| {
        let error = Some(AwsError { operation: operation.to_owned(), code: "AccessDenied".to_owned() });
        RevisionStatus { error, message: Some("no".to_owned()), ..recorded(Reason::AccessDenied) }
    };
    let next = |row: &RevisionStatus| without_outcome(&resolved(), row, NOT_TRIGGERED, None);
    for operation in ["AssumeRole", "AssumeRoleWithWebIdentity", "GetCallerIdentity"] {
        assert_eq!(next(&of(operation)), recorded(Reason::Pending));
        let target = Target::Unresolved(reference());
        let unresolved = Entry { target, ..resolved() };
        assert_eq!(
            without_outcome(&unresolved, &of(operation), NOT_TRIGGERED, None).error,
            of(operation).error
        );
    }
    assert_eq!(next(&of("DescribeTaskDefinition")), of("DescribeTaskDefinition"));
}

#[test]
fn unknown_account_is_reported_only_by_rows_that_are_due() {
    let unknown = failure(FailureKind::Unavailable);
    let report = |row: &RevisionStatus| without_outcome(&resolved(), row, NOT_TRIGGERED, Some(&unknown));
    let unavailable = RevisionStatus { message: Some("no".to_owned()), ..recorded(Reason::Unavailable) };
    assert_eq!(report(&recorded(Reason::Pending)), unavailable);
    for row in [retired(), recorded(Reason::DryRun), recorded(Reason::NotFound)] {
        assert_eq!(report(&row), row);
    }
}
