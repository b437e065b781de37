//! Kubernetes events for changes of the status: transitions that users wait for or must know about.
//! No I/O.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::{
    api::{Reason, ReasonClass, RevisionStatus, TaskDefinitionRetirementStatus},
    controller::status_patch::EventNote,
    retirement::summary::{INVALID_SPEC, explanation},
};

/// The longest note that the API server accepts, in bytes.
/// Source: `NoteLengthLimit` in Kubernetes' `pkg/apis/core/validation/events.go`.
const NOTE_LENGTH: usize = 1024;

/// Number of revisions that a note names.
const NAMED: usize = 5;

/// Time for which the same usage event of the same revision is not repeated.
const REPEATED_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Usage events that were published recently. Limits the events of a revision that is used from
/// time to time.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<(String, String, Reason), Timestamp>>);

impl Recent {
    /// Returns true if an event for the row would repeat a recent one. Otherwise records it as
    /// published.
    pub fn repeats(&self, uid: &str, row: &RevisionStatus, now: Timestamp) -> bool {
        if !matches!(row.reason, Reason::InUse | Reason::CoolingDown | Reason::Kept) {
            return false;
        }
        let mut published = self.0.lock();
        published.retain(|_, at| now.duration_since(*at).abs() < REPEATED_AFTER);
        match published.entry((uid.to_owned(), row.revision.clone(), row.reason)) {
            Entry::Occupied(_) => true,
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                false
            }
        }
    }
}

/// Returns the events for the change from one status to another, at most one for each reason.
/// Waiting and retries cause no event.
#[must_use]
pub fn event_notes(
    before: &TaskDefinitionRetirementStatus,
    after: &TaskDefinitionRetirementStatus,
    is_repeated: impl Fn(&RevisionStatus) -> bool,
) -> Vec<EventNote> {
    let mut changed: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for row in transitions(before, after).filter(|row| row.reason.emits_event() && !is_repeated(row)) {
        changed.entry(row.reason).or_default().push(text(row));
    }
    let rows = changed.into_iter().map(|(reason, texts)| EventNote {
        is_warning: reason.class() == ReasonClass::Rejected,
        reason: reason.as_str().to_owned(),
        note: note(&texts),
    });
    rows.chain(invalid(before, after)).collect()
}

/// Returns the text of a note about one revision.
fn text(row: &RevisionStatus) -> String {
    let RevisionStatus { revision, request_id, .. } = row;
    match (row.reason.class(), explanation(row), request_id) {
        (ReasonClass::Retired, _, Some(request_id)) => format!("{revision} (AWS request id {request_id})"),
        (ReasonClass::Retired, ..) | (_, None, _) => revision.clone(),
        (_, Some(message), _) => format!("{revision}: {message}"),
    }
}

/// Returns the rows whose reason has changed.
pub fn transitions<'a>(
    before: &TaskDefinitionRetirementStatus,
    after: &'a TaskDefinitionRetirementStatus,
) -> impl Iterator<Item = &'a RevisionStatus> {
    let reasons = before.revisions.iter().map(|row| (row.revision.clone(), row.reason));
    let recorded: BTreeMap<String, Reason> = reasons.collect();
    after.revisions.iter().filter(move |row| recorded.get(&row.revision) != Some(&row.reason))
}

fn invalid(
    before: &TaskDefinitionRetirementStatus,
    after: &TaskDefinitionRetirementStatus,
) -> Option<EventNote> {
    let message = |status: &TaskDefinitionRetirementStatus| {
        let invalid = status.conditions.iter().find(|it| it.reason == INVALID_SPEC)?;
        Some(invalid.message.clone())
    };
    let note = message(after).filter(|text| message(before).as_ref() != Some(text))?;
    Some(EventNote { is_warning: true, reason: INVALID_SPEC.to_owned(), note: cut(note) })
}

