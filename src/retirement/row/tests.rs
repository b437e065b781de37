//! Tests of the status row of one revision.

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::{
    api::TaskDefinitionRetirementSpec,
    aws::{
        response::Reply,
        usage::{User, Users},
    },
    retirement::{
        outcome::RevisionKey,
        validate::{Suspended, validate},
    },
};

const API: &str = "arn:aws:ecs:us-west-2:012345678910:task-definition/api:1";

const NOT_TRIGGERED: Trigger = Trigger { spec_changed: false, reconcile_requested: false };
const SPEC_CHANGED: Trigger = Trigger { spec_changed: true, reconcile_requested: false };
const RECONCILE_REQUESTED: Trigger = Trigger { spec_changed: false, reconcile_requested: true };

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn reference() -> Reference {
    API.parse().expect("an ARN")
}

fn resolved() -> Entry {
    let Reference::Arn(arn) = reference() else { panic!("an ARN") };
    Entry { key: RevisionKey::new("api:1"), target: Target::Resolved(arn) }
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

/// Returns the outcome of a description that shows `status`.
fn seen(status: Status) -> Outcome {
    Outcome::Described(Ok(description(status)))
}

/// Returns the outcome of a deregistration with the `response` and the description `after`
/// it.
fn deregistered(response: DescribeResult, after: Option<DescribeResult>) -> Outcome {
    let reply = Reply { request_id: response.is_ok().then(|| "request".to_owned()), response };
    Outcome::Deregistered { before: description(Status::Active), reply, after }
}

/// Returns `spec` with the revision `api:1`.
fn validated(spec: TaskDefinitionRetirementSpec) -> ValidatedSpec {
    let revisions = vec!["api:1".to_owned()];
    validate(&TaskDefinitionRetirementSpec { revisions, ..spec }).expect("a valid spec")
}

fn default_spec() -> ValidatedSpec {
    validated(TaskDefinitionRetirementSpec::default())
}

/// Returns the row of `api:1` after a reconcile with `outcome`.
#[expect(clippy::needless_pass_by_value, reason = "tests create outcomes in the call")]
fn after(spec: &ValidatedSpec, before: RevisionStatus, outcome: Outcome) -> RevisionStatus {
    new_row(&resolved(), spec, Some(before), NOT_TRIGGERED, Ok(&outcome))
}

/// Returns the row of `entry` after a reconcile without an outcome.
fn without_outcome(
    entry: &Entry,
    before: &RevisionStatus,
    trigger: Trigger,
    failure: Option<&Failure>,
) -> RevisionStatus {
    let recorded = recorded_row(entry, std::slice::from_ref(before)).cloned();
    new_row(entry, &default_spec(), recorded, trigger, Err(failure))
}

fn report(row: &RevisionStatus) -> (Reason, Option<&str>, &str) {
    (row.reason, row.status.as_deref(), row.message.as_deref().unwrap_or_default())
}

#[test]
fn row_reports_the_response_of_ecs() {
    use FailureKind::{Absent, AccessDenied, Deleted, Refused, ServerFault, Throttled, Unavailable};
    use Status::{Active, DeleteInProgress, Inactive, Other};

    let spec = default_spec();
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
        (deregistered(no(Refused), Some(no(Deleted))), (Reason::Deleted, None, "")),
        (Outcome::Described(no(Throttled)), (Reason::Throttled, None, "no")),
        (Outcome::Described(no(Unavailable)), (Reason::Unavailable, None, "no")),
        (Outcome::Described(no(ServerFault)), (Reason::Unavailable, None, "no")),
        (Outcome::Described(no(AccessDenied)), (Reason::AccessDenied, None, "no")),
        (Outcome::Described(no(Refused)), (Reason::Refused, None, "no")),
        (deregistered(is(Inactive), Some(is(Inactive))), (Reason::Retired, Some("INACTIVE"), "")),
        (
            deregistered(is(Inactive), Some(is(DeleteInProgress))),
            (Reason::Deleting, Some("DELETE_IN_PROGRESS"), ""),
        ),
        (deregistered(is(Active), Some(is(Inactive))), (Reason::Pending, Some("ACTIVE"), "")),
        (deregistered(no(Throttled), None), (Reason::Throttled, Some("ACTIVE"), "no")),
        (deregistered(no(Refused), Some(is(Inactive))), (Reason::Retired, Some("INACTIVE"), "")),
        (deregistered(no(Refused), Some(is(Active))), (Reason::Refused, Some("ACTIVE"), "no")),
        (deregistered(no(Refused), Some(no(Absent))), (Reason::NotFound, Some("ACTIVE"), gone)),
        (deregistered(no(Refused), Some(no(Throttled))), (Reason::Refused, Some("ACTIVE"), "no")),
        (deregistered(no(Absent), Some(is(Active))), (Reason::Unavailable, Some("ACTIVE"), "no")),
        (deregistered(no(Absent), Some(no(Throttled))), (Reason::Unavailable, Some("ACTIVE"), "no")),
    ];
    for (outcome, expected) in table {
        let row = after(&spec, recorded(Reason::Pending), outcome.clone());
        assert_eq!(report(&row), expected, "{outcome:?}");
        assert_eq!((row.revision.as_str(), row.arn.as_deref()), ("api:1", Some(API)));
    }
}

