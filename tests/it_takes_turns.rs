//! It takes turns: deregistrations share the account's rate with its deploys, and with each other.

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

use crate::support::{DEADLINE, World, page};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// A rate for tests, and a little more than the time that some turns take at it.
fn paced<'a>(per_second: &'a str, burst: &'a str) -> [(&'a str, &'a str); 2] {
    [("DEREGISTRATIONS_PER_SECOND", per_second), ("DEREGISTRATION_BURST", burst)]
}

/// The revisions in the order in which ECS was asked to deregister them, as `family:number`.
fn order(world: &World<'_>) -> Vec<String> {
    let calls = world.ecs.calls_of(DEREGISTER).into_iter();
    calls.filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned())).collect()
}

#[tokio::test]
async fn a_process_that_crashes_again_and_again_gets_no_more_turns_than_one_that_does_not() {
    let world = World::new().await;
    world.west.register_many("web", 40);
    let declared: Vec<String> = (1..=40).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let began = Instant::now();
    for calls in 1..=4 {
        let mut controller = world.start_with(&paced("2", "10"));
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
async fn the_oldest_revision_is_first_and_a_large_resource_gives_way_to_a_small_one() {
    let world = World::new().await;
    world.west.register_many("large", 20);
    world.west.register("small");
    let declared: Vec<String> = (1..=20).rev().map(|number| format!("large:{number}")).collect();
    world.apply("large", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&paced("5", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 3, DEADLINE).await;
    world.declare("small", &["small:1"]).await;
    let seen = world
        .wait("large", "its queue position", |seen| {
            seen.ready_message().contains("queued for deregistration at position")
        })
        .await;
    assert!(seen.ready_message().contains("estimated completion 20"), "{seen}");
    world.wait_ready("small").await;
    let so_far = order(&world).len();
    assert!(so_far < 20, "the small one was not last: {:?}", order(&world));
    world.wait_ready("large").await;

    let order = order(&world);
    let large: Vec<String> = (1..=20).map(|number| format!("large:{number}")).collect();
    assert_eq!(order.iter().filter(|it| *it != "small:1").cloned().collect::<Vec<_>>(), large);
}

#[tokio::test]
async fn waiting_for_a_turn_costs_no_passes() {
    let world = World::new().await;
    world.west.register_many("web", 60);
    for number in 1..=60 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let mut environment = vec![("METRICS_BIND_ADDRESS", metrics.as_str())];
    environment.extend(paced("10", "1"));
    let _controller = world.start_with(&environment);
    for number in 1..=60 {
        world.wait_ready(&format!("web-{number}")).await;
    }
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let passes: f64 = text
        .lines()
        .filter(|line| line.starts_with("controller_runtime_reconcile_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    // One to queue up for the look, one to look and queue up for the deed, one for the deed, and at the most one more each, which came
    // while as many as may be were at work. Each that asked again at each turn would make thousands.
    println!("passes for 60 resources that waited in line: {passes}");
    assert!(passes <= 240.0, "{text}");
}

#[tokio::test]
async fn a_place_that_is_not_used_any_more_is_given_on() {
    let world = World::new().await;
    world.west.register_many("web", 13);
    for number in 1..=12 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let _controller = world.start_with(&paced("1", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let done: Vec<String> = order(&world);
    // Ten of those that wait are gone; what is declared after them does not wait for their turns.
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
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}: {:?}", began.elapsed(), order(&world));
}

#[tokio::test]
async fn two_regions_do_not_slow_each_other() {
    let world = World::new().await;
    let east = world.ecs.region(ACCOUNT, "eu-west-1");
    world.west.register_many("web", 200);
    east.register_many("web", 3);
    let declared: Vec<String> = (1..=200).map(|number| format!("web:{number}")).collect();
    world.apply("west", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&paced("1", "1"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let spec = json!({ "revisions": ["web:1", "web:2", "web:3"], "region": "eu-west-1" });
    world.apply("east", spec).await.expect("admitted");
    let began = Instant::now();
    world.wait_ready("east").await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// Registers at `per_second` until dropped, as a deploy does, and counts how often it was throttled.
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
async fn a_deploy_at_half_the_rate_is_never_throttled() {
    let world = World::new().await;
    // Ten times as fast as ECS, and so is the controller's default rate of a half a second.
    world.ecs.throttle(10.0);
    world.west.register_many("web", 100);
    let declared: Vec<String> = (1..=100).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start_with(&paced("5", "10"));
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    assert_eq!(deploy(&world, 5.0, 75).await, 0);
    let throttled = |action: Action| {
        world.ecs.calls_of(action).iter().filter(|call| call.outcome.error_code().is_some()).count()
    };
    assert_eq!(throttled(DEREGISTER), 0);
    world.wait_ready("web").await;
}

#[tokio::test]
async fn a_throttle_makes_all_step_back_and_is_no_failure_of_anybody() {
    let world = World::new().await;
    world.west.register_many("web", 30);
    for number in 1..=30 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    world.ecs.fault(Fault::on(DEREGISTER).nth(3).throttle());
    world.ecs.fault(Fault::on(DEREGISTER).nth(4).throttle());
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let mut environment = vec![("METRICS_BIND_ADDRESS", metrics.as_str())];
    environment.extend(paced("4", "1"));
    let _controller = world.start_with(&environment);
    let calls = world.ecs.wait_for_calls(DEREGISTER, 8, DEADLINE).await;
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    let shortest = pauses[3..7].iter().min().expect("there are some");
    assert!(*shortest > Duration::from_millis(700), "one a second after two throttles at four: {pauses:?}");
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let rate: BTreeMap<&str, f64> = text
        .lines()
        .filter(|line| line.starts_with("ecs_retirement_pacer_rate{"))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let modify = rate.iter().find(|(name, _)| name.contains("modify")).map(|(_, rate)| *rate);
    assert!(modify.is_some_and(|rate| (1.0..2.0).contains(&rate)), "on its way back: {rate:?}");
    for number in 1..=30 {
        let seen = world.seen(&format!("web-{number}")).await;
        assert!(seen.condition("Stalled").is_none(), "{seen}");
    }
}
