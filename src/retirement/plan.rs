//! Plan of a batch: the next step for each revision, from the spec, the recorded rows and the
//! observations. No I/O.

use std::{fmt, time::Duration};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::RevisionStatus,
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
    /// The number of newer ACTIVE revisions of the family, at most `spec.keepLatest`. `None` if it
    /// is not known yet or does not matter.
    pub newer: Option<u32>,
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
    /// The family has only `newer` newer ACTIVE revisions, fewer than `spec.keepLatest`.
    Keep {
        before: Description,
        newer: u32,
    },
    /// Its use has ended. It is described next.
    Resume,
    /// Usage is not known yet.
    NeedUsage,
    /// The number of newer ACTIVE revisions is not known yet.
    NeedNewer,
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
                Step::Keep { .. } => "keep",
                Step::Resume => "resume",
                Step::NeedUsage => "need usage",
                Step::NeedNewer => "need newer revisions",
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
/// | ACTIVE | not retired | keepLatest, newer unknown | unused, or inUse: Retire | need newer |
/// | ACTIVE | not retired | keepLatest, with fewer newer ones | unused, or inUse: Retire | keep |
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
    let Observed { arn, description, usage, newer } = observed;
    let before = match description {
        None => None,
        Some(Ok(before))
            if before.status == Status::Active
                && spec.suspended.is_none()
                && !recorded.is_some_and(|row| row.reason.is_retired()) =>
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
    let Some(before) = before else { return Step::Resume };
    match (spec.keep_latest, newer) {
        (Some(_), None) => Step::NeedNewer,
        (Some(keep_latest), Some(newer)) if newer < keep_latest => Step::Keep { before, newer },
        _ if spec.dry_run => Step::Report(Ok(before)),
        _ => Step::Deregister { before, deregistration: Deregistration::new(arn) },
    }
}

/// Returns true if the usage of the revision has to be known before it is deregistered.
#[must_use]
pub fn needs_usage(spec: &ValidatedSpec, recorded: Option<&RevisionStatus>) -> bool {
    spec.use_policy != UsePolicy::Retire
        && spec.suspended.is_none()
        && !recorded.is_some_and(|row| row.reason.is_retired())
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

#[cfg(test)]
mod tests;
