//! Tests of the rows of entries for which no call is made.

use super::*;

#[test]
fn rejected_entry_reports_the_reason_unless_it_is_retired() {
    let rejected = |revision: &str| {
        let target = Target::Rejected { reason: Reason::WrongAccount, message: "not ours".to_owned() };
        Entry { key: RevisionKey::new(revision), target }
    };
    let of_arn = without_outcome(&rejected(API), &recorded(Reason::Pending), NOT_TRIGGERED, None);
    let expected = RevisionStatus {
        revision: API.to_owned(),
        message: Some("not ours".to_owned()),
        ..recorded(Reason::WrongAccount)
    };
    assert_eq!(of_arn, expected);
    let short = without_outcome(&rejected("api:1"), &recorded(Reason::Pending), NOT_TRIGGERED, None);
    assert_eq!(short, RevisionStatus { revision: "api:1".to_owned(), arn: None, ..expected });
    assert_eq!(without_outcome(&rejected(API), &retired(), NOT_TRIGGERED, None), retired());
}

#[test]
fn entry_refused_by_its_account_keeps_what_ecs_has_reported() {
    let cooling = RevisionStatus {
        registered_at: Some(Time(time(1))),
        unused_since: Some(Time(time(5))),
        used_by: vec!["service/prod/web".to_owned()],
        ..recorded(Reason::CoolingDown)
    };
    let refused = |reason| {
        let target = Target::Rejected { reason, message: "no".to_owned() };
        let entry = Entry { key: RevisionKey::new("api:1"), target };
        without_outcome(&entry, &cooling, NOT_TRIGGERED, None)
    };
    for reason in [Reason::AccountNotFound, Reason::AccountNotReady, Reason::NotAllowed] {
        let row = refused(reason);
        assert_eq!((row.reason, row.message.as_deref(), row.used_by.len()), (reason, Some("no"), 0));
        assert_eq!((&row.arn, &row.status), (&cooling.arn, &cooling.status));
        assert_eq!(row.registered_at, cooling.registered_at);
        assert_eq!(row.unused_since, cooling.unused_since, "the cool-down resumes if scans follow in time");
    }
    assert_eq!(refused(Reason::WrongAccount).unused_since, None);
}
