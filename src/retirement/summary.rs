//! Aggregate state of a resource: its counts and conditions, from its rows. No I/O.

use std::fmt::Write;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    api::{
        Reason, ReasonClass, RevisionStatus,
        conditions::{READY, RECONCILING, STALLED},
    },
    aws::permit_queue::QueuePosition,
    controller::conditions::{GRACE, Recorded},
    retirement::validate::InvalidSpec,
};

/// The reason of the conditions of a resource whose spec is invalid.
pub const INVALID_SPEC: &str = "InvalidSpec";

/// Returns the time since when a row has a reason with grace; `None` if no row has.
#[must_use]
pub fn blocked_since(rows: &[RevisionStatus], recorded: Option<&Time>, now: Timestamp) -> Option<Timestamp> {
    let is_blocked = rows.iter().any(|row| row.reason.has_grace());
    is_blocked.then(|| recorded.map_or(now, |since| since.0))
}

/// Aggregate state of a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    pub declared: usize,
    pub retired: usize,
    pub waiting: usize,
    pub rejected: usize,
    state: State,
    reason: String,
    message: String,
}

/// kstatus computes Current, InProgress, Failed and, for `OnHold`, InProgress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Ready,
    Reconciling,
    Stalled,
    /// Suspended or a dry run.
    OnHold,
}

impl Summary {
    /// Returns the summary of a resource with `rows` at `now`. `blocked_since` is its recorded
    /// time; see [`blocked_since`]. `position` is its position in the wait queue; `None` if it is
    /// not queued.
    #[must_use]
    pub fn of(
        rows: &[RevisionStatus],
        blocked_since: Option<Timestamp>,
        position: Option<QueuePosition>,
        now: Timestamp,
    ) -> Self {
        let is_in_grace = blocked_since.is_some_and(|since| now.duration_since(since) < GRACE);
        let class = move |reason: Reason| match reason.class() {
            ReasonClass::Rejected if is_in_grace && reason.has_grace() => ReasonClass::Progressing,
            class => class,
        };
        let of_class = |wanted: ReasonClass| rows.iter().filter(move |row| class(row.reason) == wanted);
        let number = |wanted: ReasonClass| of_class(wanted).count();
        let (retired, progressing) = (number(ReasonClass::Retired), number(ReasonClass::Progressing));
        let (on_hold, rejected) = (number(ReasonClass::OnHold), number(ReasonClass::Rejected));
        let (state, why) = if progressing > 0 {
            // Prefer a blocking reason over Pending.
            let blocking = of_class(ReasonClass::Progressing).find(|row| row.reason != Reason::Pending);
            (State::Reconciling, blocking.or_else(|| of_class(ReasonClass::Progressing).next()))
        } else if rejected > 0 {
            (State::Stalled, of_class(ReasonClass::Rejected).next())
        } else if on_hold > 0 {
            (State::OnHold, of_class(ReasonClass::OnHold).next())
        } else {
            (State::Ready, None)
        };
        let reason = why.map_or(Reason::Retired, |row| row.reason);
        let mut message = format!("{retired} of {} revisions retired", rows.len());
        for (number, word) in [(progressing + on_hold, "waiting"), (rejected, "rejected")] {
            if number > 0 {
                let _ = write!(message, ", {number} {word}");
            }
        }
        if let Some((row, text)) = why.and_then(|row| Some((row, explanation(row)?))) {
            let _ = write!(message, ": {}: {text}", row.revision);
            match rows.iter().filter(|other| other.reason == row.reason).count() {
                0 | 1 => {}
                same => drop(write!(message, " (and {} more)", same - 1)),
            }
        }
        if let Some(position) = position
            && why.is_some_and(|row| row.reason == Reason::Pending)
        {
            let _ = write!(message, ": {}", queued(position, progressing, now));
        }
        Self {
            declared: rows.len(),
            retired,
            waiting: progressing + on_hold,
            rejected,
            state,
            reason: reason.as_str().to_owned(),
            message,
        }
    }

    /// Returns the summary of a resource whose spec is invalid. Recorded retirements still count.
    #[must_use]
    pub fn invalid(error: &InvalidSpec, declared: usize, recorded: &[RevisionStatus]) -> Self {
        let is_retired = |row: &&RevisionStatus| row.reason.is_retired();
        let retired = recorded.iter().filter(is_retired).count().min(declared);
        Self {
            declared,
            retired,
            waiting: 0,
            rejected: declared - retired,
            state: State::Stalled,
            reason: INVALID_SPEC.to_owned(),
            message: error.to_string(),
        }
    }

