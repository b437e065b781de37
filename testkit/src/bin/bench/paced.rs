//! The bucket shared by deregistrations and deploys: how much of it the controller uses alone, and
//! how often a deploy beside it is throttled.

use std::time::{Duration, Instant};

use testkit::simulated_ecs::{Call, Service};
use tokio::time::sleep;

use crate::{
    deploy::Deploy,
    report::{Peer, Row, seconds},
    world::{Bench, Failure, World, throttled},
};

/// Speed of the buckets relative to real time. The controller limits itself to ten reads a second
/// whatever its flags, and a queued deregistration costs three. A higher speed would measure the
/// reads.
pub const SPEED: f64 = 3.0;

const REVISIONS: u32 = 1000;

/// Resources as (count, revisions each): one of 500 revisions, ten of 30, and 200 of one.
const SIZES: [(u32, u32); 3] = [(1, 500), (10, 30), (200, 1)];

/// Number of services that a usage scan reads. None uses a declared revision.
const SERVICES: u32 = 200;

/// Refill rate of each read bucket of ECS.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const READS_PER_SECOND: f64 = 20.0;

const DEADLINE: Duration = Duration::from_mins(8);
const GRACE_PERIOD: Duration = Duration::from_secs(3);

/// Number of revisions that the deploy beside the controller registers.
const DEPLOYED: u32 = 450;

/// Measures the controller alone, with the whole rate.
pub async fn alone(bench: &Bench) -> Result<(Vec<Row>, Peer), Failure> {
    let world = declared(bench).await?;
    let started = Instant::now();
    let controller = world.start(&[("--deregistrations-per-second", SPEED.to_string())])?;
    let calls = world.deregistrations(REVISIONS as usize, DEADLINE).await?;
    let last = calls.last().ok_or("no Deregister call")?.at;
    sleep(GRACE_PERIOD).await;
    controller.stop().await?;

    let took = last.saturating_duration_since(started).as_secs_f64() * SPEED;
    let share = 100.0 * f64::from(REVISIONS) / took;
    let calls = world.deregistrations(0, DEADLINE).await?;
    let writes = f64::from(u32::try_from(calls.len())?) / f64::from(REVISIONS);
    let throttled_calls = throttled(&world.ecs.calls());
    let rows = vec![
        Row::with_goal(
            "share of the permitted rate used, 1,000 revisions",
            "at least 99 %",
            format!("{share:.1} %"),
            share >= 99.0,
        ),
        Row::with_goal(
            "calls throttled while alone on the bucket",
            "0",
            throttled_calls.to_string(),
            throttled_calls == 0,
        ),
        Row::with_goal(
            "ECS write calls per retired revision",
            "1.00",
            format!("{writes:.2}"),
            calls.len() == REVISIONS as usize,
        ),
    ];
    let alone = format!("{}, {throttled_calls} throttled", seconds(took));
    Ok((
        rows,
        Peer { name: "this controller, alone at the whole rate".to_owned(), alone, beside: "–".to_owned() },
    ))
}

/// Measures the controller with default flags, while a deploy registers at half of the bucket's
/// rate.
pub async fn beside_a_deploy(bench: &Bench) -> Result<(Vec<Row>, Peer), Failure> {
    let world = declared(bench).await?;
    let cluster = world.west.cluster("prod");
    for number in 0..SERVICES {
        cluster.put_service(Service::steady(&format!("service-{number}"), "users:1"));
    }
    let controller = world.start(&[("--deregistrations-per-second", (0.5 * SPEED).to_string())])?;
    world.deregistrations(1, DEADLINE).await?;
    let deploy = Deploy::start(&world.ecs, SPEED);
    let took = deploy.wait_for_calls(DEPLOYED).await;
    let deploy = deploy.stop().await?;
    let calls = world.deregistrations(0, DEADLINE).await?;
    let own =
        throttled(world.ecs.calls().iter().filter(|call| call.action.name() != "RegisterTaskDefinition"));
    controller.stop().await?;

    let (scans, share) = usage_scans(&world.ecs.calls(), took);
    let took = took.as_secs_f64() * SPEED;
    let rows = vec![
        Row::with_goal(
            "a deploy that registers at half the bucket's rate beside the default flags",
            "throttled 0 times",
            format!("{} of {} calls in {}", deploy.throttled, deploy.calls, seconds(took)),
            deploy.throttled == 0,
        ),
        Row::with_goal(
            "usage scans of 200 services meanwhile, busiest read bucket",
            "at most 50 % of ECS's rate",
            format!("{scans} scans, {share:.1} %"),
            share <= 50.0,
        ),
    ];
    let beside = format!(
        "{} done in {}, {own} throttled; the deploy: {} of {}",
        calls.len(),
        seconds(took),
        deploy.throttled,
        deploy.calls
    );
    Ok((rows, Peer { name: "this controller, default flags".to_owned(), alone: "–".to_owned(), beside }))
}

/// Returns the number of usage scans, and their share of ECS's rate of the busiest read bucket, in
/// percent. Scans follow real time, whatever the speed of the buckets.
fn usage_scans(calls: &[Call], took: Duration) -> (usize, f64) {
    let count = |names: &[&str]| calls.iter().filter(|call| names.contains(&call.action.name())).count();
    let buckets = [
        ["ListClusters", "DescribeClusters"],
        ["ListServices", "DescribeServices"],
        ["ListTasks", "DescribeTasks"],
    ];
    let busiest = buckets.iter().map(|bucket| count(bucket)).max().unwrap_or_default();
    let permitted = READS_PER_SECOND * took.as_secs_f64();
    (count(&["ListClusters"]), 100.0 * f64::from(u32::try_from(busiest).unwrap_or(u32::MAX)) / permitted)
}

async fn declared(bench: &Bench) -> Result<World<'_>, Failure> {
    let world = World::on(bench).await?;
    for (resources, revisions) in SIZES {
        let family = format!("web-{revisions}");
        world.west.register_many(&family, (resources * revisions) as usize);
        for resource in 0..resources {
            let numbers = resource * revisions + 1..=(resource + 1) * revisions;
            let declared: Vec<String> = numbers.map(|number| format!("{family}:{number}")).collect();
            world.declare(&format!("{family}-{resource}"), &declared).await?;
        }
    }
    world.ecs.throttle(SPEED);
    Ok(world)
}
