//! What becomes of a row, as tests of pure functions.

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::aws::{
    response::Reply,
    usage::{User, Users},
};

const API: &str = "arn:aws:ecs:us-west-2:012345678910:task-definition/api:1";

const NOTHING_ASKED: Trigger = Trigger { spec_changed: false, reconcile_requested: false };
const SPEC_CHANGED: Trigger = Trigger { spec_changed: true, reconcile_requested: false };
const LOOK_REQUESTED: Trigger = Trigger { spec_changed: false, reconcile_requested: true };

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn reference() -> Reference {
    API.parse().expect("an ARN")
}

fn here() -> Entry {
    let Reference::Arn(arn) = reference() else { panic!("an ARN") };
    Entry { revision: "api:1".to_owned(), target: Target::Resolved(arn) }
}

fn recorded(reason: Reason) -> RevisionStatus {
    RevisionStatus { revision: "api:1".to_owned(), arn: Some(API.to_owned()), reason, ..Default::default() }
}

fn retired() -> RevisionStatus {
    RevisionStatus {
        status: Some("INACTIVE".to_owned()),
        registered_at: Some(Time(time(1))),
        deregistered_at: Some(Time(time(2))),
        request_id: Some("request".to_owned()),
        ..recorded(Reason::Retired)
    }
}

fn description(status: Status) -> Description {
    let deregistered_at = status.is_retired().then(|| time(2));
    Description { status, registered_at: Some(time(1)), deregistered_at }
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "no")
}

/// A look that shows `status`.
fn seen(status: Status) -> Outcome {
    Outcome::Described(Ok(description(status)))
}

/// A call that is answered `answer`, and a look afterwards.
fn asked(answer: Seen, after: Option<Seen>) -> Outcome {
    let reply = Reply { request_id: answer.is_ok().then(|| "request".to_owned()), answer };
    Outcome::Deregistered { before: description(Status::Active), reply, after }
}

/// The row of `api:1` after a pass that learned `outcome` of it.
fn after(spec: &TaskDefinitionRetirementSpec, before: RevisionStatus, outcome: Outcome) -> RevisionStatus {
    let outcomes = BTreeMap::from([("api:1".to_owned(), outcome)]);
    row(&here(), spec, &[before], NOTHING_ASKED, Caller::NotRequested, &outcomes)
}

/// The row of `entry` after a pass that learned nothing.
fn unlearned(entry: &Entry, before: &RevisionStatus, trigger: Trigger, caller: Caller<'_>) -> RevisionStatus {
    let spec = TaskDefinitionRetirementSpec::default();
    row(entry, &spec, std::slice::from_ref(before), trigger, caller, &BTreeMap::new())
}

fn told(row: &RevisionStatus) -> (Reason, Option<&str>, &str) {
    (row.reason, row.status.as_deref(), row.message.as_deref().unwrap_or_default())
}

#[test]
fn a_row_says_what_ecs_answered() {
    use FailureKind::{Absent, AccessDenied, Deleted, Refused, ServerFault, Throttled, Unavailable};
    use Status::{Active, DeleteInProgress, Inactive, Other};

    let spec = TaskDefinitionRetirementSpec::default();
    let frozen = "unknown ECS status FROZEN";
    let gone = "ECS has no such revision (no)";
    let (is, no) = (|status| Ok(description(status)), |kind| Err(failure(kind)));
    let table = [
        (seen(Active), (Reason::Pending, Some("ACTIVE"), "")),
        (seen(Inactive), (Reason::Retired, Some("INACTIVE"), "")),
        (seen(DeleteInProgress), (Reason::Deleting, Some("DELETE_IN_PROGRESS"), "")),
        (seen(Other("FROZEN".to_owned())), (Reason::Refused, Some("FROZEN"), frozen)),
        (Outcome::Described(no(Absent)), (Reason::NotFound, None, gone)),
        (Outcome::Described(no(Deleted)), (Reason::Deleted, None, "")),
        (asked(no(Refused), Some(no(Deleted))), (Reason::Deleted, None, "")),
        (Outcome::Described(no(Throttled)), (Reason::Throttled, None, "no")),
        (Outcome::Described(no(Unavailable)), (Reason::Unavailable, None, "no")),
        (Outcome::Described(no(ServerFault)), (Reason::Unavailable, None, "no")),
        (Outcome::Described(no(AccessDenied)), (Reason::AccessDenied, None, "no")),
        (Outcome::Described(no(Refused)), (Reason::Refused, None, "no")),
        (asked(is(Inactive), Some(is(Inactive))), (Reason::Retired, Some("INACTIVE"), "")),
        (asked(is(Inactive), Some(is(DeleteInProgress))), (Reason::Deleting, Some("DELETE_IN_PROGRESS"), "")),
        (asked(is(Active), Some(is(Inactive))), (Reason::Pending, Some("ACTIVE"), "")),
        (asked(no(Throttled), None), (Reason::Throttled, Some("ACTIVE"), "no")),
        (asked(no(Refused), Some(is(Inactive))), (Reason::Retired, Some("INACTIVE"), "")),
        (asked(no(Refused), Some(is(Active))), (Reason::Refused, Some("ACTIVE"), "no")),
        (asked(no(Refused), Some(no(Absent))), (Reason::NotFound, Some("ACTIVE"), gone)),
        (asked(no(Refused), Some(no(Throttled))), (Reason::Refused, Some("ACTIVE"), "no")),
        (asked(no(Absent), Some(is(Active))), (Reason::Refused, Some("ACTIVE"), "no")),
    ];
    for (outcome, expected) in table {
        let row = after(&spec, recorded(Reason::Pending), outcome.clone());
        assert_eq!(told(&row), expected, "{outcome:?}");
        assert_eq!((row.revision.as_str(), row.arn.as_deref()), ("api:1", Some(API)));
    }
}

