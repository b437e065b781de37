//! SIGTERM during work: how long the shutdown takes, and whether every response of ECS is recorded
//! in the status.

use std::{collections::BTreeSet, time::Duration};

use kube::api::ListParams;
use testkit::simulated_ecs::{Action, Fault, Outcome};

use crate::{
    report::Row,
    world::{Bench, Failure, World},
};

const ROUNDS: usize = 5;
const DEADLINE: Duration = Duration::from_secs(30);

/// Approximate duration of an ECS call.
const CALL: Duration = Duration::from_millis(100);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    world.west.register_many("web", 500);
    for action in [Action::DescribeTaskDefinition, Action::DeregisterTaskDefinition] {
        world.ecs.fault(Fault::on(action).delay(CALL));
    }
    for resource in 0..10 {
        let revisions: Vec<String> =
            (1..=50).map(|number| format!("web:{}", resource * 50 + number)).collect();
        world.declare(&format!("web-{resource}"), &revisions).await?;
    }
    let flags = [("--deregistrations-per-second", "1000".to_owned())];
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let calls_before = world.ecs.calls_of(Action::DeregisterTaskDefinition).len();
        let controller = world.start(&flags)?;
        // The last call has taken effect, and its response is pending.
        world.deregistrations(calls_before + 3, DEADLINE).await?;
        slowest = slowest.max(controller.stop().await?);
    }

    let resources = world.api().list(&ListParams::default()).await?;
    let rows = resources.iter().filter_map(|it| it.data["status"]["revisions"].as_array()).flatten();
    let recorded: BTreeSet<&str> = rows.filter_map(|row| row["requestId"].as_str()).collect();
    let calls = world.ecs.calls_of(Action::DeregisterTaskDefinition);
    let successful = calls.iter().filter(|call| call.outcome == Outcome::Ok);
    let lost = successful.filter(|call| !recorded.contains(call.request_id.as_str())).count();
    Ok(vec![Row::with_goal(
        "stop on SIGTERM with calls in flight, slowest of 5",
        "under 2 s, nothing lost",
        format!("{:.2} s, {lost} of {} responses lost", slowest.as_secs_f64(), calls.len()),
        slowest < Duration::from_secs(2) && lost == 0,
    )])
}
