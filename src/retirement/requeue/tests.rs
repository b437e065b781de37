//! Tests of the scheduling of reconciles.

use std::collections::BTreeSet;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::SignedDuration,
};
use proptest::prelude::*;

use super::*;
use crate::{
    api::TaskDefinitionRetirementSpec,
    retirement::{
        account_guard::AccountGuard,
        resolve,
        summary::Summary,
        validate::{InvalidSpec, validate},
    },
};

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
    let conditions = Summary::of(&revisions, None, None, since).conditions(&[], Some(1), since);
    TaskDefinitionRetirementStatus { conditions, revisions, ..Default::default() }
}

fn delay(seconds: i64, reasons: &[Reason], progress: Progress) -> Option<Duration> {
    let none = BTreeMap::new();
    requeue_delay(&refused_for(seconds, reasons), &none, progress, None, "uid", NOW)
}

#[test]
fn backoff_after_a_refusal_is_as_long_as_it_has_lasted_from_5_s_to_10_min() {
    let about = |seconds: u64, delay: Option<Duration>| {
        let delay = delay.expect("a requeue delay");
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
fn refused_rows_wait_for_a_change_of_their_account() {
    for progress in [Progress::Made, Progress::Locked, Progress::Denied] {
        assert_eq!(delay(0, &[Reason::NotAllowed, Reason::Retired], progress), Some(LONGEST_DELAY));
    }
    assert_eq!(delay(0, &[Reason::NotAllowed, Reason::Pending], Progress::Made), Some(Duration::ZERO));
}

#[test]
fn final_rows_are_not_requeued() {
    let finals = [
        Reason::Retired,
        Reason::Deleting,
        Reason::Deleted,
        Reason::NotFound,
        Reason::Suspended,
        Reason::DryRun,
    ];
    assert_eq!(delay(0, &finals, Progress::Made), None);
}

#[test]
fn pending_rows_are_requeued_immediately_except_in_an_outage() {
    let reasons = [Reason::Retired, Reason::Pending, Reason::AccessDenied];
    assert_eq!(delay(60, &reasons, Progress::Made), Some(Duration::ZERO));
    assert_eq!(delay(60, &reasons, Progress::Locked), Some(LOCKED_DELAY));
    assert!(delay(60, &reasons, Progress::Outage) >= Some(OUTAGE_DELAY));
}

#[test]
fn row_that_waits_for_usage_to_end_is_requeued_when_its_cool_down_ends() {
    let now = delay(0, &[Reason::InUse], Progress::Made);
    assert_eq!(now, Some(Duration::ZERO), "it is unused, and not part of this batch");
    let delay = |reason, left: Option<u64>| {
        let watched = BTreeMap::from([(RevisionKey::new("api:1"), left.map(Duration::from_secs))]);
        requeue_delay(&refused_for(0, &[reason]), &watched, Progress::Made, None, "uid", NOW)
    };
    for (left, expected) in [(60, 60), (0, 1), (3_600, 600)] {
        assert_eq!(delay(Reason::CoolingDown, Some(left)), Some(Duration::from_secs(expected)));
    }
    for reason in [Reason::InUse, Reason::AccessDenied] {
        assert_eq!(delay(reason, None), Some(MISSED_SCAN_RESULT));
    }
}

#[test]
fn resource_that_waits_for_a_permit_or_a_scan_is_requeued_even_if_it_is_not_woken() {
    let mut status = refused_for(0, &[Reason::Pending]);
    let position = QueuePosition { ahead: 9_999, waiting: 10_000, per_second: 0.5 };
    let delay = |status: &TaskDefinitionRetirementStatus, progress| {
        requeue_delay(status, &BTreeMap::new(), progress, Some(position), "uid", NOW)
    };
    assert_eq!(delay(&status, Progress::Verifying), Some(MISSED_SCAN));
    assert_eq!(delay(&status, Progress::Queued), Some(Duration::from_secs(20_000) + MISSED_WAKEUP));
    status.revisions[0].unused_since = Some(Time(NOW));
    assert_eq!(
        delay(&status, Progress::Queued),
        Some(MISSED_SCAN_RESULT),
        "its cool-down continues to count"
    );
}

#[test]
fn retries_of_resources_that_were_refused_together_have_jitter() {
    let delays: std::collections::BTreeSet<Duration> =
        (0..100).map(|uid| jitter(LONGEST_DELAY, &format!("uid-{uid}"))).collect();
    assert!(delays.len() > 50);
    let longest = LONGEST_DELAY * 6 / 5;
    assert!(delays.iter().all(|delay| (LONGEST_DELAY..longest).contains(delay)));
    assert!(delays.iter().any(|delay| *delay > LONGEST_DELAY * 11 / 10), "the jitter covers the whole fifth");
}

#[test]
fn failures_are_retried_after_a_delay_with_jitter() {
    for (delay, shortest) in
        [(after_outage("uid"), OUTAGE_DELAY), (at_concurrency_limit("uid"), CONCURRENCY_LIMIT_DELAY)]
    {
        assert!((shortest..shortest * 6 / 5).contains(&delay), "{delay:?} for {shortest:?}");
    }
}

#[test]
fn queued_resource_is_requeued_in_case_its_wake_up_is_missed() {
    let none = BTreeMap::new();
    let status = refused_for(0, &[Reason::Pending]);
    let delay = |progress, position| requeue_delay(&status, &none, progress, position, "uid", NOW);
    assert_eq!(delay(Progress::Scanning, None), Some(MISSED_SCAN_RESULT));
    assert_eq!(delay(Progress::Queued, None), Some(MISSED_WAKEUP));
    let position = QueuePosition { ahead: 9, waiting: 20, per_second: 0.5 };
    assert_eq!(delay(Progress::Queued, Some(position)), Some(Duration::from_secs(20) + MISSED_WAKEUP));
    let without_rate = QueuePosition { per_second: 0.0, ..position };
    assert_eq!(delay(Progress::Queued, Some(without_rate)), Some(LONGEST_DELAY + MISSED_WAKEUP));
}

#[test]
fn backoff_after_a_refusal_counts_from_stalled_and_not_from_the_creation() {
    let mut status = refused_for(40, &[Reason::Refused]);
    status.conditions[0].last_transition_time = Time(NOW - SignedDuration::from_hours(9));
    let none = BTreeMap::new();
    let delay = requeue_delay(&status, &none, Progress::Made, None, "uid", NOW).expect("a requeue delay");
    assert!((Duration::from_secs(40)..Duration::from_secs(48)).contains(&delay), "{delay:?}");
}

fn declared(count: usize) -> Vec<Entry> {
    let identity = crate::aws::identity::Identity {
        partition: "aws".to_owned(),
        account: "012345678910".to_owned(),
        region: "us-west-2".to_owned(),
    };
    let revisions = (1..=count).map(|number| format!("api:{number}")).collect();
    let spec = TaskDefinitionRetirementSpec { revisions, ..Default::default() };
    let allowed = BTreeSet::new();
    let guard = AccountGuard { declared: None, recorded: None, account: None, allowed: &allowed };
    resolve::entries(&validate(&spec).expect("a valid spec"), Some(&identity), &guard, None, None, |_| None)
}

#[test]
fn refused_entries_do_not_delay_other_entries() {
    let mut reasons = vec![Reason::Refused; BATCH_SIZE + 5];
    reasons.extend([Reason::Unavailable, Reason::Retired, Reason::Pending]);
    let mut rows = rows(&reasons);
    rows[BATCH_SIZE + 6].awaits = Some(crate::api::Awaits::Description);
    let entries = declared(reasons.len());
    let mut selected = BTreeSet::new();
    for round in 0..100 {
        let batch = select_batch(entries.iter(), &rows, Timestamp::from_second(round * 600).expect("a time"));
        let batch: Vec<String> = batch.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(batch[..2], ["api:18", "api:17"]);
        assert_eq!(batch.len(), BATCH_SIZE);
        selected.extend(batch);
    }
    assert_eq!(selected.len(), reasons.len(), "each entry is selected at some time");
}

#[test]
fn deleted_resource_is_not_due() {
    let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
    assert!(work_is_due(&resource));
    resource.metadata.deletion_timestamp = Some(Time(NOW));
    assert!(!work_is_due(&resource));
}

proptest! {
    #[test]
    fn resource_is_due_if_a_row_is_pending_or_a_user_has_changed_or_requested_it(
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
fn invalid_resource_is_due_after_a_restart() {
    let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
    let invalid = Summary::invalid(&InvalidSpec::NoRegion, 1, &[]);
    let conditions: Vec<Condition> = invalid.conditions(&[], None, NOW);
    resource.status = Some(TaskDefinitionRetirementStatus { conditions, ..Default::default() });
    assert!(work_is_due(&resource));
}

#[test]
fn wrong_account_is_due_until_the_account_of_the_resource_is_known() {
    let arn = "arn:aws:ecs:us-west-2:999999999999:task-definition/api:1";
    let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
    let mut status = refused_for(0, &[Reason::WrongAccount]);
    status.revisions[0].revision = arn.to_owned();
    resource.status = Some(status.clone());
    assert!(work_is_due(&resource), "the credentials may be replaced by those of an allowed account");
    status.account = Some("012345678910".to_owned());
    resource.status = Some(status);
    assert!(!work_is_due(&resource), "the ARN permanently belongs to another account");
}
