//! The status row of one declared revision, from the recorded row and the outcome of a reconcile.
//! No I/O.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{Awaits, Reason, RevisionStatus},
    aws::{
        credentials_error,
        response::{DescribeResult, Description, Failure, FailureKind, Status},
        usage::Use,
    },
    controller::conditions::aws_error,
    retirement::{
        outcome::Outcome,
        plan::{cool_down_until, unused_since},
        resolve::{Entry, Target},
        trigger::Trigger,
        validate::ValidatedSpec,
    },
    task_definition::Reference,
};

const TIME_PENDING: &str = "retired; waiting for ECS to report deregisteredAt";
const DESCRIBE_REQUESTED: &str = "retired; to be described again, as requested";
const USAGE_UNKNOWN: &str = "usage unknown";
const TIME_UNKNOWN: &str = "unused; spec.unusedFor starts once AWS has reported the time";
const DRY_RUN: &str = "dry run: would be deregistered without spec.dryRun";

/// Messages of versions without `awaits`: a retired row with one of them waits for a description.
const EARLIER_AWAITS: [&str; 2] = [
    "retired; the time of the deregistration is still to be asked of ECS",
    "retired; to be looked at again, as requested",
];
/// Prefix of the messages of versions without `usageUnknown`: such a row waits for a usage scan.
const EARLIER_USAGE_UNKNOWN: &str = "it is not known whether it is in use";

/// Returns true if the revision of the row has to be read from ECS or acted on.
#[must_use]
pub fn is_due_for_ecs(row: &RevisionStatus) -> bool {
    match row.reason {
        Reason::Retired | Reason::Deleting => {
            let is_earlier = |message: &String| EARLIER_AWAITS.contains(&message.as_str());
            row.awaits.is_some() || row.message.as_ref().is_some_and(is_earlier)
        }
        // An entry that is an ARN of another account stays so, whatever the credentials.
        Reason::WrongAccount => !row.revision.starts_with("arn:"),
        reason => !reason.is_final(),
    }
}

/// Returns true if the row waits for the usage of its revision.
#[must_use]
pub fn waits_for_usage(row: &RevisionStatus) -> bool {
    let is_earlier = |message: &String| message.starts_with(EARLIER_USAGE_UNKNOWN);
    matches!(row.reason, Reason::InUse | Reason::CoolingDown)
        || row.usage_unknown
        || row.message.as_ref().is_some_and(is_earlier)
}

/// Returns the recorded row of an entry, whether it was recorded with the short form or the ARN.
#[must_use]
pub fn recorded_row<'a>(entry: &Entry, rows: &'a [RevisionStatus]) -> Option<&'a RevisionStatus> {
    let arn = match &entry.target {
        Target::Resolved(arn) => Some(arn.to_string()),
        Target::Unresolved(_) | Target::Rejected { .. } => None,
    };
    rows.iter().find(|row| {
        row.revision == entry.key.as_str()
            || row.arn.as_deref() == Some(arn.as_deref().unwrap_or(entry.key.as_str()))
    })
}

/// Returns the row of an entry after a reconcile. `recorded` is its row before. `outcome` is the
/// outcome for its revision or, if there is none, why the identity could not be verified.
pub(super) fn new_row(
    entry: &Entry,
    spec: &ValidatedSpec,
    recorded: Option<RevisionStatus>,
    trigger: Trigger,
    outcome: Result<&Outcome, Option<&Failure>>,
) -> RevisionStatus {
    match &entry.target {
        Target::Rejected { reason, message } => match recorded {
            Some(row) if row.reason.is_retired() => row,
            _ => {
                let key = entry.key.to_string();
                let arn = key.starts_with("arn:").then(|| key.clone());
                let known = recorded.filter(|_| reason.is_of_account()).map(pending).unwrap_or_default();
                let (reason, message, arn) = (*reason, Some(message.clone()), arn.or(known.arn.clone()));
                RevisionStatus { revision: key, arn, reason, message, ..known }
            }
        },
        Target::Unresolved(_) | Target::Resolved(_) => {
            let before = before_reconcile(entry, spec, recorded.unwrap_or_default(), trigger);
            let row = before.clone();
            let after = match outcome {
                Ok(outcome) => with_outcome(row, spec, outcome),
                Err(Some(failure)) if is_due_for_ecs(&row) => not_verified(row, spec, failure),
                Err(_) => row,
            };
            with_first_message(&before, after)
        }
    }
}

