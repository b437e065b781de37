//! Tests of the plan of a batch.

use proptest::prelude::*;

use super::*;
use crate::{
    api::{InUse, Reason, TaskDefinitionRetirementSpec},
    aws::{
        response::{Failure, FailureKind},
        usage::{User, Users},
    },
    retirement::validate::validate,
};

fn waiting(unused_for: Option<&str>) -> ValidatedSpec {
    spec(TaskDefinitionRetirementSpec { unused_for: unused_for.map(str::to_owned), ..Default::default() })
}

fn spec(spec: TaskDefinitionRetirementSpec) -> ValidatedSpec {
    let revisions = vec!["cpu-wave:1".to_owned()];
    validate(&TaskDefinitionRetirementSpec { revisions, ..spec }).expect("a valid spec")
}

fn arn() -> Arn {
    let revision = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";
    let Ok(crate::task_definition::Reference::Arn(arn)) = revision.parse() else { panic!("an ARN") };
    arn
}

fn any_seen() -> impl Strategy<Value = DescribeResult> {
    let status = prop_oneof![
        6 => Just(Status::Active),
        1 => Just(Status::Inactive),
        1 => Just(Status::DeleteInProgress),
        1 => "[A-Z_]{0,12}".prop_map(|word| Status::from(word.as_str())),
    ];
    let kind = prop_oneof![
        Just(FailureKind::Absent),
        Just(FailureKind::Throttled),
        Just(FailureKind::Unavailable),
        Just(FailureKind::ServerFault),
        Just(FailureKind::AccessDenied),
        Just(FailureKind::Refused),
    ];
    prop_oneof![
        3 => status.prop_map(|status| Ok(Description { status, registered_at: None, deregistered_at: None })),
        1 => kind.prop_map(|kind| Err(Failure::new(kind, String::new()))),
    ]
}

