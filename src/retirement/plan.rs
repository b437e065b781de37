//! What to do about one revision, given what ECS says of it. Pure.

use crate::{
    api::{Reason, RevisionStatus, TaskDefinitionRetirementSpec},
    ecs::answer::{Description, Seen, Status},
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
    Deregister { before: Description, deregistration: Deregistration },
    Report(Seen),
}

/// | seen in ECS | recorded before | suspend or dryRun | step |
/// |---|---|---|---|
/// | ACTIVE | not retired | no | deregister |
/// | ACTIVE | not retired | yes | report |
/// | ACTIVE | retired | - | report: ECS has no way back, so this look is older than the record |
/// | anything else | - | - | report |
#[must_use]
pub fn plan(
    spec: &TaskDefinitionRetirementSpec,
    arn: &Arn,
    recorded: Option<&RevisionStatus>,
    seen: Seen,
) -> Step {
    let held = spec.suspend || spec.dry_run;
    match seen {
        Ok(before) if before.status == Status::Active && !held && !recorded.is_some_and(is_retired) => {
            Step::Deregister { before, deregistration: Deregistration { arn: arn.clone() } }
        }
        seen => Step::Report(seen),
    }
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
    use crate::ecs::answer::{Failure, FailureKind};

    fn arn() -> Arn {
        let revision = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";
        let Ok(crate::task_definition::Reference::Arn(arn)) = revision.parse() else { panic!("an ARN") };
        arn
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let status = prop_oneof![
            Just(Status::Active),
            Just(Status::Inactive),
            Just(Status::DeleteInProgress),
            "[A-Z_]{0,12}".prop_map(|word| Status::from(word.as_str())),
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
            status.prop_map(|status| Ok(Description { status, registered_at: None, deregistered_at: None })),
            kind.prop_map(|kind| Err(Failure { kind, message: String::new() })),
        ]
    }

    proptest! {
        #[test]
        fn only_what_is_active_unsuspended_and_never_retired_is_deregistered(
            seen in any_seen(),
            suspend: bool,
            dry_run: bool,
            reason in prop::sample::select(vec![Reason::Pending, Reason::Refused, Reason::Retired, Reason::Deleting, Reason::Deleted]),
        ) {
            let spec = TaskDefinitionRetirementSpec { suspend, dry_run, ..Default::default() };
            let row = RevisionStatus { reason, ..RevisionStatus::default() };
            let active = matches!(&seen, Ok(description) if description.status == Status::Active);
            let retired = reason != Reason::Pending && reason != Reason::Refused;
            match plan(&spec, &arn(), Some(&row), seen.clone()) {
                Step::Deregister { before, deregistration } => {
                    prop_assert!(active && !suspend && !dry_run && !retired);
                    prop_assert_eq!(deregistration.arn(), &arn());
                    prop_assert_eq!(Ok(before), seen);
                }
                Step::Report(reported) => {
                    prop_assert!(!active || suspend || dry_run || retired);
                    prop_assert_eq!(reported, seen);
                }
            }
        }
    }
}
