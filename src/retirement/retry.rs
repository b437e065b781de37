//! When a resource is looked at, which of its entries first, and when again. Pure.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::{
        Reason, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementSpec,
        TaskDefinitionRetirementStatus,
        conditions::{READY, RECONCILING, STALLED},
    },
    ecs::pacer::Place,
    retirement::{
        declaration::{Entry, Target},
        plan::quiet_until,
        row::{recorded_row, wants_a_look},
        status::Renewal,
        verdict::INVALID_SPEC,
    },
};

/// How many revisions a pass looks at, at the most: a large resource neither blocks a small one nor loses
/// more than this when it is cut short.
pub const SLICE: usize = 10;

const SHORTEST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_mins(10);

const PANIC_DELAY: Duration = Duration::from_mins(1);

/// While AWS as a whole does not answer: short, since only one call at a time finds out.
const OUTAGE_DELAY: Duration = Duration::from_secs(2);

/// How long after its turn a resource looks by itself.
const MISSED_CALL: Duration = Duration::from_secs(30);

/// How long after it ought to have been told who uses its revisions a resource looks by itself.
const MISSED_NEWS: Duration = Duration::from_mins(10);

/// While another resource is at work on the same revision.
const CLAIMED_DELAY: Duration = Duration::from_secs(1);

/// Whether there is anything to do for a resource, by what is recorded of it.
#[must_use]
pub fn work_is_due(resource: &TaskDefinitionRetirement) -> bool {
    if resource.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &resource.status else { return true };
    let invalid = || status.conditions.iter().any(|it| it.type_ == READY && it.reason == INVALID_SPEC);
    Renewal::of(resource, status).is_due()
        || status.conditions.is_empty()
        || status.revisions.iter().any(wants_a_look)
        || invalid()
}

/// The entries that a pass looks at: first those that are owed no more than a look, then those never tried,
/// and those that ECS refused last, so that none of them keeps another waiting. Among equals the oldest revision is first: if
/// anything turns out wrong on the way, the newest are still there.
#[must_use]
pub fn slice<'a>(entries: impl Iterator<Item = &'a Entry>, rows: &[RevisionStatus]) -> Vec<&'a Entry> {
    let mut due: Vec<((u8, i32), &Entry)> = entries
        .filter_map(|entry| {
            let Target::Here(arn) = &entry.target else { return None };
            let row = recorded_row(entry, rows)?;
            wants_a_look(row).then(|| ((turn(row.reason), arn.revision().number()), entry))
        })
        .collect();
    due.sort_by_key(|(order, _)| *order);
    due.into_iter().take(SLICE).map(|(_, entry)| entry).collect()
}

fn turn(reason: Reason) -> u8 {
    match reason {
        Reason::Retired | Reason::Deleting | Reason::Deleted => 0,
        Reason::Pending => 1,
        Reason::Throttled | Reason::Unavailable => 2,
        _ => 3,
    }
}

/// How a pass went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// It did what it had set out to do.
    Made,
    /// It stands in line for a turn, and is called.
    Queued,
    /// It is to be found out who uses its revisions, and it is called then.
    Scanning,
    /// Each entry it wanted was in another resource's hands.
    Claimed,
    /// ECS throttles the account, and so it stopped.
    Throttled,
    /// AWS does not answer, and so it stopped.
    Outage,
}

/// How long to leave a resource alone; `None` until it changes.
///
/// What ECS refuses is asked again after as long as it has been refused already, from 5 s to 10 min: an exponential backoff
/// that needs no memory but the conditions. `uid` spreads resources that were refused together.
#[must_use]
pub fn next_look(
    spec: &TaskDefinitionRetirementSpec,
    status: &TaskDefinitionRetirementStatus,
    watched: &BTreeSet<String>,
    progress: Progress,
    place: Option<Place>,
    uid: &str,
    now: Timestamp,
) -> Option<Duration> {
    let delay = |row: &RevisionStatus| match (row.reason, progress) {
        _ if watched.contains(&row.revision) => until_news(spec, row, now),
        (Reason::InUse | Reason::Quiet, _) => until_news(spec, row, now),
        (Reason::Pending, Progress::Scanning) => MISSED_NEWS,
        (Reason::Pending, Progress::Made) => Duration::ZERO,
        (Reason::Pending, Progress::Claimed) => CLAIMED_DELAY,
        (Reason::AccessDenied | Reason::Refused, _) => spread(backoff(status, now), uid),
        (_, Progress::Outage) => spread(OUTAGE_DELAY, uid),
        (Reason::Pending | Reason::Throttled | Reason::Unavailable, Progress::Queued) => unless_called(place),
        _ => spread(SHORTEST_DELAY, uid),
    };
    status.revisions.iter().filter(|row| wants_a_look(row)).map(delay).min()
}