fn any_use() -> impl Strategy<Value = Option<Use>> {
    let user = User::Task { cluster: "prod".to_owned(), id: "a".to_owned() };
    let failure = Failure::new(FailureKind::AccessDenied, String::new());
    prop_oneof![
        Just(None),
        Just(Some(Use::InUse(Users { named: vec![user], more: 0 }))),
        Just(Some(Use::Unknown(failure))),
        (0i64..100, prop::option::of(0i64..100)).prop_map(|(at, last)| {
            Some(Use::Unused { at: Some(second(at)), last_used: last.map(second) })
        }),
    ]
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

#[test]
fn revision_must_wait_until_it_was_unused_for_the_declared_time() {
    let spec = waiting(Some("20s"));
    let unused = Use::Unused { at: Some(second(100)), last_used: None };
    let row = |since| RevisionStatus {
        unused_since: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(second(since))),
        ..RevisionStatus::default()
    };
    assert!(must_wait(&spec, None, &unused, Some(second(119))), "counted from the first usage scan");
    assert!(!must_wait(&spec, None, &unused, Some(second(120))));
    assert!(must_wait(&spec, Some(&row(81)), &unused, Some(second(100))));
    assert!(!must_wait(&spec, Some(&row(80)), &unused, Some(second(100))));
    assert!(must_wait(&spec, Some(&row(0)), &unused, None), "AWS's time is unknown");
    let stopped = Use::Unused { at: Some(second(100)), last_used: Some(second(81)) };
    assert!(must_wait(&spec, Some(&row(0)), &stopped, Some(second(100))), "a task has stopped meanwhile");
    assert!(!must_wait(&spec, Some(&row(0)), &stopped, Some(second(101))));
    let unknown = Use::Unused { at: None, last_used: None };
    assert!(must_wait(&spec, None, &unknown, Some(second(1_000))), "the start of the unused time is unknown");
    let immediately = waiting(None);
    assert!(!must_wait(&immediately, None, &unknown, None), "the start of the unused time does not matter");
    let indefinitely = waiting(Some("999999h"));
    assert!(must_wait(&indefinitely, Some(&row(0)), &unused, Some(second(i64::from(u32::MAX) / 2))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn deregister_is_planned_only_if_active_unused_not_suspended_and_never_retired(
        seen in any_seen(),
        suspend: bool,
        dry_run: bool,
        waits: bool,
        unused_for in prop::option::of(0i64..100),
        usage in any_use(),
        now in prop::option::weighted(0.9, 0i64..200),
        reason in prop::sample::select(vec![Reason::Pending, Reason::Refused, Reason::Retired, Reason::Deleting, Reason::Deleted]),
    ) {
        let in_use = if waits { InUse::Wait } else { InUse::Retire };
        let text = unused_for.filter(|_| waits).map(|seconds| format!("{seconds}s"));
        let spec = spec(TaskDefinitionRetirementSpec { suspend, dry_run, in_use, unused_for: text, ..Default::default() });
        let row = RevisionStatus { reason, ..RevisionStatus::default() };
        let active = matches!(&seen, Ok(description) if description.status == Status::Active);
        let retired = reason != Reason::Pending && reason != Reason::Refused;
        let is_unused = match &usage {
            // Without `unusedFor` the time does not matter. The time of a scan is rounded up,
            // so that it may be in the future.
            Some(Use::Unused { at: Some(at), last_used }) => unused_for.is_none_or(|seconds| {
                let since = last_used.unwrap_or(*at).max(*at).as_second();
                now.is_some_and(|now| now >= since + seconds)
            }),
            _ => false,
        };
        let observed = Observed { arn: arn(), description: Some(seen.clone()), usage: usage.clone(), newer: None };
        match step(&spec, Some(&row), observed, now.map(second)) {
            Step::Deregister { before, deregistration } => {
                prop_assert!(active && !suspend && !dry_run && !retired && (is_unused || !waits));
                prop_assert_eq!(deregistration.arn(), &arn());
                prop_assert_eq!(Ok(before), seen);
            }
            Step::Report(reported) => {
                prop_assert!(!active || suspend || dry_run || retired);
                prop_assert_eq!(reported, seen);
            }
            Step::Wait { before, usage: reported } => {
                prop_assert!(waits && !suspend && !retired && !is_unused);
                prop_assert_eq!(before.map(Ok), Some(seen));
                prop_assert_eq!(Some(reported), usage);
            }
            Step::NeedUsage => prop_assert!(active && waits && !suspend && !retired && usage.is_none()),
            Step::Resume | Step::NeedNewer | Step::Keep { .. } => {
                prop_assert!(false, "it was described, and keeps none");
            }
        }
    }
}

#[test]
fn revision_that_was_not_described_is_never_deregistered() {
    let observed = |usage| Observed { arn: arn(), description: None, usage: Some(usage), newer: None };
    let unused = Use::Unused { at: Some(second(1)), last_used: None };
    assert_eq!(step(&waiting(None), None, observed(unused.clone()), None), Step::Resume);
    let wait = step(&waiting(Some("1h")), None, observed(unused.clone()), Some(second(2)));
    assert_eq!(wait, Step::Wait { before: None, usage: unused });
}

#[test]
fn plan_is_printed_in_the_order_of_its_steps() {
    let active = Description { status: Status::Active, registered_at: None, deregistered_at: None };
    let observed =
        |description, usage| Observed { arn: arn(), description: Some(description), usage, newer: None };
    let unused = Use::Unused { at: None, last_used: None };
    let missing = Failure::new(FailureKind::Absent, "none");
    let batch = [
        (RevisionKey::new("cpu-wave:1"), None, observed(Ok(active.clone()), Some(unused))),
        (RevisionKey::new("cpu-wave:2"), None, observed(Ok(active), None)),
        (RevisionKey::new("cpu-wave:3"), None, observed(Err(missing), None)),
    ];
    let plan = Plan::new(&waiting(None), batch.into_iter(), None);
    assert_eq!(plan.to_string(), "cpu-wave:1: deregister, cpu-wave:2: need usage, cpu-wave:3: report");
}

#[test]
fn revision_is_kept_unless_enough_newer_ones_are_known() {
    let keeping = ValidatedSpec { keep_latest: Some(2), ..waiting(None) };
    let next = |spec: &ValidatedSpec, newer| {
        let active = Description { status: Status::Active, registered_at: None, deregistered_at: None };
        let usage = Some(Use::Unused { at: None, last_used: None });
        step(spec, None, Observed { arn: arn(), description: Some(Ok(active)), usage, newer }, None)
    };
    assert_eq!(next(&keeping, None), Step::NeedNewer);
    for few in [0, 1] {
        assert!(matches!(next(&keeping, Some(few)), Step::Keep { newer, .. } if newer == few));
    }
    assert!(matches!(next(&keeping, Some(2)), Step::Deregister { .. }));
    assert!(matches!(next(&waiting(None), None), Step::Deregister { .. }));
    let dry = ValidatedSpec { dry_run: true, ..keeping };
    assert!(matches!(next(&dry, Some(1)), Step::Keep { .. }));
}
