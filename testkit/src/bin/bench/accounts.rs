//! Many AWS accounts in one process: how much of the rate of each is used, and the memory.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use testkit::simulated_ecs::{ACCOUNT, Action, Call};
use tokio::time::sleep;

use crate::{
    report::{Row, megabytes},
    world::{Bench, Failure, REGION, World, throttled},
};

pub const ACCOUNTS: u64 = 50;

/// Speed of the buckets relative to real time. A higher speed would measure the machine: at this
/// one, all accounts together permit 25 deregistrations per second, with three reads each.
pub const SPEED: f64 = 0.5;

/// Resources of each account as (count, revisions each).
const SIZES: [(u32, u32); 2] = [(1, 30), (3, 10)];

/// Number of revisions of each account.
const REVISIONS: u32 = 60;

const DEADLINE: Duration = Duration::from_mins(6);
const GRACE_PERIOD: Duration = Duration::from_secs(3);

/// Interval at which the deregistrations are counted. The simulated ECS serves no call meanwhile.
const PERIOD: Duration = Duration::from_secs(1);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let world = World::on(bench).await?;
    let measured = retire(&world).await;
    // The next measurements have no EcsAccounts in their memory.
    let mine = ListParams::default().labels(&format!("namespace={}", world.name()));
    world.accounts().delete_collection(&DeleteParams::default(), &mine).await?;
    measured
}

async fn retire(world: &World<'_>) -> Result<Vec<Row>, Failure> {
    for number in 1..=ACCOUNTS {
        declare(world, number).await?;
    }
    world.ecs.throttle(SPEED);
    let started = Instant::now();
    let flags =
        [("--controller-name", world.name().to_owned()), ("--deregistrations-per-second", SPEED.to_string())];
    let controller = world.start(&flags)?;
    let total = usize::try_from(ACCOUNTS)? * REVISIONS as usize;
    loop {
        sleep(PERIOD).await;
        let count = world.ecs.calls_of(Action::DeregisterTaskDefinition).len();
        if count >= total {
            break;
        }
        if started.elapsed() > DEADLINE {
            return Err(format!("{count} of {total} deregistrations within {DEADLINE:?}").into());
        }
    }
    sleep(GRACE_PERIOD).await;
    let memory = controller.memory()?;
    controller.stop().await?;

    let calls = world.ecs.calls();
    let shares = shares(&calls, started);
    let (least, median) = (shares[0], shares[shares.len() / 2]);
    let throttled_calls = throttled(&calls);
    Ok(vec![
        Row::without_goal(
            &format!("share of the permitted rate used in each of {ACCOUNTS} accounts"),
            format!("at least {least:.1} %, median {median:.1} %"),
        ),
        Row::with_goal(
            &format!("calls throttled in {ACCOUNTS} accounts"),
            "0",
            throttled_calls.to_string(),
            throttled_calls == 0,
        ),
        Row::without_goal(&format!("memory with {ACCOUNTS} accounts"), megabytes(memory)),
    ])
}

/// Creates an EcsAccount with its role, and its retirements.
async fn declare(world: &World<'_>, number: u64) -> Result<(), Failure> {
    let (id, namespace) = (format!("{:012}", 100_000_000_000 + number), world.name());
    let (name, role) = (format!("{namespace}-{number}"), format!("arn:aws:iam::{id}:role/ecs-retirement"));
    world.ecs.role(&role).trust(ACCOUNT);
    let spec = json!({
        "controllerName": namespace,
        "accountId": id,
        "region": REGION,
        "assumeRole": { "roleArn": role },
        "allowedNamespaces": { "names": [namespace] },
        "families": { "allow": ["*"] },
    });
    world.apply("EcsAccount", &name, &spec).await?;
    let region = world.ecs.region(&id, REGION);
    for (resources, revisions) in SIZES {
        let family = format!("web-{revisions}");
        region.register_many(&family, (resources * revisions) as usize);
        for resource in 0..resources {
            let numbers = resource * revisions + 1..=(resource + 1) * revisions;
            let declared: Vec<String> = numbers.map(|number| format!("{family}:{number}")).collect();
            let spec = json!({ "revisions": declared, "accountRef": { "name": name } });
            let name = format!("{family}-{number}-{resource}");
            world.apply("TaskDefinitionRetirement", &name, &spec).await?;
        }
    }
    Ok(())
}

/// Returns the share of the permitted rate that each account used until its last deregistration, in
/// percent and in ascending order.
fn shares(calls: &[Call], started: Instant) -> Vec<f64> {
    let mut accounts: BTreeMap<&str, (u32, Instant)> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.action == Action::DeregisterTaskDefinition) {
        let account = accounts.entry(call.account.as_deref().unwrap_or_default()).or_insert((0, started));
        *account = (account.0 + 1, call.at);
    }
    let share = |(count, last): (u32, Instant)| {
        let permitted = last.saturating_duration_since(started).as_secs_f64() * SPEED;
        100.0 * f64::from(count) / permitted
    };
    let mut shares: Vec<f64> = accounts.into_values().map(share).collect();
    shares.sort_by(f64::total_cmp);
    shares
}
