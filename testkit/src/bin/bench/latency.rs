//! From the request that applies a resource to the Deregister call, on a bucket that nobody else uses.

use std::time::{Duration, Instant};

use testkit::simulated_ecs::Action;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    report::Row,
    world::{Bench, Failure, World},
};

const RESOURCES: usize = 100;

/// Each costs two looks at ECS, of which the controller allows itself ten a second.
const PERIOD: Duration = Duration::from_millis(300);

const DEADLINE: Duration = Duration::from_secs(30);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    world.west.register_many("web", RESOURCES + 1);
    // So fast that each finds a turn free.
    let flags =
        [("--deregistrations-per-second", "1000".to_owned()), ("--deregistration-burst", "1000".to_owned())];
    let mut controller = world.start(&flags)?;
    controller.caught_up(DEADLINE).await?;
    // The first one pays for the connections and for the identity.
    world.declare("web-1", &["web:1".to_owned()]).await?;
    world.settled("web-1", DEADLINE).await?;

    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    for number in 2..RESOURCES + 2 {
        ticks.tick().await;
        let began = Instant::now();
        world.declare(&format!("web-{number}"), &[format!("web:{number}")]).await?;
        let calls = world.ecs.wait_for_calls(Action::DeregisterTaskDefinition, number, DEADLINE).await;
        let call = calls.last().ok_or("no call")?;
        times.push(call.at.saturating_duration_since(began).as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let (median, last) = (times[RESOURCES / 2 - 1], times[RESOURCES - 2]);
    Ok(vec![Row::judged(
        "from apply to the Deregister call, nobody else on the bucket, p50 / p99",
        "20 / 80 ms",
        format!("{median:.0} / {last:.0} ms"),
        median <= 20.0 && last <= 80.0,
    )])
}