/// Keeps the message of the first attempt while AWS returns the same error. Its text may contain a
/// session name, a time or an encoded blob that differs on every attempt.
fn with_first_message(before: &RevisionStatus, after: RevisionStatus) -> RevisionStatus {
    let is_same_error =
        after.error.is_some() && (before.reason, &before.error) == (after.reason, &after.error);
    if is_same_error { RevisionStatus { message: before.message.clone(), ..after } } else { after }
}

/// Returns the row before the reconcile. A changed spec or a requested reconcile makes it pending
/// again, unless it is retired.
fn before_reconcile(
    entry: &Entry,
    spec: &ValidatedSpec,
    recorded: RevisionStatus,
    trigger: Trigger,
) -> RevisionStatus {
    let row = match &entry.target {
        Target::Resolved(arn) => {
            RevisionStatus { revision: entry.key.to_string(), arn: Some(arn.to_string()), ..recorded }
        }
        Target::Unresolved(reference) if recorded.revision.is_empty() => {
            let arn = matches!(reference, Reference::Arn(_)).then(|| entry.key.to_string());
            RevisionStatus { revision: entry.key.to_string(), arn, ..recorded }
        }
        Target::Unresolved(_) | Target::Rejected { .. } => recorded,
    };
    let is_verified = !matches!(entry.target, Target::Unresolved(_));
    match row.reason {
        Reason::Retired | Reason::Deleting if trigger.reconcile_requested => RevisionStatus {
            awaits: Some(Awaits::Description),
            message: Some(DESCRIBE_REQUESTED.to_owned()),
            ..row
        },
        Reason::Retired | Reason::Deleting | Reason::Deleted => row,
        // The entry is not rejected now, or the credentials are verified now.
        Reason::Invalid
        | Reason::WrongAccount
        | Reason::WrongRegion
        | Reason::AccountNotFound
        | Reason::NotAllowed => pending(row),
        Reason::AccountNotReady if is_verified => pending(row),
        Reason::AccessDenied | Reason::Refused if is_verified && is_of_credentials(&row) => pending(row),
        Reason::Suspended if spec.suspended.is_none() => pending(row),
        _ if trigger.is_due() => pending(row),
        _ => row,
    }
}

/// Returns true if the credentials were denied, and not a call to ECS. Credentials that are not
/// from STS have no operation.
fn is_of_credentials(row: &RevisionStatus) -> bool {
    let is_denied = row.reason == Reason::AccessDenied;
    row.error.as_ref().map_or(is_denied, |error| credentials_error::is_of_credentials(&error.operation))
}

fn pending(row: RevisionStatus) -> RevisionStatus {
    // The cool-down starts again after a dry run, as usage was not tracked meanwhile.
    let unused_since = row.unused_since.filter(|_| row.reason != Reason::DryRun);
    let row = RevisionStatus { used_by: Vec::new(), unused_since, usage_unknown: false, ..row };
    RevisionStatus { reason: Reason::Pending, message: None, error: None, ..row }
}