#[test]
fn a_deregistration_is_recorded_with_its_request_id_and_the_times_of_ecs() {
    let spec = TaskDefinitionRetirementSpec::default();
    let answered = Ok(Description { deregistered_at: None, ..description(Status::Inactive) });
    let with_time = asked(answered.clone(), Some(Ok(description(Status::Inactive))));
    let expected = RevisionStatus { message: None, ..retired() };
    assert_eq!(after(&spec, recorded(Reason::Pending), with_time), expected);

    for after_it in [
        None,
        Some(Err(failure(FailureKind::Throttled))),
        Some(answered.clone()),
        // Older than the answer.
        Some(Ok(description(Status::Active))),
    ] {
        let without = after(&spec, recorded(Reason::Pending), asked(answered.clone(), after_it));
        let (message, awaits) = (Some(TIME_PENDING.to_owned()), Some(Awaits::DeregisteredAt));
        assert_eq!(without, RevisionStatus { deregistered_at: None, message, awaits, ..retired() });
        assert!(is_due_for_ecs(&without));
        assert_eq!(after(&spec, without, seen(Status::Inactive)), expected);
    }
}

#[test]
fn nothing_takes_a_retirement_back() {
    let spec = TaskDefinitionRetirementSpec::default();
    let (message, awaits) = (Some(DESCRIBE_REQUESTED.to_owned()), Some(Awaits::Description));
    let owed = RevisionStatus { message, awaits, ..retired() };
    let no = |kind| Outcome::Described(Err(failure(kind)));
    for outcome in [
        seen(Status::Active),
        seen(Status::Other("FROZEN".to_owned())),
        no(FailureKind::AccessDenied),
        no(FailureKind::Refused),
    ] {
        assert_eq!(after(&spec, owed.clone(), outcome), retired());
    }
    for kind in [FailureKind::Throttled, FailureKind::Unavailable, FailureKind::ServerFault] {
        assert_eq!(after(&spec, owed.clone(), no(kind)), owed, "the look is still owed");
    }
    let deleted = after(&spec, owed, no(FailureKind::Absent));
    assert_eq!(deleted, RevisionStatus { reason: Reason::Deleted, status: None, ..retired() });
    let silent = Description { registered_at: None, deregistered_at: None, ..description(Status::Inactive) };
    assert_eq!(
        after(&spec, retired(), Outcome::Described(Ok(silent))),
        retired(),
        "times that were known stay"
    );
    for outcome in [seen(Status::Active), no(FailureKind::Absent), no(FailureKind::Refused)] {
        let spec = TaskDefinitionRetirementSpec { suspend: true, dry_run: true, ..spec.clone() };
        let row = after(&spec, retired(), outcome);
        assert!(is_retired(&row) && row.request_id.is_some(), "{row:?}");
    }
}

