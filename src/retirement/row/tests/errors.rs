//! Tests of the AWS error in a row and its message.

use super::*;

fn denied(text: &str, code: &str) -> Failure {
    let failure = Failure::new(FailureKind::AccessDenied, text).during("DescribeTaskDefinition");
    Failure { code: Some(code.to_owned()), ..failure }
}

#[test]
fn messages_stay_while_the_error_is_the_same() {
    let spec = TaskDefinitionRetirementSpec::default();
    let attempt =
        |before: RevisionStatus, failure: Failure| after(&spec, before, Outcome::Described(Err(failure)));
    let first = attempt(recorded(Reason::Pending), denied("session 1", "AccessDeniedException"));
    assert_eq!(first.message.as_deref(), Some("session 1"));
    assert_eq!(attempt(first.clone(), denied("session 2", "AccessDeniedException")), first);

    let other = attempt(first.clone(), denied("expired", "ExpiredTokenException"));
    assert_eq!(other.message.as_deref(), Some("expired"));
    let unanswered = attempt(first.clone(), Failure::new(FailureKind::Unavailable, "no answer"));
    assert_eq!((unanswered.message.as_deref(), &unanswered.error), (Some("no answer"), &None));
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
    let first =
        without_outcome(&resolved(), &recorded(Reason::Pending), NOT_TRIGGERED, Caller::Unknown(&failure));
    let later = denied("session 2", "AccessDeniedException");
    let kept = without_outcome(&resolved(), &first, NOT_TRIGGERED, Caller::Unknown(&later));
    assert_eq!(kept, first);
    for trigger in [SPEC_CHANGED, RECONCILE_REQUESTED] {
        let triggered = without_outcome(&resolved(), &first, trigger, Caller::Unknown(&later));
        assert_eq!(triggered.message.as_deref(), Some("session 2"));
    }
}