#[test]
fn deregistration_is_recorded_with_its_request_id_and_the_times_of_ecs() {
    let spec = default_spec();
    let response = Ok(Description { deregistered_at: None, ..description(Status::Inactive) });
    let with_time = deregistered(response.clone(), Some(Ok(description(Status::Inactive))));
    let expected = RevisionStatus { message: None, ..retired() };
    assert_eq!(after(&spec, recorded(Reason::Pending), with_time), expected);

    for later in [
        None,
        Some(Err(failure(FailureKind::Throttled))),
        Some(response.clone()),
        // A description that is older than the response.
        Some(Ok(description(Status::Active))),
    ] {
        let without = after(&spec, recorded(Reason::Pending), deregistered(response.clone(), later));
        let (message, awaits) = (Some(TIME_PENDING.to_owned()), Some(Awaits::DeregisteredAt));
        assert_eq!(without, RevisionStatus { deregistered_at: None, message, awaits, ..retired() });
        assert!(is_due_for_ecs(&without));
        assert_eq!(after(&spec, without, seen(Status::Inactive)), expected);
    }
}

#[test]
fn retired_row_stays_retired() {
    let spec = default_spec();
    let (message, awaits) = (Some(DESCRIBE_REQUESTED.to_owned()), Some(Awaits::Description));
    let pending_description = RevisionStatus { message, awaits, ..retired() };
    let no = |kind| Outcome::Described(Err(failure(kind)));
    for outcome in [
        seen(Status::Active),
        seen(Status::Other("FROZEN".to_owned())),
        no(FailureKind::AccessDenied),
        no(FailureKind::Refused),
    ] {
        assert_eq!(after(&spec, pending_description.clone(), outcome), retired());
    }
    for kind in [FailureKind::Throttled, FailureKind::Unavailable, FailureKind::ServerFault] {
        assert_eq!(
            after(&spec, pending_description.clone(), no(kind)),
            pending_description,
            "the description is still pending"
        );
    }
    let deleted = after(&spec, pending_description, no(FailureKind::Absent));
    assert_eq!(deleted, RevisionStatus { reason: Reason::Deleted, status: None, ..retired() });
    let silent = Description { registered_at: None, deregistered_at: None, ..description(Status::Inactive) };
    assert_eq!(after(&spec, retired(), Outcome::Described(Ok(silent))), retired(), "known times are kept");
    for outcome in [seen(Status::Active), no(FailureKind::Absent), no(FailureKind::Refused)] {
        let spec = ValidatedSpec { suspended: Some(Suspended::BySpec), dry_run: true, ..spec.clone() };
        let row = after(&spec, retired(), outcome);
        assert!(row.reason.is_retired() && row.request_id.is_some(), "{row:?}");
    }
}