    /// Returns the summary of a resource that does not parse. `error` names the field.
    #[must_use]
    pub fn unreadable(error: &dyn std::fmt::Display) -> Self {
        Self {
            declared: 0,
            retired: 0,
            waiting: 0,
            rejected: 0,
            state: State::Stalled,
            reason: INVALID_SPEC.to_owned(),
            message: format!("the resource cannot be read: {error}"),
        }
    }

    /// Returns the conditions: Ready always, and either Reconciling or Stalled only while it is
    /// true.
    #[must_use]
    pub fn conditions(
        &self,
        recorded: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Vec<Condition> {
        let recorded = Recorded { conditions: recorded, generation, now };
        let condition = |type_, is_true| recorded.condition(type_, is_true, &self.reason, &self.message);
        let mut conditions = vec![condition(READY, self.state == State::Ready)];
        match self.state {
            State::Reconciling => conditions.push(condition(RECONCILING, true)),
            State::Stalled => conditions.push(condition(STALLED, true)),
            State::Ready | State::OnHold => {}
        }
        conditions
    }
}

/// Returns the message of a row with the first of its users, which the message itself does not
/// name. Returns `None` if the row has no message.
#[must_use]
pub fn explanation(row: &RevisionStatus) -> Option<String> {
    let message = row.message.clone()?;
    Some(match row.used_by.as_slice() {
        [] => message,
        [user] => format!("{message}: {user}"),
        [user, ..] => format!("{message}: {user}, ..."),
    })
}

/// Returns the position in the wait queue and the estimated completion if no other resource is
/// queued meanwhile. The estimate is rounded up to five minutes to limit status writes.
fn queued(position: QueuePosition, pending: usize, now: Timestamp) -> String {
    let QueuePosition { ahead, waiting, per_second } = position;
    let permits = ahead + 1 + (pending.saturating_sub(1)).saturating_mul(waiting);
    let seconds = as_float(permits) / per_second;
    let done = SignedDuration::try_from_secs_f64(seconds).ok().and_then(|wait| now.checked_add(wait).ok());
    let by = done.and_then(|done| {
        let minutes = 5 * (done.as_second() / 300 + 1);
        Timestamp::from_second(minutes * 60).ok()
    });
    let by = by.map_or("unknown".to_owned(), |by| by.strftime("%Y-%m-%d %H:%M UTC").to_string());
    format!("queued for deregistration at position {} of {waiting}; estimated completion {by}", ahead + 1)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(revision: &str, reason: Reason, message: Option<&str>) -> RevisionStatus {
        RevisionStatus {
            revision: revision.to_owned(),
            reason,
            message: message.map(str::to_owned),
            ..RevisionStatus::default()
        }
    }

    /// Returns the conditions as type and status, the reason, and the message.
    fn report(rows: &[RevisionStatus]) -> (Vec<String>, String, String) {
        let conditions = Summary::of(rows, None, None, Timestamp::UNIX_EPOCH).conditions(
            &[],
            Some(1),
            Timestamp::UNIX_EPOCH,
        );
        let types = conditions.iter().map(|it| format!("{}={}", it.type_, it.status)).collect();
        (types, conditions[0].reason.clone(), conditions[0].message.clone())
    }

    #[test]
    fn blocking_reason_takes_precedence_over_pending() {
        let rows = [
            row("api:1", Reason::Retired, None),
            row("api:2", Reason::Pending, None),
            row("api:3", Reason::Throttled, Some("Rate exceeded")),
            row("api:4", Reason::NotFound, Some("none")),
        ];
        let (types, reason, message) = report(&rows);
        assert_eq!(types, ["Ready=False", "Reconciling=True"]);
        assert_eq!(reason, "Throttled");
        assert_eq!(message, "1 of 4 revisions retired, 2 waiting, 1 rejected: api:3: Rate exceeded");
    }

    #[test]
    fn resource_is_stalled_if_only_rejected_rows_and_rows_on_hold_are_left() {
        let rows = [
            row("api:1", Reason::Retired, None),
            row("api:2", Reason::NotFound, Some("none")),
            row("api:3", Reason::Suspended, Some("suspended")),
            row("api:4", Reason::NotFound, Some("none")),
        ];
        let (types, reason, message) = report(&rows);
        assert_eq!(types, ["Ready=False", "Stalled=True"]);
        assert_eq!(reason, "NotFound");
        assert_eq!(message, "1 of 4 revisions retired, 1 waiting, 2 rejected: api:2: none (and 1 more)");
    }

    #[test]
    fn resource_on_hold_is_neither_reconciling_nor_stalled() {
        let (types, reason, message) = report(&[row("api:1", Reason::DryRun, Some("would be"))]);
        assert_eq!(types, ["Ready=False"]);
        assert_eq!(reason, "DryRun");
        assert_eq!(message, "0 of 1 revisions retired, 1 waiting: api:1: would be");
    }

    #[test]
    fn last_transition_time_changes_only_with_the_status_of_the_condition() {
        let later = Timestamp::from_second(60).expect("a time");
        let pending = Summary::of(&[row("api:1", Reason::Pending, None)], None, None, Timestamp::UNIX_EPOCH);
        let denied =
            Summary::of(&[row("api:1", Reason::AccessDenied, Some("no"))], None, None, Timestamp::UNIX_EPOCH);
        let first = pending.conditions(&[], Some(1), Timestamp::UNIX_EPOCH);
        assert_eq!(pending.conditions(&first, Some(1), later), first);
        let second = denied.conditions(&first, Some(2), later);
        let times: Vec<i64> = second.iter().map(|it| it.last_transition_time.0.as_second()).collect();
        assert_eq!(times, [0, 60], "Ready was False already, Stalled is new");
    }

    #[test]
    fn queued_resource_reports_its_position_and_estimated_completion() {
        let rows = [row("api:1", Reason::Pending, None), row("api:2", Reason::Pending, None)];
        let message = |seconds: i64| {
            let position = QueuePosition { ahead: 29, waiting: 40, per_second: 0.5 };
            let now = Timestamp::from_second(seconds).expect("a time");
            Summary::of(&rows, None, Some(position), now).message
        };
        let expected = "0 of 2 revisions retired, 2 waiting: queued for deregistration at position 30 of 40; estimated completion 1970-01-01 00:05 UTC";
        assert_eq!(message(0), expected);
        assert_eq!(message(100), expected, "the estimate is rounded");
        // Its second permit comes after the first of each other resource, 30 + 40 permits from now.
        assert!(message(159).ends_with("00:05 UTC") && message(160).ends_with("00:10 UTC"));

        let (position, now) =
            (QueuePosition { ahead: 29, waiting: 40, per_second: 0.5 }, Timestamp::UNIX_EPOCH);
        let throttled = [row("api:1", Reason::Throttled, None), row("api:2", Reason::Pending, None)];
        let blocked = Summary::of(&throttled, None, Some(position), now).message;
        assert_eq!(blocked, "0 of 2 revisions retired, 2 waiting", "the blocking reason is not the queue");
        let without_rate = QueuePosition { per_second: 0.0, ..position };
        assert!(
            Summary::of(&rows, None, Some(without_rate), now)
                .message
                .ends_with("estimated completion unknown")
        );
    }

    #[test]
    fn retirements_still_count_if_the_spec_becomes_invalid() {
        let rows = [
            row("api:1", Reason::Retired, None),
            row("api:2", Reason::Pending, None),
            row("api:3", Reason::Deleted, None),
        ];
        let summary = Summary::invalid(&InvalidSpec::TooMany(501), 501, &rows);
        assert_eq!((summary.retired, summary.waiting, summary.rejected), (2, 0, 499));
        let summary = Summary::invalid(&InvalidSpec::Empty, 0, &rows);
        assert_eq!((summary.declared, summary.retired, summary.rejected), (0, 0, 0));
    }

    #[test]
    fn unreadable_resource_reports_the_field() {
        let conditions = Summary::unreadable(&"spec.revisions[1]: invalid type").conditions(
            &[],
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(conditions[1].type_, STALLED);
        assert_eq!(conditions[0].message, "the resource cannot be read: spec.revisions[1]: invalid type");
    }

    #[test]
    fn denied_resource_is_stalled_after_two_minutes() {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let types = |reason, since: Option<i64>, now| {
            let rows = [row("api:1", reason, Some("no"))];
            let summary = Summary::of(&rows, since.map(at), None, at(now));
            let conditions = summary.conditions(&[], Some(1), at(now));
            (conditions[1].type_.clone(), summary.waiting, summary.rejected)
        };
        for reason in [Reason::AccessDenied, Reason::AccountNotFound, Reason::AccountNotReady] {
            assert_eq!(types(reason, Some(0), 119), ("Reconciling".to_owned(), 1, 0));
            assert_eq!(types(reason, Some(0), 120), ("Stalled".to_owned(), 0, 1));
        }
        for reason in [Reason::NotAllowed, Reason::Refused, Reason::WrongAccount] {
            assert_eq!(types(reason, Some(0), 0), ("Stalled".to_owned(), 0, 1));
            assert_eq!(blocked_since(&[row("api:1", reason, None)], None, at(5)), None);
        }
        let rows = [row("api:1", Reason::AccessDenied, None)];
        assert_eq!(blocked_since(&rows, None, at(5)), Some(at(5)));
        assert_eq!(blocked_since(&rows, Some(&Time(at(3))), at(5)), Some(at(3)));
    }
}
