//! Many resources with nothing left to do, and what they cost: at a restart, in memory, and in processor time.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    ResourceExt,
    api::{ListParams, PatchParams},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    report::Row,
    world::{Bench, Failure, World, applied},
};

const DEADLINE: Duration = Duration::from_mins(2);

/// How long after its start the memory of a controller is looked at.
const CALM: Duration = Duration::from_secs(5);

/// For how long its processor time is watched.
const WATCH: Duration = Duration::from_mins(1);

const CLIENTS: usize = 16;
const PAGE: u32 = 500;

/// Memory with `resources`, at most `goal` megabytes.
pub async fn memory(bench: &Bench, resources: u32, goal: u32) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    settle(&world, resources).await?;
    let mut controller = world.start(&[])?;
    controller.caught_up(DEADLINE).await?;
    sleep(CALM).await;
    let row = memory_row(&controller, resources, goal)?;
    controller.stop().await?;
    Ok(vec![row])
}

/// A restart over `resources`, their memory, and a minute of watching them.
pub async fn restart(bench: &Bench, resources: u32) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    settle(&world, resources).await?;
    let before = versions(&world).await?;
    world.ecs.clear_log();

    let mut controller = world.start(&[])?;
    let took = controller.caught_up(DEADLINE).await?;
    let own = controller.processor_time()?;
    sleep(CALM).await;
    let busy = controller.processor_time()?;
    sleep(WATCH).await;
    let busy = controller.processor_time()?.saturating_sub(busy);
    let share = 100.0 * busy.as_secs_f64() / WATCH.as_secs_f64();

    let (calls, writes) = (world.ecs.calls().len(), controller.writes().await);
    let memory = memory_row(&controller, resources, 45)?;
    controller.stop().await?;
    let after = versions(&world).await?;
    let changed = before.iter().filter(|(name, version)| after.get(*name) != Some(version)).count();
    Ok(vec![
        Row::judged(
            &format!("restart over {resources} settled resources, and the minute after"),
            "0 AWS calls, 0 writes, under 1.5 s",
            format!(
                "{calls} AWS calls, {writes} writes, {changed} resources changed, {:.2} s, {:.2} s of processor time",
                took.as_secs_f64(),
                own.as_secs_f64()
            ),
            calls == 0 && writes == 0.0 && changed == 0 && took < Duration::from_millis(1500),
        ),
        memory,
        Row::judged(
            &format!("processor, {resources} settled resources, over a minute"),
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
        _ => format!("memory, {resources} settled resources"),
    };
    let measured = format!("{:.1} MB, at most {:.1} MB since the start", memory.now, memory.peak);
    Ok(Row::judged(&what, &format!("{goal} MB"), measured, memory.now <= f64::from(goal)))
}

/// Makes resources with the status that the controller itself gives one whose revision is retired.
async fn settle(world: &World<'_>, resources: u32) -> Result<(), Failure> {
    if resources == 0 {
        return Ok(());
    }
    world.west.register("settled");
    let controller = world.start(&[("--deregistrations-per-second", "1000".to_owned())])?;
    world.declare("settled-1", &["settled:1".to_owned()]).await?;
    let template = world.settled("settled-1", DEADLINE).await?.data["status"].to_string();
    controller.stop().await?;

    let (api, parameters) = (world.api(), PatchParams::apply("ecs-retirement-controller").force());
    stream::iter(2..=resources)
        .map(Ok::<u32, Failure>)
        .try_for_each_concurrent(CLIENTS, |number| {
            let (api, parameters, template) = (&api, &parameters, &template);
            async move {
                let (name, revision) = (format!("settled-{number}"), format!("settled:{number}"));
                world.declare(&name, &[revision]).await?;
                let status: Value =
                    serde_json::from_str(&template.replace("settled:1\"", &format!("settled:{number}\"")))?;
                api.patch_status(&name, parameters, &applied(&name, "status", &status)).await?;
                Ok(())
            }
        })
        .await
}

/// The version of each resource.
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
