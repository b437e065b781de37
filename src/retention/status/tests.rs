//! Tests of when runs are due, and of the conditions of a policy.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Returns a policy of generation 2 whose last run began at `started`.
fn policy(started: Option<i64>, completed: Option<i64>, observed: i64) -> TaskDefinitionRetentionPolicy {
    let mut policy = TaskDefinitionRetentionPolicy::default();
    policy.metadata.generation = Some(2);
    policy.status = Some(TaskDefinitionRetentionPolicyStatus {
        last_run_generation: Some(observed),
        last_run_time: started.map(|second| Time(at(second))),
        last_run_completion_time: completed.map(|second| Time(at(second))),
        ..Default::default()
    });
    policy
}

#[test]
fn run_is_due_at_first_by_its_interval_after_a_change_and_when_interrupted() {
    let due =
        |policy: &TaskDefinitionRetentionPolicy, now| due(policy, SignedDuration::from_hours(1), at(now));
    assert_eq!(due(&TaskDefinitionRetentionPolicy::default(), 0), Ok(Due::Scheduled));
    assert_eq!(due(&policy(Some(0), Some(9), 2), 3_599), Err(at(3_600)));
    assert_eq!(due(&policy(Some(0), Some(9), 2), 3_600), Ok(Due::Scheduled));
    assert_eq!(due(&policy(Some(0), Some(9), 1), 10), Ok(Due::Scheduled), "the spec has changed");
    assert_eq!(due(&policy(Some(0), Some(0), 1), 0), Err(at(1)), "another name is needed");
    assert_eq!(due(&policy(Some(5), None, 2), 6), Ok(Due::Resume(at(5))));
    assert_eq!(due(&policy(Some(9_000), Some(9_001), 2), 10), Ok(Due::Scheduled), "that clock was ahead");
}

#[test]
fn requested_run_is_due_at_most_once_a_minute() {
    let mut policy = policy(Some(0), Some(9), 2);
    policy.annotations_mut().insert(REQUESTED_AT.to_owned(), "now".to_owned());
    let due =
        |policy: &TaskDefinitionRetentionPolicy, now| due(policy, SignedDuration::from_hours(1), at(now));
    assert_eq!(due(&policy, 59), Err(at(60)));
    assert_eq!(due(&policy, 60), Ok(Due::Requested));
    if let Some(status) = &mut policy.status {
        status.last_handled_reconcile_at = Some("now".to_owned());
    }
    assert_eq!(due(&policy, 60), Err(at(3_600)), "it was handled");
}

#[test]
fn denied_policy_is_stalled_after_two_minutes_and_an_outage_never() {
    let types = |status: &TaskDefinitionRetentionPolicyStatus| {
        let conditions = status.conditions.iter().map(|it| format!("{}={}", it.type_, it.status));
        conditions.collect::<Vec<_>>().join(" ")
    };
    let after = |state, recorded: &TaskDefinitionRetentionPolicyStatus, now| {
        let summary = Summary::new(state, "Reason", "text");
        summarize(&TaskDefinitionRetentionPolicy::default(), recorded.clone(), &summary, None, at(now))
    };
    let first = after(State::Denied, &TaskDefinitionRetentionPolicyStatus::default(), 0);
    assert_eq!(types(&first), "Ready=False Reconciling=True");
    assert_eq!(types(&after(State::Denied, &first, 119)), "Ready=False Reconciling=True");
    let stalled = after(State::Denied, &first, 120);
    assert_eq!(types(&stalled), "Ready=False Stalled=True");
    assert_eq!(types(&after(State::Denied, &stalled, 500)), "Ready=False Stalled=True");
    assert_eq!(types(&after(State::Reconciling, &first, 9_000)), "Ready=False Reconciling=True");
    assert_eq!(types(&after(State::Ready, &stalled, 501)), "Ready=True");
}

#[test]
fn message_stays_while_aws_returns_the_same_error() {
    let policy = policy(None, None, 2);
    let after = |text: &str, recorded: &TaskDefinitionRetentionPolicyStatus| {
        let code = Some("AccessDeniedException".to_owned());
        let failure = Failure { code, ..Failure::new(FailureKind::AccessDenied, text) };
        summarize(&policy, recorded.clone(), &failed(&failure.during("ListTaskDefinitions")), None, at(0))
    };
    let first = after("encoded 1", &TaskDefinitionRetentionPolicyStatus::default());
    assert_eq!(first.conditions[0].message, "encoded 1");
    assert_eq!(after("encoded 2", &first), first);
    let succeeded = Summary::new(State::Ready, "Succeeded", "");
    assert_eq!(summarize(&policy, first, &succeeded, None, at(1)).error, None);
}

#[test]
fn overlapping_policies_are_named_until_a_run_finds_none() {
    let (policy, ready) =
        (TaskDefinitionRetentionPolicy::default(), Summary::new(State::Ready, "Succeeded", ""));
    let overlapping = |recorded, names: Option<&[String]>| summarize(&policy, recorded, &ready, names, at(0));
    let named = overlapping(TaskDefinitionRetentionPolicyStatus::default(), Some(&["b".to_owned()]));
    assert_eq!(named.conditions[1].type_, OVERLAPPING);
    assert!(named.conditions[1].message.ends_with(": b"));
    assert_eq!(overlapping(named.clone(), None).conditions.len(), 2, "kept between runs");
    assert_eq!(overlapping(named, Some(&[])).conditions.len(), 1);
}
