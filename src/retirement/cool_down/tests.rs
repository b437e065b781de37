//! Tests of cool-downs over hours, in paused tokio time.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::simulated_ecs::{
    Action::{DeregisterTaskDefinition, ListClusters},
    Service, Task,
};
use tokio::time::{Instant, sleep};

use super::*;
use crate::retirement::tests::{CREATE_EVENT, World};

fn time(minutes: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
}

fn scan(minutes: i64) -> UsageScan {
    UsageScan { time: Time(time(minutes)), uid: "uid".to_owned() }
}

fn rows(reason: Reason) -> Vec<RevisionStatus> {
    vec![RevisionStatus { reason, unused_since: Some(Time(time(0))), ..RevisionStatus::default() }]
}

/// Returns true if `unusedSince` still counts 100 minutes after the epoch.
fn resumes(last_usage_scan: Option<UsageScan>, uid: &str, reason: Reason) -> bool {
    let mut status = TaskDefinitionRetirementStatus {
        revisions: rows(reason),
        last_usage_scan,
        ..TaskDefinitionRetirementStatus::default()
    };
    resume(&mut status, uid, time(100));
    assert_eq!(
        status.last_usage_scan.is_some(),
        status.revisions[0].unused_since.is_some() && reason != Reason::DryRun
    );
    status.revisions[0].unused_since.is_some()
}

#[test]
fn cool_down_resumes_if_the_last_scan_of_the_resource_is_at_most_45_min_old() {
    assert!(resumes(Some(scan(55)), "uid", Reason::CoolingDown));
    assert!(!resumes(Some(scan(54)), "uid", Reason::CoolingDown), "46 min ago");
    assert!(!resumes(None, "uid", Reason::CoolingDown), "the status of an older version");
    assert!(!resumes(Some(scan(99)), "restored", Reason::Pending), "scanned for another resource");
    assert!(resumes(None, "uid", Reason::DryRun), "only displayed");
}

