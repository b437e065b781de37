//! Plan of a batch: the next step for each revision, from the spec, the recorded rows and the
//! observations. No I/O.

use std::{fmt, time::Duration};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::{Reason, RevisionStatus},
    aws::{
        response::{DescribeResult, Description, Status},
        usage::Use,
    },
    deregistration::Deregistration,
    retirement::{
        outcome::RevisionKey,
        validate::{UsePolicy, ValidatedSpec},
    },
    task_definition::Arn,
};

/// What was observed about one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observed {
    pub arn: Arn,
    /// The description; `None` if the revision is known to be ACTIVE by its row, and was not
    /// described.
    pub description: Option<DescribeResult>,
    /// The usage; `None` if it is not known yet or does not matter.
    pub usage: Option<Use>,
}

/// The next step for one revision.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    Deregister {
        before: Description,
        deregistration: Deregistration,
    },
    Report(DescribeResult),
    /// The revision is in use, its usage is unknown, or it has not been unused for long enough.
    /// `before` is the description, if one was read.
    Wait {
        before: Option<Description>,
        usage: Use,
    },
    /// Its use has ended. It is described next.
    Resume,
    /// Usage is not known yet.
    NeedUsage,
}

/// The steps of a batch, in the order in which they are applied.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Plan {
    pub steps: Vec<(RevisionKey, Step)>,
}

