//! The end of use: waiting revisions are retired soon, but not before `unusedFor` has elapsed.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testkit::{
    process::free_port,
    simulated_ecs::{ACCOUNT, Action, Service, Task},
};

use crate::{
    in_use::{NOTICED, wait_in_use},
    support::{
        DEADLINE, Seen, World,
        metrics::{scrape, value},
        stop, wait_for_page,
    },
};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

#[tokio::test]
async fn revision_is_retired_after_use_ends_without_a_change_to_the_resource() {
    let world = World::new().await;
    world.west.register("web");
    let cluster = world.west.cluster("prod");
    cluster.put_service(Service::steady("web", "web:1"));
    world.declare("web", &["web:1"]).await;
    let mut controller = world.start();
    let first = wait_in_use(&world, "web").await;
    stop(&mut controller).await;
    let _controller = world.start();
    world.ecs.wait_for_calls(Action::ListClusters, 2, NOTICED).await;
    world.wait_until_all_is_seen().await;
    assert_eq!(world.seen("web").await.version(), first.version(), "the same use is not written again");

    let describes = world.ecs.calls_of(Action::DescribeTaskDefinition).len();
    cluster.put_service(Service::steady("web", "web:2"));
    let began = Instant::now();
    let seen = world.wait_for("web", "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
    println!("use that ended was noticed after {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(seen.row("web:1")["usedBy"], Value::Null);
    assert_eq!(
        world.ecs.calls_of(Action::DescribeTaskDefinition).len(),
        describes + 2,
        "before and after the call"
    );
}

#[tokio::test]
async fn cool_down_starts_at_the_first_scan_and_survives_a_restart() {
    let world = World::new().await;
    world.west.register("web");
    let spec = json!({ "revisions": ["web:1"], "unusedFor": "40s" });
    world.apply("web", spec).await.expect("admitted");
    let began = Instant::now();
    let mut controller = world.start();
    let first = world.wait("web", "CoolingDown", |seen| seen.ready_reason() == "CoolingDown").await;
    let since = first.row("web:1")["unusedSince"].clone();
    assert!(first.message("web:1").contains(since.as_str().expect("a time")), "{first}");
    assert!(first.condition("Reconciling").is_some(), "{first}");
    stop(&mut controller).await;
    let _controller = world.start();
    world.ecs.wait_for_calls(Action::ListClusters, 2, NOTICED).await;
    world.wait_until_all_is_seen().await;
    let seen = world.seen("web").await;
    assert_eq!(seen.row("web:1")["unusedSince"], since, "{seen}");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1, "only for the fence");
    let seen = world.wait_for("web", "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
    assert!(began.elapsed() >= Duration::from_secs(40));
    assert!(began.elapsed() < Duration::from_secs(70), "{:?}", began.elapsed());
    assert_eq!(seen.row("web:1")["unusedSince"], Value::Null);
}

#[tokio::test]
async fn revisions_that_become_unused_together_are_retired_together() {
    let world = World::new().await;
    world.west.register_many("web", 25);
    let cluster = world.west.cluster("prod");
    for number in 1..=25 {
        cluster.put_task(Task::running(&format!("a{number}"), &format!("web:{number}")));
    }
    let declared: Vec<String> = (1..=25).map(|number| format!("web:{number}")).collect();
    world.apply("all", json!({ "revisions": declared })).await.expect("admitted");
    world.declare("one", &["web:25"]).await;
    let _controller = world.start();
    world.wait("all", "all in use", |seen| declared.iter().all(|it| seen.reason(it) == "InUse")).await;
    wait_in_use(&world, "one").await;
    for number in 1..=25 {
        cluster.remove_task(&format!("a{number}"));
    }
    let began = Instant::now();
    for name in ["all", "one"] {
        world.wait_for(name, "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
    }
    assert!(began.elapsed() <= NOTICED, "{:?}", began.elapsed());
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 25);
}

#[tokio::test]
async fn usage_scans_stop_once_no_resource_waits() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.cluster("prod").put_task(Task::running("a1", "web:1"));
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let _controller = world.start_with(&[("METRICS_BIND_ADDRESS", &metrics)]);
    let wait_for_metric = async |text: &str| wait_for_page(&format!("{metrics}/metrics"), text).await;
    let age = format!("ecs_retirement_usage_age_seconds{{account=\"{ACCOUNT}\",region=\"us-west-2\"}}");
    let no_resource_waits = format!("{age} 0\n");
    world.declare("retired", &["web:2"]).await;
    world.wait_ready("retired").await;
    wait_for_metric(&no_resource_waits).await;

    world.declare("waiting", &["web:1"]).await;
    wait_in_use(&world, "waiting").await;
    let url = format!("{metrics}/metrics");
    let began = Instant::now();
    while value(&scrape(&url).await, "ecs_retirement_usage_age_seconds", &[]) <= 0.0 {
        assert!(began.elapsed() < DEADLINE, "no age of the usage");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let spec = json!({ "revisions": ["web:1"], "suspend": true });
    world.apply("waiting", spec).await.expect("admitted");
    wait_for_metric(&no_resource_waits).await;
}

/// Returns true if a time in a status is at least `seconds` ago.
fn is_past(time: &Value, seconds: i64) -> bool {
    let time = time.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    time.is_some_and(|time| Timestamp::now().duration_since(time).as_secs() >= seconds)
}

#[tokio::test]
async fn task_that_runs_only_between_two_scans_restarts_the_cool_down() {
    let world = World::new().await;
    world.west.register("web");
    let cluster = world.west.cluster("prod");
    world.apply("web", json!({ "revisions": ["web:1"], "unusedFor": "20s" })).await.expect("admitted");
    let _controller = world.start();
    let first = world.wait("web", "CoolingDown", |seen| seen.ready_reason() == "CoolingDown").await;
    let since = first.row("web:1")["unusedSince"].clone();
    world.wait("web", "half of the cool-down", |seen| is_past(&seen.row("web:1")["unusedSince"], 10)).await;
    cluster.put_task(Task::stopped("job", "web:1"));
    let stopped = Instant::now();
    let is_later = |seen: &Seen| seen.row("web:1")["unusedSince"] != since;
    let seen = world.wait("web", "a later time", is_later).await;
    assert_eq!(seen.reason("web:1"), "CoolingDown", "{seen}");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 0);
    world.wait_for("web", "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
    assert!(stopped.elapsed() >= Duration::from_secs(20), "{:?}", stopped.elapsed());
}

#[tokio::test]
async fn cool_down_is_measured_by_the_clock_of_aws_even_if_it_is_hours_off() {
    for hours in [3, -3] {
        let world = World::new().await;
        world.west.register("web");
        world.ecs.set_clock_skew(SignedDuration::from_hours(hours));
        world.apply("web", json!({ "revisions": ["web:1"], "unusedFor": "10s" })).await.expect("admitted");
        let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
        let began = Instant::now();
        let mut controller = world.start_with(&[("METRICS_BIND_ADDRESS", &metrics)]);
        let seen = world.wait("web", "CoolingDown", |seen| seen.ready_reason() == "CoolingDown").await;
        let since: Timestamp =
            seen.row("web:1")["unusedSince"].as_str().and_then(|text| text.parse().ok()).expect("a time");
        let ahead = since.duration_since(Timestamp::now());
        let difference = (ahead - SignedDuration::from_hours(hours)).abs();
        assert!(difference < SignedDuration::from_mins(1), "{seen}");
        // The clocks are read up to two seconds apart.
        let skew = if hours > 0 {
            "ecs_retirement_clock_skew_seconds -10"
        } else {
            "ecs_retirement_clock_skew_seconds 10"
        };
        wait_for_page(&format!("{metrics}/metrics"), skew).await;
        world.wait_ready("web").await;
        assert!(began.elapsed() >= Duration::from_secs(10));
        stop(&mut controller).await;
        let log = controller.log();
        let warnings = log.matches("the clock of this pod differs from that of AWS").count();
        assert_eq!(warnings, 1, "{log}");
    }
}

#[tokio::test]
async fn use_right_before_the_call_is_found_by_a_scan_at_most_15_s_old() {
    let world = World::new().await;
    world.west.register("web");
    let cluster = world.west.cluster("prod");
    world.declare("web", &["web:1"]).await;
    // The first permit is available after 40 s: for a report the first scan would still be fresh.
    let _controller =
        world.start_with(&[("DEREGISTRATIONS_PER_SECOND", "0.025"), ("DEREGISTRATION_BURST", "1")]);
    world
        .wait("web", "a queue position", |seen| {
            seen.ready_message().contains("queued for deregistration at position")
        })
        .await;
    cluster.put_task(Task::running("late", "web:1"));
    let began = Instant::now();
    let seen = wait_in_use(&world, "web").await;
    assert!(began.elapsed() < Duration::from_secs(50), "before the scan of the next minute");
    assert_eq!(seen.row("web:1")["usedBy"], json!(["task/prod/late"]));
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 0);
}