#[test]
fn active_revision_on_hold_reports_the_reason() {
    let on_hold = |suspend, dry_run| {
        let spec = validated(TaskDefinitionRetirementSpec { suspend, dry_run, ..Default::default() });
        let before = RevisionStatus {
            unused_since: Some(Time(time(5))),
            used_by: vec!["service/prod/web".to_owned()],
            ..recorded(Reason::Pending)
        };
        after(&spec, before, seen(Status::Active))
    };
    let suspended = on_hold(true, true);
    let message = "suspended: would be deregistered without spec.suspend";
    assert_eq!(report(&suspended), (Reason::Suspended, Some("ACTIVE"), message));
    assert_eq!(suspended.unused_since, None, "it may be used again meanwhile");
    assert_eq!(report(&on_hold(false, true)), (Reason::DryRun, Some("ACTIVE"), DRY_RUN));
    let pending = on_hold(false, false);
    assert_eq!(pending.unused_since, Some(Time(time(5))));
    assert!(pending.used_by.is_empty());
}

#[test]
fn row_names_the_users_of_its_revision_or_the_start_of_the_unused_time() {
    let unused_for = Some("60s".to_owned());
    let spec = validated(TaskDefinitionRetirementSpec { unused_for, ..Default::default() });
    let dry = ValidatedSpec { dry_run: true, ..spec.clone() };
    let web = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
    let users = Use::InUse(Users { named: vec![web], more: 2 });
    let used =
        |usage: &Use| Outcome::MustWait { before: Some(description(Status::Active)), usage: usage.clone() };
    let cooling_before =
        RevisionStatus { unused_since: Some(Time(time(5))), ..recorded(Reason::CoolingDown) };

    let in_use = after(&spec, cooling_before.clone(), used(&users));
    let by = "in use by 3 services or tasks";
    assert_eq!(report(&in_use), (Reason::InUse, Some("ACTIVE"), by));
    assert_eq!(in_use.used_by, ["service/prod/web"]);
    assert_eq!(in_use.unused_since, None);

    let unused = Use::Unused { at: Some(time(10)), last_used: None };
    let until = "unused since 1970-01-01T00:00:10Z; deregistered at 1970-01-01T00:01:10Z if it stays unused";
    let cooling = after(&spec, in_use.clone(), used(&unused));
    assert_eq!(report(&cooling), (Reason::CoolingDown, Some("ACTIVE"), until));
    assert_eq!((cooling.used_by.len(), &cooling.unused_since), (0, &Some(Time(time(10)))));
    let later = after(&spec, cooling_before.clone(), used(&unused));
    assert_eq!(later.unused_since, Some(Time(time(5))), "counted from the first scan that found it unused");

    let unknown = Use::Unknown(failure(FailureKind::AccessDenied));
    let expected = (Reason::AccessDenied, Some("ACTIVE"), "usage unknown: no");
    assert_eq!(report(&after(&spec, in_use.clone(), used(&unknown))), expected);
    assert_eq!(report(&after(&dry, in_use.clone(), used(&unknown))), expected);

    let not_yet = format!("{DRY_RUN}, but not yet: {until}");
    let dry_run = after(&dry, in_use.clone(), used(&unused));
    assert_eq!(report(&dry_run), (Reason::DryRun, Some("ACTIVE"), not_yet.as_str()));

    let slow = after(&spec, in_use.clone(), Outcome::Described(Err(failure(FailureKind::Throttled))));
    assert!(slow.used_by.is_empty(), "usage is not known any more");
    let unseen = after(&spec, in_use.clone(), Outcome::MustWait { before: None, usage: unused });
    assert_eq!((report(&unseen), unseen.used_by.len()), ((Reason::CoolingDown, Some("ACTIVE"), until), 0));
    let free = after(&spec, in_use, Outcome::Unused);
    assert_eq!((report(&free), free.used_by.len()), ((Reason::Pending, Some("ACTIVE"), ""), 0));
    assert_eq!(after(&spec, cooling_before, Outcome::Unused).unused_since, Some(Time(time(5))));
}

