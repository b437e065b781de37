//! What to do about one revision, given what ECS says of it. Pure.

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

/// Leave to deregister one revision. Only [`plan`] makes it, and the irreversible call takes nothing else.
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

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    Deregister {
        before: Description,
        deregistration: Deregistration,
    },
    Report(Seen),
    /// It is in use, or was a short while ago, or may be.
    Wait {
        before: Description,
        usage: Use,
    },
    /// It is to be known first who uses it.
    NeedUsage,
}

/// | seen in ECS | recorded before | spec | use | step |
/// |---|---|---|---|---|
/// | ACTIVE | retired | - | - | report: ECS has no way back, so this look is older than the record |
/// | ACTIVE | not retired | suspend | - | report |
/// | ACTIVE | not retired | inUse: Retire, dryRun | - | report |
/// | ACTIVE | not retired | inUse: Retire | - | deregister |
/// | ACTIVE | not retired | inUse: Wait | not known yet | ask who |
/// | ACTIVE | not retired | inUse: Wait | somebody, unknown, or nobody for less than unusedFor | wait |
/// | ACTIVE | not retired | inUse: Wait, dryRun | nobody | report |
/// | ACTIVE | not retired | inUse: Wait | nobody | deregister |
/// | anything else | - | - | - | report |
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

/// Whether it matters who uses a revision, if it is ACTIVE.
#[must_use]
pub fn needs_usage(spec: &TaskDefinitionRetirementSpec, recorded: Option<&RevisionStatus>) -> bool {
    spec.in_use == InUse::Wait && !spec.suspend && !recorded.is_some_and(is_retired)
}

/// Whether what is known of the use of a revision must_wait it from being deregistered at `now`, by AWS's clock. While
/// that is unknown, no cool-down ends.
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

/// Returns since when a revision is unused that was unused at `at` and last used at `last_used`, or `None` while
/// AWS's time is unknown.
#[must_use]
pub fn unused_since(
    recorded: Option<&RevisionStatus>,
    at: Option<Timestamp>,
    last_used: Option<Timestamp>,
) -> Option<Timestamp> {
    let since = recorded.and_then(|row| row.unused_since.as_ref()).map(|since| since.0).or(at)?;
    Some(last_used.map_or(since, |last_used| since.max(last_used)))
}

/// Returns how long the cool-down of a revision lasts from `now`, by AWS's clock, or `None` if it does not cool down.
#[must_use]
pub fn cools_down_for(
    spec: &TaskDefinitionRetirementSpec,
    recorded: Option<&RevisionStatus>,
    usage: &Use,
    now: Option<Timestamp>,
) -> Option<Duration> {
    let Use::Unused { at, last_used } = usage else { return None };
    let until = cool_down_until(spec, unused_since(recorded, *at, *last_used)?)?;
    Some(Duration::try_from(until.duration_since(now?)).unwrap_or_default())
}

/// Until when a revision that is unused since then is to be left alone; `None`: no longer.
#[must_use]
pub fn cool_down_until(spec: &TaskDefinitionRetirementSpec, since: Timestamp) -> Option<Timestamp> {
    let unused_for = duration(spec.unused_for.as_deref()?);
    Some(unused_for.and_then(|wait| since.checked_add(wait).ok()).unwrap_or(Timestamp::MAX))
}

/// Whether ECS has said that the revision is retired.
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
    fn a_revision_is_left_alone_until_nobody_has_used_it_for_as_long_as_the_spec_says() {
        let spec = TaskDefinitionRetirementSpec { unused_for: Some("20s".to_owned()), ..Default::default() };
        let nobody = Use::Unused { at: Some(second(100)), last_used: None };
        let row = |since| RevisionStatus {
            unused_since: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(second(since))),
            ..RevisionStatus::default()
        };
        assert!(must_wait(&spec, None, &nobody, Some(second(119))), "counted from the first scan");
        assert!(!must_wait(&spec, None, &nobody, Some(second(120))));
        assert!(must_wait(&spec, Some(&row(81)), &nobody, Some(second(100))));
        assert!(!must_wait(&spec, Some(&row(80)), &nobody, Some(second(100))));
        assert!(must_wait(&spec, Some(&row(0)), &nobody, None), "AWS's time is unknown");
        let stopped = Use::Unused { at: Some(second(100)), last_used: Some(second(81)) };
        assert!(must_wait(&spec, Some(&row(0)), &stopped, Some(second(100))), "a task stopped meanwhile");
        assert!(!must_wait(&spec, Some(&row(0)), &stopped, Some(second(101))));
        let unknown = Use::Unused { at: None, last_used: None };
        assert!(must_wait(&spec, None, &unknown, Some(second(1_000))), "not known since when");
        let at_once = TaskDefinitionRetirementSpec { unused_for: None, ..spec.clone() };
        assert!(!must_wait(&at_once, None, &unknown, None), "it does not matter since when");
        let for_ever = TaskDefinitionRetirementSpec { unused_for: Some("999999h".to_owned()), ..spec };
        assert!(must_wait(&for_ever, Some(&row(0)), &nobody, Some(second(i64::from(u32::MAX) / 2))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn only_what_is_active_unsuspended_unused_and_never_retired_is_deregistered(
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
                // Without a quiet time it does not matter when: a scan's time is rounded up, and so may be one to come.
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