#[test]
fn what_is_active_says_why_it_is_left_alone() {
    let held = |suspend, dry_run| {
        let spec = TaskDefinitionRetirementSpec { suspend, dry_run, ..Default::default() };
        let before = RevisionStatus {
            unused_since: Some(Time(time(5))),
            used_by: vec!["service/prod/web".to_owned()],
            ..recorded(Reason::Pending)
        };
        after(&spec, before, seen(Status::Active))
    };
    let suspended = held(true, true);
    let to_be = "suspended: would be deregistered without spec.suspend";
    assert_eq!(told(&suspended), (Reason::Suspended, Some("ACTIVE"), to_be));
    assert_eq!(suspended.unused_since, None, "it may be used again meanwhile");
    assert_eq!(told(&held(false, true)), (Reason::DryRun, Some("ACTIVE"), DRY_RUN));
    let pending = held(false, false);
    assert_eq!(pending.unused_since, Some(Time(time(5))));
    assert!(pending.used_by.is_empty());
}

#[test]
fn a_row_names_who_uses_its_revision_and_since_when_nobody_does() {
    let spec = TaskDefinitionRetirementSpec { unused_for: Some("60s".to_owned()), ..Default::default() };
    let dry = TaskDefinitionRetirementSpec { dry_run: true, ..spec.clone() };
    let web = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
    let users = Use::InUse(Users { named: vec![web], more: 2 });
    let used =
        |usage: &Use| Outcome::MustWait { before: Some(description(Status::Active)), usage: usage.clone() };
    let quiet_before = RevisionStatus { unused_since: Some(Time(time(5))), ..recorded(Reason::CoolingDown) };

    let in_use = after(&spec, quiet_before.clone(), used(&users));
    let by = "in use by 3 services or tasks";
    assert_eq!(told(&in_use), (Reason::InUse, Some("ACTIVE"), by));
    assert_eq!(in_use.used_by, ["service/prod/web"]);
    assert_eq!(in_use.unused_since, None);

    let nobody = Use::Unused { at: Some(time(10)), last_used: None };
    let until = "unused since 1970-01-01T00:00:10Z; deregistered at 1970-01-01T00:01:10Z if it stays unused";
    let quiet = after(&spec, in_use.clone(), used(&nobody));
    assert_eq!(told(&quiet), (Reason::CoolingDown, Some("ACTIVE"), until));
    assert_eq!((quiet.used_by.len(), &quiet.unused_since), (0, &Some(Time(time(10)))));
    let later = after(&spec, quiet_before.clone(), used(&nobody));
    assert_eq!(later.unused_since, Some(Time(time(5))), "counted from the first time");

    let unknown = Use::Unknown(failure(FailureKind::AccessDenied));
    let expected = (Reason::AccessDenied, Some("ACTIVE"), "usage unknown: no");
    assert_eq!(told(&after(&spec, in_use.clone(), used(&unknown))), expected);
    assert_eq!(told(&after(&dry, in_use.clone(), used(&unknown))), expected);

    let but = format!("{DRY_RUN}, but not yet: {until}");
    let dry_run = after(&dry, in_use.clone(), used(&nobody));
    assert_eq!(told(&dry_run), (Reason::DryRun, Some("ACTIVE"), but.as_str()));

    let slow = after(&spec, in_use.clone(), Outcome::Described(Err(failure(FailureKind::Throttled))));
    assert!(slow.used_by.is_empty(), "it is not known any more");
    let unseen = after(&spec, in_use.clone(), Outcome::MustWait { before: None, usage: nobody });
    assert_eq!((told(&unseen), unseen.used_by.len()), ((Reason::CoolingDown, Some("ACTIVE"), until), 0));
    let free = after(&spec, in_use, Outcome::Unused);
    assert_eq!((told(&free), free.used_by.len()), ((Reason::Pending, Some("ACTIVE"), ""), 0));
    assert_eq!(after(&spec, quiet_before, Outcome::Unused).unused_since, Some(Time(time(5))));
}

#[test]
fn an_entry_that_is_never_called_says_why_unless_it_is_retired() {
    let rejected = |revision: &str| {
        let target = Target::Rejected { reason: Reason::WrongAccount, message: "not ours".to_owned() };
        Entry { revision: revision.to_owned(), target }
    };
    let caller = Caller::NotRequested;
    let of_arn = unlearned(&rejected(API), &recorded(Reason::Pending), NOTHING_ASKED, caller);
    let expected = RevisionStatus {
        revision: API.to_owned(),
        message: Some("not ours".to_owned()),
        ..recorded(Reason::WrongAccount)
    };
    assert_eq!(of_arn, expected);
    let short = unlearned(&rejected("api:1"), &recorded(Reason::Pending), NOTHING_ASKED, caller);
    assert_eq!(short, RevisionStatus { revision: "api:1".to_owned(), arn: None, ..expected });
    assert_eq!(unlearned(&rejected(API), &retired(), NOTHING_ASKED, caller), retired());
}

