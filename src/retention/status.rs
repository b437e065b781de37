//! The status of a policy. No I/O.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use crate::{
    account::authorize::Refused,
    api::{
        AwsError, REQUESTED_AT, Reason, TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus,
        conditions::READY,
    },
    aws::response::{Failure, FailureKind},
    controller::conditions::{MESSAGE_BYTES, Recorded, Reported, State, aws_error},
    retention::validate::ValidatedPolicy,
    text::cut,
};

/// The type of the condition that reports policies with the same families.
pub const OVERLAPPING: &str = "Overlapping";

/// The state of a policy, with the reason and the message of its conditions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    pub state: State,
    pub reason: &'static str,
    pub message: String,
    /// The AWS error that `message` reports.
    pub error: Option<AwsError>,
}

impl Summary {
    #[must_use]
    pub fn new(state: State, reason: &'static str, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into(), error: None }
    }
}

/// Returns the summary of a policy that may use no credentials.
#[must_use]
pub fn denied(refused: Refused) -> Summary {
    let state = if refused.reason.has_grace() { State::Denied } else { State::Stalled };
    Summary::new(state, refused.reason.as_str(), refused.message)
}

/// Returns the summary of a policy whose run failed at AWS.
#[must_use]
pub fn failed(failure: &Failure) -> Summary {
    let (state, reason) = match failure.kind {
        FailureKind::Throttled => (State::Reconciling, Reason::Throttled),
        FailureKind::Unavailable | FailureKind::ServerFault => (State::Reconciling, Reason::Unavailable),
        FailureKind::AccountMismatch => (State::Denied, Reason::AccountNotReady),
        FailureKind::AccessDenied => (State::Denied, Reason::AccessDenied),
        FailureKind::Refused | FailureKind::Absent | FailureKind::Deleted => {
            (State::Stalled, Reason::Refused)
        }
    };
    let summary = Summary::new(state, reason.as_str(), failure.message.clone());
    Summary { error: aws_error(failure), ..summary }
}

/// Returns the summary of a policy whose last run is complete.
#[must_use]
pub fn completed(
    valid: &ValidatedPolicy,
    status: &TaskDefinitionRetentionPolicyStatus,
    pending: i32,
) -> Summary {
    let TaskDefinitionRetentionPolicyStatus { matched_families, retirable, in_use, .. } = status;
    let found = format!("{matched_families} families, {retirable} revisions retirable, {in_use} in use");
    let (reason, message) = if *matched_families == 0 {
        let text = "spec.families includes no family with ACTIVE revisions: nothing is proposed";
        ("NoFamilies", text.to_owned())
    } else if valid.is_dry_run {
        ("DryRun", format!("{found}: dry run, nothing is deregistered"))
    } else if pending > 0 {
        let text = "set spec.suspend of a retirement to false to approve it";
        ("AwaitingApproval", format!("{found}; {pending} retirements wait for approval: {text}"))
    } else {
        ("Succeeded", found)
    };
    Summary::new(State::Ready, reason, message)
}

/// Returns `recorded` with the conditions of `summary`. `overlapping` names the policies that
/// include the same families; `None` keeps the recorded condition.
#[must_use]
pub fn summarize(
    policy: &TaskDefinitionRetentionPolicy,
    recorded: TaskDefinitionRetentionPolicyStatus,
    summary: &Summary,
    overlapping: Option<&[String]>,
    now: Timestamp,
) -> TaskDefinitionRetentionPolicyStatus {
    let generation = policy.metadata.generation;
    let Summary { state, reason, message, error } = summary.clone();
    let reported = Reported { state, reason, message: &message, error: error.as_ref() };
    let before = Recorded { conditions: &recorded.conditions, generation, now };
    let mut conditions = before.conditions(&reported, recorded.error.as_ref());
    match overlapping {
        None => conditions.extend(before.conditions.iter().find(|it| it.type_ == OVERLAPPING).cloned()),
        Some([]) => {}
        Some(names) => {
            let mut text = format!("other policies include the same families: {}", names.join(", "));
            cut(&mut text, MESSAGE_BYTES);
            conditions.push(before.condition(OVERLAPPING, true, "SameFamilies", &text));
        }
    }
    TaskDefinitionRetentionPolicyStatus { observed_generation: generation, conditions, error, ..recorded }
}

/// Returns true if a status shows that another controller has reported the policy: this one reports
/// no other reason for a policy whose EcsAccount it does not serve.
#[must_use]
pub fn is_reported_by_other(recorded: &TaskDefinitionRetentionPolicyStatus) -> bool {
    let is_ours = |it: &Condition| ["AccountNotFound", "InvalidSpec"].contains(&it.reason.as_str());
    let ready = recorded.conditions.iter().find(|it| it.type_ == READY);
    recorded.last_run_time.is_some() || ready.is_some_and(|it| !is_ours(it))
}

/// Returns the value of the annotation that requests a run, if it is not handled yet.
#[must_use]
pub fn request(policy: &TaskDefinitionRetentionPolicy) -> Option<&String> {
    let handled = policy.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
    policy.annotations().get(REQUESTED_AT).filter(|requested| Some(*requested) != handled)
}

/// Why a run is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// The run that began at this time was interrupted.
    Resume(Timestamp),
    /// A user has requested it.
    Requested,
    /// The interval has elapsed, or the spec has changed.
    Scheduled,
}

/// A requested run starts at most once in this time.
const REQUEST_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Returns why a run is due at `now`; `Err` with the time of the next one if none is.
///
/// # Errors
/// Returns the time at which the next run is due.
pub fn due(
    policy: &TaskDefinitionRetentionPolicy,
    interval: SignedDuration,
    now: Timestamp,
) -> Result<Due, Timestamp> {
    let status = policy.status.clone().unwrap_or_default();
    let Some(Time(started)) = status.last_run_time else { return Ok(Due::Scheduled) };
    if status.last_run_completion_time.is_none() {
        return Ok(Due::Resume(started));
    }
    // The clock that recorded it was ahead.
    if started > now {
        return Ok(Due::Scheduled);
    }
    let is_changed = status.last_run_generation != policy.metadata.generation;
    let after = |interval| started.checked_add(interval).unwrap_or(Timestamp::MAX);
    if request(policy).is_some() && now >= after(REQUEST_INTERVAL) {
        return Ok(Due::Requested);
    }
    // The names of two runs must differ.
    if is_changed && now >= after(SignedDuration::from_secs(1)) {
        return Ok(Due::Scheduled);
    }
    let next = after(interval);
    if now >= next {
        return Ok(Due::Scheduled);
    }
    let requested = request(policy).map(|_| after(REQUEST_INTERVAL));
    let changed = is_changed.then(|| after(SignedDuration::from_secs(1)));
    Err([Some(next), requested, changed].into_iter().flatten().min().unwrap_or(next))
}

#[cfg(test)]
mod tests;