fn with_outcome(row: RevisionStatus, spec: &ValidatedSpec, outcome: &Outcome) -> RevisionStatus {
    let row = RevisionStatus { error: None, usage_unknown: false, ..row };
    match outcome {
        Outcome::Unused => pending(row),
        Outcome::MustWait { before, usage } => {
            let row = before.as_ref().map_or(row.clone(), |before| described(row, spec, before));
            with_usage(row, spec, usage)
        }
        Outcome::Kept { before, because } => {
            let row = described(row, spec, before);
            let message = Some(if spec.dry_run {
                format!("{DRY_RUN}, but not yet: {because}")
            } else {
                because.clone()
            });
            let reason = if spec.dry_run { Reason::DryRun } else { Reason::Kept };
            RevisionStatus { reason, message, ..row }
        }
        Outcome::Described(Ok(description)) => described(row, spec, description),
        Outcome::Described(Err(failure)) => failed(row, failure),
        Outcome::Deregistered { before, reply, after } => {
            let row = described(row, spec, before);
            match (&reply.response, after) {
                (Ok(description), after) if description.status.is_retired() => {
                    let request_id = reply.request_id.clone();
                    let row = RevisionStatus { request_id, ..described(row, spec, description) };
                    with_time(row, spec, after.as_ref())
                }
                (Ok(description), _) => described(row, spec, description),
                // Refused because another client has deregistered it.
                (Err(_), Some(Ok(after))) if after.status.is_retired() => described(row, spec, after),
                (Err(_), Some(Err(after)))
                    if matches!(after.kind, FailureKind::Absent | FailureKind::Deleted) =>
                {
                    failed(row, after)
                }
                // Confirm NotFound with DescribeTaskDefinition.
                (Err(failure @ Failure { kind: FailureKind::Absent, .. }), _) => {
                    failed(row, &Failure { kind: FailureKind::ServerFault, ..failure.clone() })
                }
                (Err(failure), _) => failed(row, failure),
            }
        }
    }
}

/// Returns the row of an ACTIVE revision whose `usage` prevents the deregistration.
fn with_usage(row: RevisionStatus, spec: &ValidatedSpec, usage: &Use) -> RevisionStatus {
    let (row, message) = match usage {
        Use::InUse(users) => {
            let used_by = users.named.iter().map(ToString::to_string).collect();
            let row = RevisionStatus { reason: Reason::InUse, used_by, unused_since: None, ..row };
            (row, in_use_message(users.named.len() + users.more))
        }
        Use::Unused { at, last_used } => {
            let since = unused_since(Some(&row), *at, *last_used);
            let message = since.map_or(TIME_UNKNOWN.to_owned(), |since| {
                let until = cool_down_until(spec, since).unwrap_or(since);
                format!("unused since {since:.0}; deregistered at {until:.0} if it stays unused")
            });
            let unused_since = since.map(Time);
            (
                RevisionStatus { reason: Reason::CoolingDown, used_by: Vec::new(), unused_since, ..row },
                message,
            )
        }
        Use::Unknown(failure) => {
            // A dry run has no result either until the usage is known.
            let message = format!("{USAGE_UNKNOWN}: {}", failure.message);
            let row = failed(row, &Failure { message, ..failure.clone() });
            return RevisionStatus { usage_unknown: true, ..row };
        }
    };
    if spec.dry_run {
        let message = format!("{DRY_RUN}, but not yet: {message}");
        return RevisionStatus { reason: Reason::DryRun, message: Some(message), ..row };
    }
    RevisionStatus { message: Some(message), ..row }
}

/// Returns a message with the number of users; `usedBy` names them.
fn in_use_message(users: usize) -> String {
    let noun = if users == 1 { "service or task" } else { "services or tasks" };
    format!("in use by {users} {noun}")
}

/// Returns the row of a revision that was just deregistered. The response omits `deregisteredAt`,
/// which has to be read with `DescribeTaskDefinition`.
fn with_time(row: RevisionStatus, spec: &ValidatedSpec, after: Option<&DescribeResult>) -> RevisionStatus {
    let row = match after {
        Some(Ok(after)) => described(row, spec, after),
        _ => row,
    };
    let is_pending = row.deregistered_at.is_none();
    let awaits = is_pending.then_some(Awaits::DeregisteredAt);
    RevisionStatus { awaits, message: is_pending.then(|| TIME_PENDING.to_owned()), ..row }
}