impl Plan {
    /// Returns the plan of a batch of revisions, each with its recorded row.
    #[must_use]
    pub fn new<'a>(
        spec: &ValidatedSpec,
        observed: impl Iterator<Item = (RevisionKey, Option<&'a RevisionStatus>, Observed)>,
        now: Option<Timestamp>,
    ) -> Self {
        let steps = observed.map(|(key, recorded, observed)| (key, step(spec, recorded, observed, now)));
        Self { steps: steps.collect() }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, step)) in self.steps.iter().enumerate() {
            let action = match step {
                Step::Deregister { .. } => "deregister",
                Step::Report(_) => "report",
                Step::Wait { .. } => "wait",
                Step::Resume => "resume",
                Step::NeedUsage => "need usage",
            };
            write!(f, "{}{key}: {action}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Returns the next step for one revision.
///
/// | status in ECS | recorded | spec | usage | step |
/// |---|---|---|---|---|
/// | ACTIVE | retired | - | - | report: the description is stale |
/// | ACTIVE | not retired | suspend | - | report |
/// | ACTIVE | not retired | inUse: Retire, dryRun | - | report |
/// | ACTIVE | not retired | inUse: Retire | - | deregister |
/// | ACTIVE | not retired | inUse: Wait | not known yet | need usage |
/// | ACTIVE | not retired | inUse: Wait | in use, unknown, or cooling down | wait |
/// | ACTIVE | not retired | inUse: Wait, dryRun | unused | report |
/// | ACTIVE | not retired | inUse: Wait | unused | deregister |
/// | not described | not retired | inUse: Wait | in use, unknown, or cooling down | wait |
/// | not described | not retired | inUse: Wait | unused | resume |
/// | anything else | - | - | - | report |
///
/// ECS never reactivates a revision, so that ACTIVE is stale once a revision was recorded as
/// retired.
#[must_use]
pub fn step(
    spec: &ValidatedSpec,
    recorded: Option<&RevisionStatus>,
    observed: Observed,
    now: Option<Timestamp>,
) -> Step {
    let Observed { arn, description, usage } = observed;
    let before = match description {
        None => None,
        Some(Ok(before))
            if before.status == Status::Active
                && spec.suspended.is_none()
                && !recorded.is_some_and(is_retired) =>
        {
            Some(before)
        }
        Some(described) => return Step::Report(described),
    };
    if needs_usage(spec, recorded) {
        match usage {
            None => return Step::NeedUsage,
            Some(usage) if must_wait(spec, recorded, &usage, now) => return Step::Wait { before, usage },
            Some(_) => {}
        }
    }
    match before {
        None => Step::Resume,
        Some(before) if spec.dry_run => Step::Report(Ok(before)),
        Some(before) => Step::Deregister { before, deregistration: Deregistration::new(arn) },
    }
}

/// Returns true if the usage of the revision has to be known before it is deregistered.
#[must_use]
pub fn needs_usage(spec: &ValidatedSpec, recorded: Option<&RevisionStatus>) -> bool {
    spec.use_policy != UsePolicy::Retire && spec.suspended.is_none() && !recorded.is_some_and(is_retired)
}

/// Returns true if `usage` prevents the deregistration of the revision at `now`, by AWS's clock. A
/// cool-down does not end while `now` is unknown.
#[must_use]
pub fn must_wait(
    spec: &ValidatedSpec,
    recorded: Option<&RevisionStatus>,
    usage: &Use,
    now: Option<Timestamp>,
) -> bool {
    match usage {
        Use::InUse(_) | Use::Unknown(_) => true,
        Use::Unused { .. } if spec.unused_for().is_none() => false,
        Use::Unused { at, last_used } => {
            let until =
                unused_since(recorded, *at, *last_used).and_then(|since| cool_down_until(spec, since));
            until.zip(now).is_none_or(|(until, now)| now < until)
        }
    }
}

/// Returns the start of the current unused period of a revision that was unused at `at` and last
/// used at `last_used`. Returns `None` while AWS's time is unknown.
#[must_use]
pub fn unused_since(
    recorded: Option<&RevisionStatus>,
    at: Option<Timestamp>,
    last_used: Option<Timestamp>,
) -> Option<Timestamp> {
    let since = recorded.and_then(|row| row.unused_since.as_ref()).map(|since| since.0).or(at)?;
    Some(last_used.map_or(since, |last_used| since.max(last_used)))
}

/// Returns the remaining time of the cool-down of a revision at `now`, by AWS's clock. Returns
/// `None` if the revision is not cooling down, or AWS's time is unknown.
#[must_use]
pub fn remaining_cool_down(
    spec: &ValidatedSpec,
    recorded: Option<&RevisionStatus>,
    usage: &Use,
    now: Option<Timestamp>,
) -> Option<Duration> {
    let Use::Unused { at, last_used } = usage else { return None };
    let until = cool_down_until(spec, unused_since(recorded, *at, *last_used)?)?;
    Some(Duration::try_from(until.duration_since(now?)).unwrap_or_default())
}

/// Returns the end of the cool-down of a revision that is unused since `since`. Returns `None` if
/// `unusedFor` is not set.
#[must_use]
pub fn cool_down_until(spec: &ValidatedSpec, since: Timestamp) -> Option<Timestamp> {
    Some(since.checked_add(spec.unused_for()?).unwrap_or(Timestamp::MAX))
}

/// Returns true if ECS has reported the revision as retired.
#[must_use]
pub fn is_retired(recorded: &RevisionStatus) -> bool {
    matches!(recorded.reason, Reason::Retired | Reason::Deleting | Reason::Deleted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::{InUse, TaskDefinitionRetirementSpec},
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
        assert!(
            must_wait(&spec, None, &unknown, Some(second(1_000))),
            "the start of the unused time is unknown"
        );
        let immediately = waiting(None);
        assert!(
            !must_wait(&immediately, None, &unknown, None),
            "the start of the unused time does not matter"
        );
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
            let observed = Observed { arn: arn(), description: Some(seen.clone()), usage: usage.clone() };
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
                Step::Resume => prop_assert!(false, "it was described"),
            }
        }
    }

    #[test]
    fn revision_that_was_not_described_is_never_deregistered() {
        let observed = |usage| Observed { arn: arn(), description: None, usage: Some(usage) };
        let unused = Use::Unused { at: Some(second(1)), last_used: None };
        assert_eq!(step(&waiting(None), None, observed(unused.clone()), None), Step::Resume);
        let wait = step(&waiting(Some("1h")), None, observed(unused.clone()), Some(second(2)));
        assert_eq!(wait, Step::Wait { before: None, usage: unused });
    }

    #[test]
    fn plan_is_printed_in_the_order_of_its_steps() {
        let active = Description { status: Status::Active, registered_at: None, deregistered_at: None };
        let observed = |description, usage| Observed { arn: arn(), description: Some(description), usage };
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
}
