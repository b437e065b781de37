//! Tests of the usage after consecutive scans.

use super::*;
use crate::{aws::response::FailureKind, task_definition::Reference};

fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("not an ARN") };
    arn
}

fn task(id: &str) -> User {
    User::Task { cluster: "prod".to_owned(), id: id.to_owned() }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("valid time")
}

/// Returns exact bounds. Rounded up, they are this second.
fn exactly(at: i64) -> Bounds {
    Bounds { earliest: second(at), latest: second(at - 1) }
}

/// Returns the usage after a scan that ends at the Unix epoch.
fn scan(duration: u64, found: Result<Found, Failure>, previous: Option<&Scan>) -> Scan {
    let began = Instant::now();
    Scan::new(began, (began + Duration::from_secs(duration), Some(exactly(0))), found, previous)
}

fn failed(previous: Option<&Scan>) -> Scan {
    let failure = Failure::new(FailureKind::AccessDenied, "no");
    scan(0, Err(failure), previous)
}

fn after(seconds: u64, scan: &Scan) -> Instant {
    scan.timing.began + Duration::from_secs(seconds)
}

/// Returns the reported usage of `web:3` at the time the scan began.
fn reported(scan: &Scan) -> Option<Use> {
    scan.of(&arn("web:3"), Purpose::Report, scan.timing.began)
}

fn used_at(at: i64, previous: Option<&Scan>) -> Scan {
    let mut found = Found::default();
    found.note(Some(&arn("web:3").to_string()), &task("a"));
    let now = Instant::now();
    Scan::new(now, (now, Some(exactly(at))), Ok(found), previous)
}

/// Returns the usage after a scan that finds a task of `web:3` that stopped at `stopped`.
fn stopped(at: i64, stopped: Option<i64>, previous: Option<&Scan>) -> Scan {
    let mut found = Found::default();
    found.note_stopped(Some(&arn("web:3").to_string()), stopped.map(second), &task("a"));
    let now = Instant::now();
    Scan::new(now, (now, Some(exactly(at))), Ok(found), previous)
}

fn unused(at: i64, previous: Option<&Scan>) -> Scan {
    let now = Instant::now();
    Scan::new(now, (now, Some(exactly(at))), Ok(Found::default()), previous)
}

fn last_use(scan: &Scan) -> Option<i64> {
    match reported(scan) {
        Some(Use::Unused { last_used, .. }) => last_used.map(Timestamp::as_second),
        other => panic!("{other:?}"),
    }
}

#[test]
fn last_use_is_the_end_of_the_last_stopped_task() {
    assert_eq!(last_use(&unused(1_000, None)), None);
    assert_eq!(last_use(&stopped(1_000, Some(900), None)), Some(901));
    assert_eq!(last_use(&stopped(1_000, None, None)), Some(1_000), "it may have stopped just now");
    let mut found = Found::default();
    for time in [Some(second(5)), None, Some(second(7))] {
        found.note_stopped(Some(&arn("web:3").to_string()), time, &task("a"));
    }
    let now = Instant::now();
    let several = Scan::new(now, (now, Some(exactly(1_000))), Ok(found), None);
    assert_eq!(last_use(&several), Some(1_000), "one of them may have stopped just now");
}

#[test]
fn last_use_is_never_later_than_the_latest_time_by_the_clock_of_aws() {
    assert_eq!(last_use(&stopped(1_000, Some(9_000), None)), Some(1_000));
    let mut found = Found::default();
    found.note_stopped(Some(&arn("web:3").to_string()), Some(second(9_000)), &task("a"));
    let now = Instant::now();
    let without_time = Scan::new(now, (now, None), Ok(found), None);
    assert_eq!(last_use(&without_time), Some(9_001));
    assert_eq!(last_use(&unused(1_055, Some(&without_time))), Some(1_055));
}

#[test]
fn last_use_is_kept_after_ecs_stops_returning_the_task() {
    let first = stopped(1_000, Some(900), None);
    let second = unused(5_000, Some(&first));
    assert_eq!(last_use(&second), Some(901));
    assert_eq!(last_use(&stopped(5_000, Some(4_000), Some(&first))), Some(4_001));

    let used = used_at(1_000, None);
    assert_eq!(last_use(&unused(1_055, Some(&used))), Some(1_000), "no stopped task");
    let failed = failed(Some(&used));
    assert_eq!(last_use(&unused(1_110, Some(&failed))), Some(1_000), "a failed scan keeps the last use");
}

#[test]
fn last_use_is_kept_for_two_hours_whatever_time_aws_reports() {
    let began = Instant::now();
    let minutes = |minutes| began + Duration::from_mins(minutes);
    let bounds = |earliest, latest| Some(Bounds { earliest: second(earliest), latest: second(latest) });
    let mut found = Found::default();
    found.note_stopped(Some(&arn("web:3").to_string()), Some(second(990)), &task("a"));
    // One response is three hours ahead.
    let stopped = Scan::new(began, (began, bounds(1_000, 11_800)), Ok(found), None);
    assert_eq!(last_use(&stopped), Some(991));
    assert_eq!(stopped.scanned_at(), Some(second(1_000)), "the gap to the next scan is not understated");
    let unused = |at: u64, previous: &Scan| {
        let at = minutes(at);
        Scan::new(at, (at, bounds(1_000, 90_000)), Ok(Found::default()), Some(previous))
    };
    let later = unused(119, &stopped);
    assert_eq!(last_use(&later), Some(991));
    assert_eq!(last_use(&unused(120, &later)), None);
}