fn described(row: RevisionStatus, spec: &ValidatedSpec, seen: &Description) -> RevisionStatus {
    // ECS never reactivates a revision: an ACTIVE description is stale.
    if row.reason.is_retired() && !seen.status.is_retired() {
        return RevisionStatus { awaits: None, message: None, ..row };
    }
    let (reason, message) = match &seen.status {
        Status::Inactive => (Reason::Retired, None),
        Status::DeleteInProgress => (Reason::Deleting, None),
        Status::Active if let Some(suspended) = &spec.suspended => {
            (Reason::Suspended, Some(suspended.to_string()))
        }
        Status::Active if spec.dry_run => (Reason::DryRun, Some(DRY_RUN.to_owned())),
        Status::Active => (Reason::Pending, None),
        Status::Other(word) => (Reason::Refused, Some(format!("unknown ECS status {word}"))),
    };
    RevisionStatus {
        status: Some(seen.status.as_str().to_owned()),
        reason,
        awaits: None,
        message,
        registered_at: seen.registered_at.map(Time).or(row.registered_at),
        deregistered_at: seen.deregistered_at.map(Time).or(row.deregistered_at),
        used_by: Vec::new(),
        // Reset `unusedSince` while usage is not tracked.
        unused_since: row.unused_since.filter(|_| reason == Reason::Pending),
        ..row
    }
}

fn failed(row: RevisionStatus, failure: &Failure) -> RevisionStatus {
    let reason = match failure.kind {
        // A retired revision that ECS does not have was deleted.
        FailureKind::Absent if row.reason.is_retired() => {
            return deleted(row);
        }
        FailureKind::Deleted => {
            return deleted(RevisionStatus { used_by: Vec::new(), unused_since: None, ..row });
        }
        FailureKind::Throttled | FailureKind::Unavailable | FailureKind::ServerFault
            if row.reason.is_retired() =>
        {
            return row;
        }
        FailureKind::AccessDenied | FailureKind::AccountMismatch | FailureKind::Refused
            if row.reason.is_retired() =>
        {
            return RevisionStatus { awaits: None, message: None, ..row };
        }
        FailureKind::Absent => Reason::NotFound,
        FailureKind::Throttled => Reason::Throttled,
        FailureKind::Unavailable | FailureKind::ServerFault => Reason::Unavailable,
        FailureKind::AccessDenied | FailureKind::AccountMismatch => Reason::AccessDenied,
        FailureKind::Refused => Reason::Refused,
    };
    let message = match reason {
        Reason::NotFound => format!("ECS has no such revision ({})", failure.message),
        _ => failure.message.clone(),
    };
    RevisionStatus { reason, message: Some(message), error: aws_error(failure), used_by: Vec::new(), ..row }
}

/// Returns the row if the identity of the credentials could not be verified. Credentials of an
/// EcsAccount that are denied or wrong are those of an account that is not ready.
fn not_verified(row: RevisionStatus, spec: &ValidatedSpec, failure: &Failure) -> RevisionStatus {
    let row = failed(row, failure);
    let Some(name) = spec.account_ref.as_ref().filter(|_| !row.reason.is_retired()) else { return row };
    let is_not_ready = matches!(row.reason, Reason::AccessDenied | Reason::Refused | Reason::NotFound);
    let reason = if is_not_ready { Reason::AccountNotReady } else { row.reason };
    RevisionStatus { reason, message: Some(format!("EcsAccount {name}: {}", failure.message)), ..row }
}

fn deleted(row: RevisionStatus) -> RevisionStatus {
    RevisionStatus { reason: Reason::Deleted, status: None, awaits: None, message: None, ..row }
}

#[cfg(test)]
mod tests;