fn note(texts: &[String]) -> String {
    let named = texts.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    match texts.len().saturating_sub(NAMED) {
        0 => cut(named),
        more => cut(format!("{} revisions, {more} more than named here: {named}", texts.len())),
    }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_LENGTH {
        let end = (0..=NOTE_LENGTH - 3).rev().find(|&end| note.is_char_boundary(end)).unwrap_or_default();
        note.truncate(end);
        note.push_str("...");
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retirement::{summary::Summary, validate::InvalidSpec};

    fn event_notes(
        before: &TaskDefinitionRetirementStatus,
        after: &TaskDefinitionRetirementStatus,
    ) -> Vec<EventNote> {
        super::event_notes(before, after, |_| false)
    }

    #[test]
    fn usage_events_of_a_revision_are_not_repeated_within_an_hour() {
        let recent = Recent::default();
        let statuses = [Reason::InUse, Reason::CoolingDown, Reason::Refused, Reason::Kept]
            .map(|reason| status(&[("api:1", reason, ""), ("api:2", Reason::Pending, "")]));
        let published = |uid: &str, minutes: i64, reason: usize| {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
            super::event_notes(&status(&[]), &statuses[reason], |row| recent.repeats(uid, row, now)).len()
        };
        assert_eq!([published("uid", 0, 0), published("uid", 5, 1)], [1, 1]);
        assert_eq!([published("uid", 10, 0), published("uid", 59, 0), published("uid", 59, 1)], [0, 0, 0]);
        assert_eq!([published("uid", 60, 0), published("uid", 65, 1)], [1, 1], "an hour later");
        assert_eq!(
            [published("uid", 66, 2), published("uid", 66, 2)],
            [1, 1],
            "other reasons are always repeated"
        );
        assert_eq!([published("uid", 66, 3), published("uid", 67, 3)], [1, 0]);
        assert_eq!(published("other", 66, 0), 1);
        let row = RevisionStatus {
            revision: "api:3".to_owned(),
            reason: Reason::InUse,
            ..RevisionStatus::default()
        };
        assert!(!recent.repeats("uid", &row, Timestamp::UNIX_EPOCH + SignedDuration::from_mins(66)));
    }

    fn status(rows: &[(&str, Reason, &str)]) -> TaskDefinitionRetirementStatus {
        let rows = rows.iter().map(|(revision, reason, message)| RevisionStatus {
            revision: (*revision).to_owned(),
            reason: *reason,
            message: Some((*message).to_owned()).filter(|message| !message.is_empty()),
            ..RevisionStatus::default()
        });
        TaskDefinitionRetirementStatus { revisions: rows.collect(), ..Default::default() }
    }

    #[test]
    fn revisions_with_the_same_new_reason_share_one_event() {
        let before = status(&[("api:1", Reason::Pending, ""), ("api:2", Reason::Retired, "")]);
        let after = status(&[
            ("api:1", Reason::Retired, ""),
            ("api:2", Reason::Retired, ""),
            ("api:3", Reason::Retired, ""),
            ("api:4", Reason::NotFound, "gone"),
        ]);
        let expected = [(false, "Retired", "api:1; api:3"), (true, "NotFound", "api:4: gone")];
        let event_notes = event_notes(&before, &after);
        let published: Vec<_> =
            event_notes.iter().map(|it| (it.is_warning, it.reason.as_str(), it.note.as_str())).collect();
        assert_eq!(published, expected);
    }

    #[test]
    fn note_of_a_retirement_contains_the_request_id_of_aws() {
        let mut after = status(&[("api:1", Reason::Retired, "waiting for its time")]);
        after.revisions[0].request_id = Some("f00".to_owned());
        assert_eq!(event_notes(&status(&[]), &after)[0].note, "api:1 (AWS request id f00)");
        let dry_run = status(&[("api:1", Reason::DryRun, "")]);
        assert_eq!(event_notes(&status(&[]), &dry_run)[0].note, "api:1");
    }

    #[test]
    fn waiting_and_retries_cause_no_event() {
        let before = status(&[("api:1", Reason::Pending, ""), ("api:2", Reason::Pending, "")]);
        let after = status(&[("api:1", Reason::Throttled, "slow"), ("api:2", Reason::Unavailable, "down")]);
        assert_eq!(event_notes(&before, &after), []);
        assert_eq!(event_notes(&after, &before), []);
        assert_eq!(event_notes(&after, &after), []);
    }

    #[test]
    fn invalid_spec_causes_one_event() {
        let invalid = |error: &InvalidSpec| TaskDefinitionRetirementStatus {
            conditions: Summary::invalid(error, 0, &[]).conditions(&[], None, Timestamp::UNIX_EPOCH),
            ..Default::default()
        };
        let (empty, none) = (invalid(&InvalidSpec::Empty), status(&[]));
        assert_eq!(event_notes(&none, &empty).len(), 1);
        assert!(event_notes(&none, &empty)[0].is_warning);
        assert_eq!(event_notes(&empty, &empty), []);
        assert_eq!(event_notes(&empty, &invalid(&InvalidSpec::NoRegion)).len(), 1);
        let conditions =
            Summary::of(&[], None, None, Timestamp::UNIX_EPOCH).conditions(&[], None, Timestamp::UNIX_EPOCH);
        let valid = TaskDefinitionRetirementStatus { conditions, ..Default::default() };
        assert_eq!(event_notes(&empty, &valid), []);
    }

    #[test]
    fn note_is_at_most_as_long_as_the_api_server_accepts() {
        let long = "ü".repeat(700);
        let rows: Vec<_> = ["a:1", "a:2", "a:3", "a:4", "a:5", "a:6", "a:7"]
            .into_iter()
            .map(|revision| (revision, Reason::Refused, long.as_str()))
            .collect();
        let event_notes = event_notes(&status(&[]), &status(&rows));
        assert!((NOTE_LENGTH - 1..=NOTE_LENGTH).contains(&event_notes[0].note.len()));
        assert!(event_notes[0].note.starts_with("7 revisions, 2 more than named here: a:1: üü"));
        assert!(event_notes[0].note.ends_with("ü..."));
        let longest = "x".repeat(NOTE_LENGTH);
        assert_eq!(cut(longest.clone()), longest);
    }
}
