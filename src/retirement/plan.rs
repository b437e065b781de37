//! Plan for one revision: the next step, from the spec, the recorded row, its description and its
//! usage. No I/O.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::{InUse, Reason, RevisionStatus, TaskDefinitionRetirementSpec},
    aws::{
        response::{Description, Seen, Status},
        usage::Use,
    },
    retirement::resolve::duration,
    task_definition::Arn,
};

/// Authorization to deregister one revision. Only [`plan`] creates it, and the irreversible call
/// requires it.
#[derive(Debug, Eq, PartialEq)]
pub struct Deregistration {
    arn: Arn,
}

impl Deregistration {
    #[must_use]
    pub fn arn(&self) -> &Arn {
        &self.arn
    }
}

/// The next step for one revision.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    Deregister {
        before: Description,
        deregistration: Deregistration,
    },
    Report(Seen),
    /// The revision is in use, its usage is unknown, or it has not been unused for long enough.
    Wait {
        before: Description,
        usage: Use,
    },
    /// Usage is not known yet.
    NeedUsage,
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
/// | anything else | - | - | - | report |
///
/// ECS never reactivates a revision, so that ACTIVE is stale once a revision was recorded as
/// retired.
#[must_use]
pub fn plan(
    spec: &TaskDefinitionRetirementSpec,
    arn: &Arn,
    recorded: Option<&RevisionStatus>,
    seen: Seen,
    usage: Option<&Use>,
    now: Option<Timestamp>,
) -> Step {
    let before = match seen {
        Ok(before)
            if before.status == Status::Active && !spec.suspend && !recorded.is_some_and(is_retired) =>
        {
            before
        }
        seen => return Step::Report(seen),
    };
    if needs_usage(spec, recorded) {
        match usage {
            None => return Step::NeedUsage,
            Some(usage) if must_wait(spec, recorded, usage, now) => {
                return Step::Wait { before, usage: usage.clone() };
            }
            Some(_) => {}
        }
    }
    if spec.dry_run {
        return Step::Report(Ok(before));
    }
    Step::Deregister { before, deregistration: Deregistration { arn: arn.clone() } }
}

/// Returns true if the usage of the revision has to be known before it is deregistered.
#[must_use]
pub fn needs_usage(spec: &TaskDefinitionRetirementSpec, recorded: Option<&RevisionStatus>) -> bool {
    spec.in_use == InUse::Wait && !spec.suspend && !recorded.is_some_and(is_retired)
}

/// Returns true if `usage` prevents the deregistration of the revision at `now`, by AWS's clock. A
/// cool-down does not end while `now` is unknown.
#[must_use]
pub fn must_wait(
    spec: &TaskDefinitionRetirementSpec,
    recorded: Option<&RevisionStatus>,
    usage: &Use,
    now: Option<Timestamp>,
) -> bool {
    match usage {
        Use::InUse(_) | Use::Unknown(_) => true,
        Use::Unused { .. } if spec.unused_for.is_none() => false,
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
    spec: &TaskDefinitionRetirementSpec,
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
pub fn cool_down_until(spec: &TaskDefinitionRetirementSpec, since: Timestamp) -> Option<Timestamp> {
    let unused_for = duration(spec.unused_for.as_deref()?);
    Some(unused_for.and_then(|wait| since.checked_add(wait).ok()).unwrap_or(Timestamp::MAX))
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
    use crate::aws::{
        response::{Failure, FailureKind},
        usage::{User, Users},
    };

    fn arn() -> Arn {
        let revision = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";
        let Ok(crate::task_definition::Reference::Arn(arn)) = revision.parse() else { panic!("an ARN") };
        arn
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
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
        let spec = TaskDefinitionRetirementSpec { unused_for: Some("20s".to_owned()), ..Default::default() };
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
        let immediately = TaskDefinitionRetirementSpec { unused_for: None, ..spec.clone() };
        assert!(
            !must_wait(&immediately, None, &unknown, None),
            "the start of the unused time does not matter"
        );
        let indefinitely = TaskDefinitionRetirementSpec { unused_for: Some("999999h".to_owned()), ..spec };
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
            let text = unused_for.map(|seconds| format!("{seconds}s"));
            let spec = TaskDefinitionRetirementSpec { suspend, dry_run, in_use, unused_for: text, ..Default::default() };
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
            match plan(&spec, &arn(), Some(&row), seen.clone(), usage.as_ref(), now.map(second)) {
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
                    prop_assert_eq!(Ok(before), seen);
                    prop_assert_eq!(Some(reported), usage);
                }
                Step::NeedUsage => prop_assert!(active && waits && !suspend && !retired && usage.is_none()),
            }
        }
    }
}
