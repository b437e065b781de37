//! Latency from the request that applies a resource to the Deregister call, with an idle bucket.

use std::time::{Duration, Instant};

use testkit::simulated_ecs::Action;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    report::Row,
    world::{Bench, Failure, World},
};

const RESOURCES: usize = 100;

/// Each resource costs two `DescribeTaskDefinition` calls, which the controller limits to ten a
/// second.
const PERIOD: Duration = Duration::from_millis(300);

const DEADLINE: Duration = Duration::from_secs(30);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    world.west.register_many("web", RESOURCES + 1);
    // High enough that a permit is always available.
    let flags =
        [("--deregistrations-per-second", "1000".to_owned()), ("--deregistration-burst", "1000".to_owned())];
    let mut controller = world.start(&flags)?;
    controller.wait_until_idle(DEADLINE).await?;
    // The first resource sets up the connections and the caller identity.
    world.declare("web-1", &["web:1".to_owned()]).await?;
    world.wait_until_final("web-1", DEADLINE).await?;

    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    for number in 2..RESOURCES + 2 {
        ticks.tick().await;
        let began = Instant::now();
        world.declare(&format!("web-{number}"), &[format!("web:{number}")]).await?;
        let calls = world.ecs.wait_for_calls(Action::DeregisterTaskDefinition, number, DEADLINE).await;
        let call = calls.last().ok_or("no Deregister call")?;
        times.push(call.at.saturating_duration_since(began).as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let (median, last) = (times[RESOURCES / 2 - 1], times[RESOURCES - 2]);
    Ok(vec![Row::with_goal(
        "from apply to the Deregister call, idle bucket, p50 / p99",
        "20 / 80 ms",
        format!("{median:.0} / {last:.0} ms"),
        median <= 20.0 && last <= 80.0,
    )])
}