/// One that waits for its revisions to fall out of use is told; it looks by itself only once they have been unused for long enough.
fn until_news(spec: &TaskDefinitionRetirementSpec, row: &RevisionStatus, now: Timestamp) -> Duration {
    let quiet = row.unused_since.as_ref().and_then(|since| quiet_until(spec, since.0));
    let left = quiet.and_then(|until| Duration::try_from(until.duration_since(now)).ok());
    left.map_or(MISSED_NEWS, |left| left.min(MISSED_NEWS))
}

/// One that stands in line is called; this is only for the case that the call is missed.
fn unless_called(place: Option<Place>) -> Duration {
    let turns =
        place.map(|place| f64::from(u32::try_from(place.ahead + 1).unwrap_or(u32::MAX)) / place.per_second);
    Duration::try_from_secs_f64(turns.unwrap_or_default()).unwrap_or(LONGEST_DELAY) + MISSED_CALL
}

/// How long to leave a resource alone while AWS does not answer in its region.
#[must_use]
pub fn after_outage(uid: &str) -> Duration {
    spread(OUTAGE_DELAY, uid)
}

/// How long to leave a resource alone that Kubernetes did not give or take.
#[must_use]
pub fn after_error(uid: &str) -> Duration {
    spread(SHORTEST_DELAY, uid)
}

/// How long to leave a resource alone whose pass panicked: a defect that mends itself only by a change.
#[must_use]
pub fn after_panic(uid: &str) -> Duration {
    spread(PANIC_DELAY, uid)
}

fn backoff(status: &TaskDefinitionRetirementStatus, now: Timestamp) -> Duration {
    let since = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let refused_for = since(STALLED)
        .or_else(|| since(RECONCILING))
        .and_then(|condition| Duration::try_from(now.duration_since(condition.last_transition_time.0)).ok())
        .unwrap_or_default();
    refused_for.clamp(SHORTEST_DELAY, LONGEST_DELAY)
}