#[test]
fn scan_is_recorded_every_15_min_while_a_revision_is_cooling_down() {
    let recorded = |before, at| last_scan(before, &rows(Reason::CoolingDown), at, "uid");
    assert_eq!(recorded(None, Some(time(3))), Some(scan(3)));
    assert_eq!(recorded(Some(scan(3)), Some(time(17))), Some(scan(3)));
    assert_eq!(recorded(Some(scan(3)), Some(time(18))), Some(scan(18)));
    assert_eq!(recorded(Some(scan(3)), None), Some(scan(3)));
    assert_eq!(last_scan(Some(scan(3)), &rows(Reason::DryRun), Some(time(3)), "uid"), None);
    assert_eq!(last_scan(Some(scan(3)), &[RevisionStatus::default()], Some(time(3)), "uid"), None);
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;

/// Reconciles a resource whenever it is due or woken, for the given number of seconds.
async fn run(world: &World, name: &str, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let pause = world.reconcile(name).await.expect("a reconcile").unwrap_or(Duration::MAX);
        let due = Instant::now().checked_add(pause).map_or(end, |due| due.min(end));
        while Instant::now() < due && !world.woken().iter().any(|it| it == name) {
            sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn cooling(unused_for: &str) -> World {
    let world = World::with_full_buckets().await;
    world.west.cluster("prod");
    world.make("web", &["web:1"], json!({ "unusedFor": unused_for }));
    world
}

/// Returns `unusedSince` in seconds since the epoch, or -1 if it is not set.
fn unused_since(world: &World) -> i64 {
    world.row("web", "web:1").unused_since.map_or(-1, |since| since.0.as_second())
}

fn reason(world: &World) -> Reason {
    world.row("web", "web:1").reason
}

#[tokio::test(start_paused = true)]
async fn hourly_job_of_ten_seconds_restarts_a_cool_down_of_two_hours() {
    let world = cooling("2h").await;
    let cluster = world.west.cluster("prod");
    for hour in 0..8 {
        let job = format!("job-{hour}");
        cluster.put_task(Task::running(&job, "web:1"));
        run(&world, "web", 10).await;
        cluster.put_task(Task::stopped(&job, "web:1"));
        run(&world, "web", HOUR - 10).await;
        assert_eq!(world.count(DeregisterTaskDefinition), 0, "after {hour} hours");
    }
    let scans = world.count(ListClusters);
    assert!(scans < 8 * 6, "{scans} scans: about three an hour, and a few while the job is running");
    run(&world, "web", HOUR).await;
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
    run(&world, "web", 5 * MINUTE).await;
    assert_eq!(reason(&world), Reason::Retired, "two hours after the last job");
}

#[tokio::test(start_paused = true)]
async fn job_right_before_the_end_of_a_cool_down_restarts_it() {
    for shows_time in [true, false] {
        let world = cooling("20s").await;
        run(&world, "web", 15).await;
        let task = Task::stopped("job", "web:1");
        let task = if shows_time { task } else { task.without_stopped_at() };
        world.west.cluster("prod").put_task(task);
        run(&world, "web", 15).await;
        assert_eq!(
            (reason(&world), world.count(DeregisterTaskDefinition)),
            (Reason::CoolingDown, 0),
            "{shows_time}"
        );
        if shows_time {
            run(&world, "web", MINUTE).await;
            assert_eq!(reason(&world), Reason::Retired);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cool_down_resumes_after_a_short_downtime_and_restarts_after_a_long_one() {
    for (minutes, restarts) in [(20, false), (50, true)] {
        let world = cooling("2h").await;
        run(&world, "web", HOUR).await;
        let before = unused_since(&world);
        world.is_active.store(false, std::sync::atomic::Ordering::SeqCst);
        sleep(Duration::from_secs(minutes * MINUTE)).await;
        world.is_active.store(true, std::sync::atomic::Ordering::SeqCst);
        run(&world, "web", MINUTE).await;
        assert_eq!(unused_since(&world) > before, restarts, "{minutes} min");
        run(&world, "web", 70 * MINUTE).await;
        assert_eq!(reason(&world) == Reason::Retired, !restarts, "{minutes} min");
    }
}

#[tokio::test(start_paused = true)]
async fn cool_down_starts_after_a_dry_run() {
    let world = cooling("1h").await;
    let spec = |dry_run| json!({ "revisions": ["web:1"], "unusedFor": "1h", "dryRun": dry_run });
    world.edit("web", &spec(true));
    run(&world, "web", 70 * MINUTE).await;
    assert_eq!((reason(&world), world.status("web").last_usage_scan), (Reason::DryRun, None));
    world.edit("web", &spec(false));
    run(&world, "web", 59 * MINUTE).await;
    assert_eq!((reason(&world), world.count(DeregisterTaskDefinition)), (Reason::CoolingDown, 0));
    run(&world, "web", 3 * MINUTE).await;
    assert_eq!(reason(&world), Reason::Retired);
}

#[tokio::test(start_paused = true)]
async fn cool_down_does_not_start_before_the_resource_even_if_usage_was_scanned_before() {
    let world = cooling("2h").await;
    run(&world, "web", 2).await;
    for (name, is_dry_run_before) in [("dry", true), ("new", false)] {
        sleep(Duration::from_secs(10)).await;
        let spec = |dry_run: bool| json!({ "revisions": ["web:1"], "unusedFor": "8s", "dryRun": dry_run });
        if is_dry_run_before {
            world.make(name, &["web:1"], spec(true));
            run(&world, name, 10).await;
            world.edit(name, &spec(false));
        } else {
            world.make(name, &["web:1"], spec(false));
        }
        let began = Instant::now();
        while world.count(DeregisterTaskDefinition) == 0 {
            run(&world, name, 1).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(8), "{name}: {:?}", began.elapsed());
        world.ecs.clear_log();
        return_to_active(&world);
    }
}

#[tokio::test(start_paused = true)]
async fn cool_down_restarts_with_the_status_of_an_older_version_or_another_resource() {
    let world = cooling("10m").await;
    run(&world, "web", 5 * MINUTE).await;
    let mut object = world.object("web");
    for (name, change) in [("old", "lastUsageScan"), ("restored", "uid")] {
        object["metadata"] = json!({ "name": name });
        if change == "lastUsageScan" {
            let mut old = object.clone();
            old["status"]["lastUsageScan"] = Value::Null;
            world.put(&old);
        } else {
            world.put(&object);
        }
        run(&world, name, 6 * MINUTE).await;
        let row = world.row(name, "web:1");
        assert_eq!(row.reason, Reason::CoolingDown, "{name}");
        run(&world, name, 6 * MINUTE).await;
        assert_eq!(world.row(name, "web:1").reason, Reason::Retired, "{name}");
        return_to_active(&world);
    }
}

fn return_to_active(world: &World) {
    world.west.set_status("web:1", testkit::simulated_ecs::Status::Active);
}

#[tokio::test(start_paused = true)]
async fn task_every_five_minutes_causes_few_events_and_writes() {
    let world = cooling("24h").await;
    let cluster = world.west.cluster("prod");
    run(&world, "web", MINUTE).await;
    let (writes, _) = (world.writes("web"), world.requests());
    for number in 0..36 {
        let job = format!("job-{number}");
        cluster.put_task(Task::running(&job, "web:1"));
        run(&world, "web", MINUTE).await;
        cluster.put_task(Task::stopped(&job, "web:1"));
        run(&world, "web", 4 * MINUTE).await;
    }
    let events = world.requests().iter().filter(|request| *request == CREATE_EVENT).count();
    let writes = world.writes("web") - writes;
    assert!(events <= 7, "{events} events in three hours");
    assert!(writes <= 30, "{writes} writes in three hours");
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
}

#[tokio::test(start_paused = true)]
async fn cool_downs_wait_while_the_time_of_aws_is_unknown() {
    let world = World::with_full_buckets().await;
    world.ecs.hide_date(true);
    world.make("web", &["web:1"], json!({ "unusedFor": "1s" }));
    world.make("other", &["web:2"], json!({}));
    run(&world, "other", 5).await;
    assert_eq!(world.reasons("other"), [Reason::Retired]);
    run(&world, "web", 10 * MINUTE).await;
    let row = world.row("web", "web:1");
    assert_eq!((row.reason, &row.unused_since), (Reason::CoolingDown, &None), "{row:?}");
    assert!(row.message.is_some_and(|message| message.contains("once AWS has reported the time")));
    world.ecs.hide_date(false);
    run(&world, "web", 3 * MINUTE).await;
    assert_eq!(reason(&world), Reason::Retired);
}

#[tokio::test(start_paused = true)]
async fn cool_down_is_measured_by_the_clock_of_aws_and_not_of_the_pod() {
    for hours in [3, -3] {
        let world = cooling("10m").await;
        world.ecs.set_clock_skew(SignedDuration::from_hours(hours));
        run(&world, "web", 9 * MINUTE).await;
        let since = unused_since(&world) - hours * 3_600;
        assert!((30..40).contains(&since), "{since}: by AWS's clock");
        assert_eq!(reason(&world), Reason::CoolingDown, "{hours}");
        run(&world, "web", 2 * MINUTE).await;
        assert_eq!(reason(&world), Reason::Retired, "{hours}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_time_of_aws_does_not_hide_a_downtime() {
    for hours in [3, -3] {
        let world = cooling("2h").await;
        run(&world, "web", 10 * MINUTE).await;
        // Some of the last responses have a wrong time.
        world.ecs.set_clock_skew(SignedDuration::from_hours(hours));
        run(&world, "web", 20 * MINUTE).await;
        world.ecs.set_clock_skew(SignedDuration::ZERO);
        sleep(Duration::from_mins(50)).await;
        run(&world, "web", MINUTE).await;
        let since = unused_since(&world);
        assert!(since >= 80 * 60, "{hours} hours: unused since {since}, and not scanned until minute 80");
    }
}

#[tokio::test(start_paused = true)]
async fn usage_that_starts_while_a_revision_is_queued_is_found_before_the_deregistration() {
    let world = World::with_empty_buckets(1);
    world.west.cluster("prod");
    world.refill_buckets().await;
    let revisions = ["web:1", "web:2", "web:3"];
    world.make("web", &revisions, json!({}));
    let deregistrations = world.deregistrations();
    (0..41).for_each(|_| deregistrations.acquire_unqueued());
    run(&world, "web", 20).await;
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
    world.west.cluster("prod").put_service(Service::steady("late", "web:1"));
    run(&world, "web", MINUTE).await;
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:2", "web:3"]);
    assert_eq!(reason(&world), Reason::InUse);
}

#[tokio::test(start_paused = true)]
async fn usage_scans_do_not_reduce_the_deregistration_rate() {
    let world = World::with_empty_buckets(1);
    world.west.cluster("prod");
    world.west.register_many("job", 200);
    let revisions: Vec<String> = (1..=200).map(|number| format!("job:{number}")).collect();
    world.make("job", &revisions.iter().map(String::as_str).collect::<Vec<_>>(), json!({}));
    let began = Instant::now();
    world.reconcile_until_final("job").await;
    assert_eq!(world.count(DeregisterTaskDefinition), 200);
    let took = began.elapsed();
    assert!(took <= Duration::from_secs(202), "{took:?} for 200 permits");
    let scans = world.count(ListClusters);
    assert!(scans <= 18, "{scans} scans: one every 13 s");
}
