//! A policy over one large family: what a run reads, how long it takes, and the memory.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Call};
use tokio::time::sleep;

use crate::{
    report::{Row, megabytes},
    world::{Bench, Failure, World, throttled},
};

const REVISIONS: i64 = 100_000;

/// The number of revisions that are old enough with `youngerThan`. So few that the binary search
/// takes all of its steps.
const OLD: i64 = 101;

const MAX_READS: usize = 40;

const DEADLINE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Delay before the memory is measured.
const MEMORY_DELAY: Duration = Duration::from_secs(5);

/// Measures one run with `youngerThan`, and one without, each in a process of its own.
pub async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let young = format!("{}h", REVISIONS - OLD + 1);
    let keep = json!({ "latest": 5, "youngerThan": young });
    let mut rows = run(bench, "with `youngerThan`", &keep).await?;
    rows.extend(run(bench, "without `youngerThan`", &json!({ "latest": 5 })).await?);
    Ok(rows)
}

async fn run(bench: &Bench, variant: &str, keep: &Value) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    let first = Timestamp::now() - SignedDuration::from_hours(REVISIONS);
    world.west.register_many_at("web", usize::try_from(REVISIONS)?, first, SignedDuration::from_hours(1));
    world.west.cluster("prod");
    world.ecs.throttle(1.0);
    let mut controller = world.start(&[])?;
    controller.wait_until_idle(DEADLINE).await?;

    let began = Instant::now();
    let spec = json!({ "families": { "include": ["web"] }, "keep": keep });
    let policy = world.apply("TaskDefinitionRetentionPolicy", "web", &spec).await?.name_any();
    let took = loop {
        let status = world.policies().get(&policy).await?.data["status"].clone();
        if status["lastRunCompletionTime"].is_string() {
            break began.elapsed();
        }
        if began.elapsed() > DEADLINE {
            return Err(format!("the run did not end within {DEADLINE:?}: {status}").into());
        }
        sleep(PAUSE).await;
    };
    sleep(MEMORY_DELAY).await;
    let memory = controller.memory()?;
    controller.stop().await?;

    let calls = world.ecs.calls();
    let (reads, throttled_calls) = (reads(&calls), throttled(&calls));
    let what = format!("a run of a policy over {REVISIONS} revisions, {variant}");
    Ok(vec![
        Row::with_goal(
            &what,
            &format!("at most {MAX_READS} reads"),
            format!("{reads} reads, {throttled_calls} throttled, {:.1} s", took.as_secs_f64()),
            reads <= MAX_READS,
        ),
        Row::without_goal(&format!("memory after {what}"), megabytes(memory)),
    ])
}

/// Returns the number of reads of the run. Its last one is the list right before it creates the
/// retirement, whose own reads follow.
fn reads(calls: &[Call]) -> usize {
    let last = calls.iter().rposition(|call| call.action == Action::ListTaskDefinitions);
    let of_run = &calls[..last.map_or(0, |last| last + 1)];
    let is_read = |call: &&Call| {
        matches!(
            call.action,
            Action::DescribeTaskDefinition | Action::ListTaskDefinitions | Action::ListTaskDefinitionFamilies
        )
    };
    of_run.iter().filter(is_read).count()
}