/// Adds up to a fifth, always the same for one resource.
fn spread(delay: Duration, uid: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let fifth = u32::try_from(hasher.finish() % 200).unwrap_or_default();
    delay + delay * fifth / 1000
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{Condition, Time},
        jiff::SignedDuration,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::retirement::{declaration, verdict::Verdict};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn rows(reasons: &[Reason]) -> Vec<RevisionStatus> {
        let row = |(number, &reason): (usize, &Reason)| RevisionStatus {
            revision: format!("api:{}", number + 1),
            reason,
            ..RevisionStatus::default()
        };
        reasons.iter().enumerate().map(row).collect()
    }

    fn refused_for(seconds: i64, reasons: &[Reason]) -> TaskDefinitionRetirementStatus {
        let revisions = rows(reasons);
        let since = NOW - SignedDuration::from_secs(seconds);
        let conditions = Verdict::of(&revisions, None).conditions(&[], Some(1), since);
        TaskDefinitionRetirementStatus { conditions, revisions, ..Default::default() }
    }

    fn delay(seconds: i64, reasons: &[Reason], progress: Progress) -> Option<Duration> {
        let (spec, none) = (TaskDefinitionRetirementSpec::default(), BTreeSet::new());
        next_look(&spec, &refused_for(seconds, reasons), &none, progress, None, "uid", NOW)
    }

    #[test]
    fn a_refusal_is_asked_again_after_as_long_as_it_has_lasted_from_5_s_to_10_min() {
        let about = |seconds: u64, delay: Option<Duration>| {
            let delay = delay.expect("a refusal is asked again");
            let shortest = Duration::from_secs(seconds);
            assert!((shortest..=shortest * 6 / 5).contains(&delay), "{delay:?} for {shortest:?}");
        };
        about(5, delay(0, &[Reason::AccessDenied], Progress::Made));
        about(5, delay(-60, &[Reason::AccessDenied], Progress::Made));
        about(40, delay(40, &[Reason::Refused], Progress::Made));
        about(600, delay(86_400, &[Reason::Refused], Progress::Made));
        about(5, delay(86_400, &[Reason::Refused, Reason::Throttled], Progress::Made));
        about(2, delay(86_400, &[Reason::Refused, Reason::Unavailable], Progress::Outage));
    }

    #[test]
    fn what_is_settled_is_left_alone() {
        let settled = [
            Reason::Retired,
            Reason::Deleting,
            Reason::Deleted,
            Reason::NotFound,
            Reason::Suspended,
            Reason::DryRun,
        ];
        assert_eq!(delay(0, &settled, Progress::Made), None);
    }

    #[test]
    fn what_is_pending_goes_on_at_once_but_in_an_outage() {
        let reasons = [Reason::Retired, Reason::Pending, Reason::AccessDenied];
        assert_eq!(delay(60, &reasons, Progress::Made), Some(Duration::ZERO));
        assert_eq!(delay(60, &reasons, Progress::Claimed), Some(CLAIMED_DELAY));
        assert!(delay(60, &reasons, Progress::Outage) >= Some(OUTAGE_DELAY));
    }

    #[test]
    fn what_waits_for_the_end_of_use_is_told_and_looks_by_itself_when_its_quiet_time_is_over() {
        assert_eq!(delay(0, &[Reason::InUse], Progress::Made), Some(MISSED_NEWS));
        assert_eq!(delay(0, &[Reason::Pending], Progress::Scanning), Some(MISSED_NEWS));
        let spec = TaskDefinitionRetirementSpec { unused_for: Some("90s".to_owned()), ..Default::default() };
        let mut status = refused_for(0, &[Reason::Quiet]);
        status.revisions[0].unused_since = Some(Time(NOW - SignedDuration::from_secs(30)));
        let delay = |watched: &BTreeSet<String>, status: &TaskDefinitionRetirementStatus| {
            next_look(&spec, status, watched, Progress::Made, None, "uid", NOW)
        };
        assert_eq!(delay(&BTreeSet::new(), &status), Some(Duration::from_mins(1)));
        let denied = refused_for(0, &[Reason::AccessDenied]);
        assert_eq!(delay(&BTreeSet::from(["api:1".to_owned()]), &denied), Some(MISSED_NEWS));
    }

    #[test]
    fn resources_that_were_refused_together_do_not_ask_again_together() {
        let delays: std::collections::BTreeSet<Duration> =
            (0..100).map(|uid| spread(LONGEST_DELAY, &format!("uid-{uid}"))).collect();
        assert!(delays.len() > 50);
    }

    fn declared(count: usize) -> Vec<Entry> {
        let identity = crate::account::identity::Identity {
            partition: "aws".to_owned(),
            account: "012345678910".to_owned(),
            region: "us-west-2".to_owned(),
        };
        let revisions = (1..=count).map(|number| format!("api:{number}")).collect();
        let spec = TaskDefinitionRetirementSpec { revisions, ..Default::default() };
        declaration::entries(&spec, Some(&identity), None)
    }

    #[test]
    fn what_was_refused_keeps_nothing_else_waiting() {
        let mut reasons = vec![Reason::Refused; SLICE];
        reasons.extend([Reason::Unavailable, Reason::Pending, Reason::Retired]);
        let mut rows = rows(&reasons);
        rows[SLICE + 2].message = Some("a look is due".to_owned());
        let entries = declared(reasons.len());
        let slice: Vec<&str> =
            slice(entries.iter(), &rows).iter().map(|entry| entry.revision.as_str()).collect();
        assert_eq!(slice[..4], ["api:13", "api:12", "api:11", "api:1"]);
        assert_eq!(slice.len(), SLICE);
    }

    #[test]
    fn a_deleted_resource_is_no_work() {
        let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
        assert!(work_is_due(&resource));
        resource.metadata.deletion_timestamp = Some(Time(NOW));
        assert!(!work_is_due(&resource));
    }

    proptest! {
        #[test]
        fn a_resource_is_work_exactly_while_a_row_wants_a_look_or_a_person_has_asked(
            pending: bool, generation in 1i64..3, requested: bool,
        ) {
            let reason = if pending { Reason::Pending } else { Reason::Retired };
            let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
            resource.metadata.generation = Some(generation);
            if requested {
                let annotation = (crate::api::REQUESTED_AT.to_owned(), "now".to_owned());
                resource.metadata.annotations = Some([annotation].into());
            }
            let status = refused_for(0, &[reason]);
            prop_assert!(!status.conditions.is_empty());
            resource.status = Some(TaskDefinitionRetirementStatus { observed_generation: Some(1), ..status });
            prop_assert_eq!(work_is_due(&resource), pending || generation != 1 || requested);
        }
    }

    #[test]
    fn an_invalid_resource_is_judged_again_by_a_new_process() {
        let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
        let invalid = Verdict::invalid(&declaration::InvalidSpec::NoRegion, 1, &[]);
        let conditions: Vec<Condition> = invalid.conditions(&[], None, NOW);
        resource.status = Some(TaskDefinitionRetirementStatus { conditions, ..Default::default() });
        assert!(work_is_due(&resource));
    }
}
