//! Many final resources, and their cost: at a restart, in memory, and in CPU time.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    ResourceExt,
    api::{ListParams, PatchParams},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    report::{Row, megabytes},
    world::{Bench, Failure, World, apply_patch},
};

const DEADLINE: Duration = Duration::from_mins(2);

/// Delay before the memory of a controller is measured.
const MEMORY_DELAY: Duration = Duration::from_secs(5);

/// How long the CPU time is measured.
const CPU_PERIOD: Duration = Duration::from_mins(1);

const CLIENTS: usize = 16;
const PAGE: u32 = 500;

/// Measures the memory with `resources` final resources; the goal is `goal` megabytes.
pub async fn memory(bench: &Bench, resources: u32, goal: u32) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    create_final_resources(&world, resources).await?;
    let mut controller = world.start(&[])?;
    controller.wait_until_idle(DEADLINE).await?;
    sleep(MEMORY_DELAY).await;
    let row = memory_row(&controller, resources, goal)?;
    controller.stop().await?;
    Ok(vec![row])
}

/// Measures a restart over `resources` final resources, their memory, and the CPU time of one
/// minute.
pub async fn restart(bench: &Bench, resources: u32) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    create_final_resources(&world, resources).await?;
    let before = versions(&world).await?;
    world.ecs.clear_log();

    let mut controller = world.start(&[])?;
    let took = controller.wait_until_idle(DEADLINE).await?;
    let startup_time = controller.cpu_time()?;
    sleep(MEMORY_DELAY).await;
    let busy = controller.cpu_time()?;
    sleep(CPU_PERIOD).await;
    let busy = controller.cpu_time()?.saturating_sub(busy);
    let share = 100.0 * busy.as_secs_f64() / CPU_PERIOD.as_secs_f64();

    let (calls, writes) = (world.ecs.calls().len(), controller.writes().await);
    let memory = memory_row(&controller, resources, 45)?;
    controller.stop().await?;
    let after = versions(&world).await?;
    let changed = before.iter().filter(|(name, version)| after.get(*name) != Some(version)).count();
    Ok(vec![
        Row::with_goal(
            &format!("restart over {resources} final resources, and the minute after"),
            "0 AWS calls, 0 writes, under 1.5 s",
            format!(
                "{calls} AWS calls, {writes} writes, {changed} resources changed, \
                 {:.2} s, {:.2} s of CPU time",
                took.as_secs_f64(),
                startup_time.as_secs_f64()
            ),
            calls == 0 && writes == 0.0 && changed == 0 && took < Duration::from_millis(1500),
        ),
        memory,
        Row::with_goal(
            &format!("CPU, {resources} final resources, over a minute"),
            "under 0.1 % of a core",
            format!("{share:.3} %"),
            share < 0.1,
        ),
    ])
}

fn memory_row(controller: &crate::controller::Controller, resources: u32, goal: u32) -> Result<Row, Failure> {
    let memory = controller.memory()?;
    let what = match resources {
        0 => "memory, idle".to_owned(),
        _ => format!("memory, {resources} final resources"),
    };
    Ok(Row::with_goal(&what, &format!("{goal} MB"), megabytes(memory), memory.now <= f64::from(goal)))
}

/// Creates final resources, with a status that the controller itself wrote for a retired revision.
async fn create_final_resources(world: &World<'_>, resources: u32) -> Result<(), Failure> {
    if resources == 0 {
        return Ok(());
    }
    world.west.register("final");
    let controller = world.start(&[("--deregistrations-per-second", "1000".to_owned())])?;
    world.declare("final-1", &["final:1".to_owned()]).await?;
    let template = world.wait_until_final("final-1", DEADLINE).await?.data["status"].to_string();
    controller.stop().await?;

    let (api, parameters) = (world.api(), PatchParams::apply("ecs-retirement-controller").force());
    stream::iter(2..=resources)
        .map(Ok::<u32, Failure>)
        .try_for_each_concurrent(CLIENTS, |number| {
            let (api, parameters, template) = (&api, &parameters, &template);
            async move {
                let (name, revision) = (format!("final-{number}"), format!("final:{number}"));
                world.declare(&name, &[revision]).await?;
                let status: Value =
                    serde_json::from_str(&template.replace("final:1\"", &format!("final:{number}\"")))?;
                api.patch_status(&name, parameters, &apply_patch(&name, "status", &status)).await?;
                Ok(())
            }
        })
        .await
}

/// Returns the resource version of each resource.
async fn versions(world: &World<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let (api, mut versions, mut page) = (world.api(), BTreeMap::new(), ListParams::default().limit(PAGE));
    loop {
        let list = api.list_metadata(&page).await?;
        let named = list.items.iter().map(|it| (it.name_any(), it.resource_version().unwrap_or_default()));
        versions.extend(named);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(versions),
        }
    }
}
