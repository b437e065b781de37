//! Rate limit: deregistrations share the quota with deployments and with each other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_sdk_ecs::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use serde_json::json;
use testkit::{
    process::free_port,
    sdk,
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Fault},
};
use tokio::time::MissedTickBehavior;

use crate::support::{DEADLINE, World, page};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Returns the environment variables for a rate limit.
fn rate_limit<'a>(per_second: &'a str, burst: &'a str) -> [(&'a str, &'a str); 2] {
    [("DEREGISTRATIONS_PER_SECOND", per_second), ("DEREGISTRATION_BURST", burst)]
}

/// Returns the revisions as `family:number`, in the order of their `DeregisterTaskDefinition`
/// calls.
fn order(world: &World<'_>) -> Vec<String> {
    let calls = world.ecs.calls_of(DEREGISTER).into_iter();
    calls.filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned())).collect()
}

#[tokio::test]
async fn crash_loop_does_not_exceed_the_rate_limit() {
    let world = World::new().await;
    world.west.register_many("web", 40);
    let declared: Vec<String> = (1..=40).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let began = Instant::now();
    for calls in 1..=4 {
        let mut controller = world.start_with(&rate_limit("2", "10"));
        world.ecs.wait_for_calls(DEREGISTER, calls, DEADLINE).await;
        controller.kill();
    }
    let calls = u32::try_from(world.ecs.calls_of(DEREGISTER).len()).expect("a few");
    assert!(
        f64::from(calls) <= began.elapsed().as_secs_f64() * 2.0 + 1.0,
        "{calls} in {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn oldest_revision_is_first_and_a_large_resource_does_not_starve_a_small_one() {
    let world = World::new().await;
    world.west.register_many("large", 20);
    world.west.register("small");
    let declared: Vec<String> = (1..=20).rev().map(|number| format!("large:{number}")).collect();
    world.apply("large", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&rate_limit("2", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 3, DEADLINE).await;
    world.declare("small", &["small:1"]).await;
    let seen = world
        .wait("large", "its queue position", |seen| {
            seen.ready_message().contains("queued for deregistration at position")
        })
        .await;
    assert!(seen.ready_message().contains("estimated completion 20"), "{seen}");
    world.wait_ready("small").await;
    world.wait_ready("large").await;

    let order = order(&world);
    let small = order.iter().position(|it| it == "small:1");
    assert!(small.is_some_and(|position| position < 20), "the small resource was not last: {order:?}");
    let large: Vec<String> = (1..=20).map(|number| format!("large:{number}")).collect();
    assert_eq!(order.iter().filter(|it| *it != "small:1").cloned().collect::<Vec<_>>(), large);
}

#[tokio::test]
async fn waiting_for_a_permit_causes_no_reconciles() {
    // EcsAccounts are cluster-scoped: those of other tests cause reconciles here, too.
    const RECONCILES: &str = "controller_runtime_reconcile_total{controller=\"taskdefinitionretirement\"";
    let world = World::new().await;
    world.west.register_many("web", 60);
    for number in 1..=60 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    // Workers for all resources: a busy worker does not cause reconciles.
    let mut environment =
        vec![("METRICS_BIND_ADDRESS", metrics.as_str()), ("MAX_CONCURRENT_RECONCILES", "80")];
    environment.extend(rate_limit("10", "1"));
    let _controller = world.start_with(&environment);
    for number in 1..=60 {
        world.wait_ready(&format!("web-{number}")).await;
    }
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let reconciles: f64 = text
        .lines()
        .filter(|line| line.starts_with(RECONCILES))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    // One to queue for DescribeTaskDefinition, one to call it and to queue for the deregistration,
    // and one to deregister. The bound leaves two more each for a loaded machine. Polling for
    // permits would cause thousands.
    println!("reconciles of 60 queued resources: {reconciles}");
    assert!(reconciles <= 300.0, "{text}");
}

#[tokio::test]
async fn unused_queue_position_is_passed_to_the_next_waiter() {
    let world = World::new().await;
    world.west.register_many("web", 13);
    for number in 1..=12 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let _controller = world.start_with(&rate_limit("1", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let done: Vec<String> = order(&world);
    // Ten waiting resources leave the queue. A later resource does not wait for their permits.
    let waiting: Vec<u32> = (1..=12).filter(|number| !done.contains(&format!("web:{number}"))).collect();
    for number in waiting.iter().take(10) {
        if number % 2 == 0 {
            world.delete(&format!("web-{number}")).await;
        } else {
            let spec = json!({ "revisions": [format!("web:{number}")], "suspend": true });
            world.apply(&format!("web-{number}"), spec).await.expect("admitted");
        }
    }
    let began = Instant::now();
    world.declare("last", &["web:13"]).await;
    world.wait_ready("last").await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}: {:?}", began.elapsed(), order(&world));
}

#[tokio::test]
async fn regions_do_not_delay_each_other() {
    let world = World::new().await;
    let east = world.ecs.region(ACCOUNT, "eu-west-1");
    world.west.register_many("web", 200);
    east.register_many("web", 3);
    let declared: Vec<String> = (1..=200).map(|number| format!("web:{number}")).collect();
    world.apply("west", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&rate_limit("1", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let spec = json!({ "revisions": ["web:1", "web:2", "web:3"], "region": "eu-west-1" });
    world.apply("east", spec).await.expect("admitted");
    // Behind the other region it would wait for 200 s.
    world.wait_ready("east").await;
}

/// Registers revisions at `per_second` as a deployment does. Returns how often it was throttled.
async fn deploy(world: &World<'_>, per_second: f64, registrations: u32) -> usize {
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(sdk::http_client())
        .endpoint_url(world.ecs.endpoint())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new(ACCESS_KEY, "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    let client = aws_sdk_ecs::Client::from_conf(config);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    // A deployment that was delayed does not catch up with a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut throttled = 0;
    for _ in 0..registrations {
        ticks.tick().await;
        let definition = aws_sdk_ecs::types::ContainerDefinition::builder().name("app").image("app").build();
        let call = client.register_task_definition().family("deployed").container_definitions(definition);
        throttled += usize::from(call.send().await.is_err());
    }
    throttled
}

#[tokio::test]
async fn deployment_at_half_the_quota_is_never_throttled() {
    let world = World::new().await;
    // Ten times the quota of ECS, and ten times the controller's default rate of 0.5 per second.
    world.ecs.throttle(10.0);
    world.west.register_many("web", 100);
    let declared: Vec<String> = (1..=100).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&rate_limit("5", "10"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    assert_eq!(deploy(&world, 5.0, 75).await, 0);
    let throttled = |action: Action| {
        world.ecs.calls_of(action).iter().filter(|call| call.outcome.error_code().is_some()).count()
    };
    assert_eq!(throttled(DEREGISTER), 0);
    world.wait_ready("web").await;
}

#[tokio::test]
async fn throttling_reduces_the_rate_and_stalls_no_resource() {
    let world = World::new().await;
    world.west.register_many("web", 30);
    for number in 1..=30 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    world.ecs.fault(Fault::on(DEREGISTER).nth(3).throttle());
    world.ecs.fault(Fault::on(DEREGISTER).nth(4).throttle());
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let mut environment = vec![("METRICS_BIND_ADDRESS", metrics.as_str())];
    environment.extend(rate_limit("4", "1"));
    let _controller = world.start_with(&environment);
    let calls = world.ecs.wait_for_calls(DEREGISTER, 12, DEADLINE).await;
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    // Seven intervals take 6.5 s at 1 per second, and 3.5 s at 2 per second.
    let sum: Duration = pauses[4..11].iter().sum();
    assert!(sum > Duration::from_millis(4_200), "4 per second become 1 after two throttles: {pauses:?}");
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let rate: BTreeMap<&str, f64> = text
        .lines()
        .filter(|line| line.starts_with("ecs_retirement_pacer_rate{"))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let modify = rate.iter().find(|(name, _)| name.contains("modify")).map(|(_, rate)| *rate);
    assert!(modify.is_some_and(|rate| (1.0..2.0).contains(&rate)), "the rate recovers: {rate:?}");
    for number in 1..=30 {
        let seen = world.seen(&format!("web-{number}")).await;
        assert!(seen.condition("Stalled").is_none(), "{seen}");
    }
}