#[test]
fn unresolved_entry_keeps_the_form_in_which_it_was_declared() {
    let unresolved = |revision: &str| Entry {
        key: RevisionKey::new(revision),
        target: Target::Unresolved(revision.parse().expect("a revision")),
    };
    let fresh = |revision: &str| {
        let entry = unresolved(revision);
        without_outcome(&entry, &RevisionStatus::default(), NOT_TRIGGERED, None)
    };
    let pending = RevisionStatus { revision: API.to_owned(), ..recorded(Reason::Pending) };
    assert_eq!(fresh(API), pending);
    assert_eq!(fresh("api:1"), RevisionStatus { revision: "api:1".to_owned(), arn: None, ..pending });
    let known = without_outcome(&unresolved(API), &retired(), NOT_TRIGGERED, None);
    assert_eq!(known, retired(), "a resolved entry keeps its key");
}

#[test]
fn change_or_request_makes_a_row_pending_again_and_a_retired_row_is_described() {
    let tried = |reason| {
        let used_by = vec!["service/prod/web".to_owned()];
        RevisionStatus { message: Some("no".to_owned()), used_by, ..recorded(reason) }
    };
    let triggered = |row: &RevisionStatus, trigger| without_outcome(&resolved(), row, trigger, None);
    let pending = recorded(Reason::Pending);
    for reason in [Reason::Refused, Reason::InUse, Reason::NotFound, Reason::DryRun] {
        assert_eq!(triggered(&tried(reason), NOT_TRIGGERED), tried(reason));
        assert_eq!(triggered(&tried(reason), SPEC_CHANGED), pending);
        assert_eq!(triggered(&tried(reason), RECONCILE_REQUESTED), pending);
    }
    for reason in [
        Reason::Invalid,
        Reason::WrongAccount,
        Reason::WrongRegion,
        Reason::AccountNotFound,
        Reason::AccountNotReady,
        Reason::NotAllowed,
        Reason::Suspended,
    ] {
        assert_eq!(triggered(&tried(reason), NOT_TRIGGERED), pending, "nothing refuses it now");
    }
    assert_eq!(triggered(&retired(), NOT_TRIGGERED), retired());
    assert_eq!(triggered(&retired(), SPEC_CHANGED), retired());
    let (message, awaits) = (Some(DESCRIBE_REQUESTED.to_owned()), Some(Awaits::Description));
    let pending_description = RevisionStatus { message, awaits, ..retired() };
    assert_eq!(triggered(&retired(), RECONCILE_REQUESTED), pending_description);
    let deleted = recorded(Reason::Deleted);
    assert_eq!(triggered(&deleted, RECONCILE_REQUESTED), deleted, "a deleted revision cannot be described");
}

#[test]
fn recorded_row_is_found_by_short_form_and_by_arn() {
    let rows = [
        RevisionStatus { revision: "web:1".to_owned(), ..Default::default() },
        RevisionStatus { revision: API.to_owned(), arn: Some(API.to_owned()), ..Default::default() },
    ];
    let by_arn = Entry { key: RevisionKey::new(API), target: Target::Unresolved(reference()) };
    let short = Entry { key: RevisionKey::new("api:1"), ..by_arn.clone() };
    assert_eq!(recorded_row(&resolved(), &rows), Some(&rows[1]));
    assert_eq!(recorded_row(&by_arn, &rows), Some(&rows[1]));
    assert_eq!(recorded_row(&by_arn, &[recorded(Reason::Pending)]), Some(&recorded(Reason::Pending)));
    assert_eq!(recorded_row(&short, &rows), None);
    assert_eq!(recorded_row(&resolved(), &rows[..1]), None);
}

mod due;
mod errors;
mod rejected;