#[test]
fn usage_has_no_time_if_the_time_of_the_scan_is_unknown() {
    let now = Instant::now();
    let scan = Scan::new(now, (now, None), Ok(Found::default()), None);
    assert_eq!(reported(&scan), Some(Use::Unused { at: None, last_used: None }));
    assert_eq!(scan.scanned_at(), None);
    assert_eq!(unused(10, None).scanned_at(), Some(second(10)));
    assert_eq!(failed(None).scanned_at(), None);
}

#[test]
fn median_duration_is_that_of_the_last_five_successful_scans() {
    let mut last = scan(60, Ok(Found::default()), None);
    for (duration, median) in [(1, 60), (1, 1), (9, 9), (9, 9), (1, 1), (1, 1)] {
        last = scan(duration, Ok(Found::default()), Some(&last));
        assert_eq!(last.timing.median, Duration::from_secs(median));
    }
    assert_eq!(failed(Some(&last)).timing.median, Duration::from_secs(1));
}

#[test]
fn users_are_counted_once_and_five_are_named() {
    let mut found = Found::default();
    let web = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
    for id in ["f", "e", "d", "c", "b", "a", "a"] {
        found.note(Some(&arn("web:3").to_string()), &task(id));
    }
    found.note(Some(&arn("web:3").to_string()), &web);
    let scan = scan(0, Ok(found), None);
    let Some(Use::InUse(users)) = reported(&scan) else { panic!("not in use") };
    let named: Vec<String> = users.named.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["service/prod/web", "task/prod/a", "task/prod/b", "task/prod/c", "task/prod/d"]);
    assert_eq!(users.more, 2);
    assert_eq!(
        scan.of(&arn("web:30"), Purpose::Report, after(0, &scan)),
        Some(Use::Unused { at: Some(second(0)), last_used: None })
    );
}

#[test]
fn usage_is_equivalent_regardless_of_the_time_of_the_report() {
    let unused = |at| Use::Unused { at: Some(second(at)), last_used: None };
    let used_by = |id: &str| Use::InUse(Users { named: vec![task(id)], more: 0 });
    assert!(unused(1).is_equivalent(&unused(2)));
    assert!(used_by("a").is_equivalent(&used_by("a")));
    assert!(!used_by("a").is_equivalent(&used_by("b")));
    assert!(!used_by("a").is_equivalent(&unused(1)));
    assert!(!unused(1).is_equivalent(&used_by("a")));
    let last_used = |at| Use::Unused { at: Some(second(9)), last_used: Some(second(at)) };
    assert!(last_used(1).is_equivalent(&last_used(1)));
    assert!(!last_used(1).is_equivalent(&last_used(2)) && !last_used(1).is_equivalent(&unused(9)));
    assert!(!unused(1).is_equivalent(&Use::Unused { at: None, last_used: None }));
}

#[test]
fn failed_scan_does_not_discard_a_fresh_result() {
    let first = scan(2, Ok(Found::default()), None);
    assert_eq!((first.age(after(30, &first)), first.retry()), (Duration::from_secs(30), None));
    let failure = || Failure::new(FailureKind::ServerFault, "a fault");
    let fails = |from, to, previous| {
        Scan::new(after(from, &first), (after(to, &first), None), Err(failure()), Some(previous))
    };
    let second = fails(53, 55, &first);
    assert_eq!(second.retry(), Some(after(60, &first)));
    let known = |scan: &Scan, purpose, seconds| scan.of(&arn("web:3"), purpose, after(seconds, &first));
    assert!(matches!(known(&second, Purpose::Report, 59), Some(Use::Unused { .. })));
    assert_eq!(known(&second, Purpose::Deregister, 59), None, "stale for a deregistration, but not unknown");
    let third = fails(60, 61, &second);
    assert_eq!(third.retry(), Some(after(71, &first)));
    for purpose in [Purpose::Report, Purpose::Deregister] {
        assert_eq!(known(&third, purpose, 61), Some(Use::Unknown(failure())));
        assert!(third.is_known(purpose, after(61, &first)));
    }
    let cool_down = Purpose::CoolDown { until: after(86_400, &first) };
    assert!(
        matches!(known(&third, cool_down, 61), Some(Use::Unused { .. })),
        "retried before the cool-down ends"
    );
    assert_eq!(known(&third, Purpose::Report, 121), None, "the failure is stale");
    assert!(!third.is_known(Purpose::Report, after(121, &first)));
}

#[test]
fn failed_scan_leaves_usage_unknown_and_is_retried_with_exponential_backoff() {
    let mut scan = failed(None);
    for wait in [5, 10, 20, 30, 30] {
        assert!(matches!(reported(&scan), Some(Use::Unknown(_))));
        assert_eq!(scan.retry(), Some(after(wait, &scan)));
        scan = failed(Some(&scan));
    }
    let scan = self::scan(0, Ok(Found::default()), Some(&scan));
    assert!(matches!(reported(&scan), Some(Use::Unused { .. })));
}