#[test]
fn an_entry_whose_account_is_not_known_yet_has_the_form_in_which_it_was_written() {
    let unresolved = |revision: &str| Entry {
        revision: revision.to_owned(),
        target: Target::Unresolved(revision.parse().expect("a revision")),
    };
    let fresh = |revision: &str| {
        let entry = unresolved(revision);
        unlearned(&entry, &RevisionStatus::default(), NOTHING_ASKED, Caller::NotRequested)
    };
    let pending = RevisionStatus { revision: API.to_owned(), ..recorded(Reason::Pending) };
    assert_eq!(fresh(API), pending);
    assert_eq!(fresh("api:1"), RevisionStatus { revision: "api:1".to_owned(), arn: None, ..pending });
    let known = unlearned(&unresolved(API), &retired(), NOTHING_ASKED, Caller::NotRequested);
    assert_eq!(known, retired(), "what was resolved must_wait its key");
}

#[test]
fn what_a_person_asks_for_is_pending_again_and_a_retired_row_is_looked_at() {
    let tried = |reason| {
        let used_by = vec!["service/prod/web".to_owned()];
        RevisionStatus { message: Some("no".to_owned()), used_by, ..recorded(reason) }
    };
    let renewed = |row: &RevisionStatus, trigger| unlearned(&here(), row, trigger, Caller::NotRequested);
    let pending = recorded(Reason::Pending);
    for reason in [Reason::Refused, Reason::InUse, Reason::NotFound, Reason::Suspended, Reason::DryRun] {
        assert_eq!(renewed(&tried(reason), NOTHING_ASKED), tried(reason));
        assert_eq!(renewed(&tried(reason), SPEC_CHANGED), pending);
        assert_eq!(renewed(&tried(reason), LOOK_REQUESTED), pending);
    }
    for reason in [Reason::Invalid, Reason::WrongAccount, Reason::WrongRegion] {
        assert_eq!(renewed(&tried(reason), NOTHING_ASKED), pending, "it resolves now");
    }
    assert_eq!(renewed(&retired(), NOTHING_ASKED), retired());
    assert_eq!(renewed(&retired(), SPEC_CHANGED), retired());
    let (message, awaits) = (Some(DESCRIBE_REQUESTED.to_owned()), Some(Awaits::Description));
    let owed = RevisionStatus { message, awaits, ..retired() };
    assert_eq!(renewed(&retired(), LOOK_REQUESTED), owed);
    let deleted = recorded(Reason::Deleted);
    assert_eq!(renewed(&deleted, LOOK_REQUESTED), deleted, "there is nothing to look at any more");
}

#[test]
fn while_the_account_is_unknown_only_what_wants_a_look_says_so() {
    let unknown = failure(FailureKind::Unavailable);
    let told = |row: &RevisionStatus| unlearned(&here(), row, NOTHING_ASKED, Caller::Unknown(&unknown));
    let unavailable = RevisionStatus { message: Some("no".to_owned()), ..recorded(Reason::Unavailable) };
    assert_eq!(told(&recorded(Reason::Pending)), unavailable);
    for row in [retired(), recorded(Reason::Suspended), recorded(Reason::NotFound)] {
        assert_eq!(told(&row), row);
    }
}

#[test]
fn the_row_of_an_entry_is_found_in_whichever_form_it_was_written() {
    let rows = [
        RevisionStatus { revision: "web:1".to_owned(), ..Default::default() },
        RevisionStatus { revision: API.to_owned(), arn: Some(API.to_owned()), ..Default::default() },
    ];
    let by_arn = Entry { revision: API.to_owned(), target: Target::Unresolved(reference()) };
    let short = Entry { revision: "api:1".to_owned(), ..by_arn.clone() };
    assert_eq!(recorded_row(&here(), &rows), Some(&rows[1]));
    assert_eq!(recorded_row(&by_arn, &rows), Some(&rows[1]));
    assert_eq!(recorded_row(&by_arn, &[recorded(Reason::Pending)]), Some(&recorded(Reason::Pending)));
    assert_eq!(recorded_row(&short, &rows), None);
    assert_eq!(recorded_row(&here(), &rows[..1]), None);
}

mod due;
mod errors;
