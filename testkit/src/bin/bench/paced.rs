//! The bucket that deregistrations and deploys share: how much of it the controller uses alone, and what a deploy beside it notices.

use std::time::{Duration, Instant};

use testkit::simulated_ecs::{Call, Service};
use tokio::time::sleep;

use crate::{
    deploy::Deploy,
    report::{Peer, Row, seconds},
    world::{Bench, Failure, World, throttled},
};

/// How many seconds the buckets live in one of ours. The controller allows itself ten looks a second whatever its flags, and a
/// deregistration from the line costs three: faster, and they would be measured instead.
pub const SPEED: f64 = 3.0;

const REVISIONS: u32 = 1000;

/// In resources of many sizes: one of 500 revisions, ten of 30, and 200 of one.
const SIZES: [(u32, u32); 3] = [(1, 500), (10, 30), (200, 1)];

/// The services that a usage scan reads, none of which uses a declared revision.
const USERS: u32 = 200;

/// What ECS allows of each read bucket.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const READS_PER_SECOND: f64 = 20.0;

const DEADLINE: Duration = Duration::from_mins(8);
const SETTLE: Duration = Duration::from_secs(3);

/// How many revisions the deploy beside the controller registers.
const DEPLOYED: u32 = 450;

/// With the whole rate to itself.
pub async fn alone(bench: &Bench) -> Result<(Vec<Row>, Peer), Failure> {
    let world = declared(bench).await?;
    let started = Instant::now();
    let controller = world.start(&[("--deregistrations-per-second", SPEED.to_string())])?;
    let calls = world.deregistrations(REVISIONS as usize, DEADLINE).await?;
    let last = calls.last().ok_or("no call")?.at;
    sleep(SETTLE).await;
    controller.stop().await?;

    let took = last.saturating_duration_since(started).as_secs_f64() * SPEED;
    let share = 100.0 * f64::from(REVISIONS) / took;
    let calls = world.deregistrations(0, DEADLINE).await?;
    let writes = f64::from(u32::try_from(calls.len())?) / f64::from(REVISIONS);
    let refused = throttled(&world.ecs.calls());
    let rows = vec![
        Row::judged(
            "share of the permitted rate used, 1,000 revisions",
            "at least 99 %",
            format!("{share:.1} %"),
            share >= 99.0,
        ),
        Row::judged("calls throttled while alone on the bucket", "0", refused.to_string(), refused == 0),
        Row::judged(
            "ECS write calls for a retired revision",
            "1.00",
            format!("{writes:.2}"),
            calls.len() == REVISIONS as usize,
        ),
    ];
    let alone = format!("{}, {refused} throttled", seconds(took));
    Ok((
        rows,
        Peer { name: "this controller, alone at the whole rate".to_owned(), alone, beside: "–".to_owned() },
    ))
}

/// With the default flags, while a deploy registers at half of the bucket's rate.
pub async fn beside_a_deploy(bench: &Bench) -> Result<(Vec<Row>, Peer), Failure> {
    let world = declared(bench).await?;
    let cluster = world.west.cluster("prod");
    for number in 0..USERS {
        cluster.put_service(Service::steady(&format!("service-{number}"), "users:1"));
    }
    let controller = world.start(&[("--deregistrations-per-second", (0.5 * SPEED).to_string())])?;
    world.deregistrations(1, DEADLINE).await?;
    let deploy = Deploy::begin(&world.ecs, SPEED);
    let took = deploy.ended_after(DEPLOYED).await;
    let deploy = deploy.end().await?;
    let calls = world.deregistrations(0, DEADLINE).await?;
    let own =
        throttled(world.ecs.calls().iter().filter(|call| call.action.name() != "RegisterTaskDefinition"));
    controller.stop().await?;

    let (scans, share) = usage_scans(&world.ecs.calls(), took);
    let took = took.as_secs_f64() * SPEED;
    let rows = vec![
        Row::judged(
            "a deploy that registers at half the bucket's rate beside the default flags",
            "throttled 0 times",
            format!("{} of {} calls in {}", deploy.throttled, deploy.calls, seconds(took)),
            deploy.throttled == 0,
        ),
        Row::judged(
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

/// Returns how many usage scans there were, and how much of ECS's rate they took of the busiest read bucket, in percent.
/// Scans follow our own clock, whatever the speed of the buckets.
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
