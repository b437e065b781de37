//! A soak: minutes of work while one thing after another fails; what the process holds must not grow.

use std::{
    env, fs,
    io::{Write, stderr},
    time::{Duration, Instant},
};

use testkit::{
    api_proxy::{self, ApiProxy, Effect, Verb},
    simulated_ecs::{Action, Fault, Target},
};

use crate::support::World;

/// How many resources there are in each round.
const RESOURCES: usize = 10;

const SETTLED: Duration = Duration::from_secs(90);

/// What goes wrong in a round, one after another.
const AWS: [fn(Target) -> Fault; 6] = [
    Target::throttle,
    Target::server_error,
    Target::unavailable,
    Target::access_denied,
    Target::hang,
    Target::drop_reply,
];
const ACTIONS: [Action; 3] =
    [Action::DescribeTaskDefinition, Action::DeregisterTaskDefinition, Action::ListClusters];
const KUBERNETES: [(Verb, &str, Effect); 6] = [
    (Verb::Get, "taskdefinitionretirements", Effect::Hang),
    (Verb::Patch, "taskdefinitionretirements/status", Effect::Refuse(500)),
    (Verb::Patch, "taskdefinitionretirements/status", Effect::CutAfter),
    (Verb::Create, "events", Effect::HoldAnswer),
    (Verb::Update, "leases", Effect::Refuse(409)),
    (Verb::Watch, "taskdefinitionretirements", Effect::CutBefore),
];
const EVENTS: [Effect; 3] = [Effect::Lose, Effect::CutWatch, Effect::Repeat];

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    at: Duration,
    kilobytes: u64,
    files: usize,
    threads: u64,
}

impl Held {
    fn by(process: u32, at: Duration) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.split_whitespace().next().and_then(|it| it.parse().ok()).expect("a number")
        };
        let files = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").count();
        Self { at, kilobytes: number("VmRSS:"), files, threads: number("Threads:") }
    }
}

/// One round: resources are declared, something fails, all are retired all the same, and they are deleted.
async fn round(world: &World<'_>, proxy: &ApiProxy, number: usize) {
    let error = AWS[number % AWS.len()];
    world.ecs.fault(error(Fault::on(ACTIONS[number % ACTIONS.len()]).nth(1)));
    let (verb, resource, effect) = KUBERNETES[number % KUBERNETES.len()].clone();
    proxy.fault(api_proxy::Fault::request(verb, resource, 2, effect));
    proxy.fault(api_proxy::Fault::event(3, EVENTS[number % EVENTS.len()].clone()));
    let names: Vec<String> = (0..RESOURCES).map(|it| format!("soak-{it}")).collect();
    for name in &names {
        let revision = format!("soak:{}", world.west.register("soak"));
        world.declare(name, &[&revision]).await;
    }
    for name in &names {
        world.wait_for(name, "Ready=True", SETTLED, |seen| seen.is_current() && seen.ready() == "True").await;
        world.delete(name).await;
    }
    world.ecs.clear_faults();
    proxy.clear_faults();
    let twice = world.ecs.calls_of(Action::DeregisterTaskDefinition).iter().filter(|it| it.changed).count();
    assert_eq!(twice, RESOURCES, "each revision once");
    world.ecs.clear_log();
}

#[tokio::test]
#[ignore = "ten minutes: make soak"]
async fn a_soak_leaves_memory_files_and_threads_flat() {
    let seconds = env::var("SOAK_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(600);
    let (world, began) = (World::new().await, Instant::now());
    let proxy = ApiProxy::before(world.namespace.control_plane()).await.expect("a proxy");
    let mut controller = world.start_with(&[
        ("KUBECONFIG", &proxy.kubeconfig().display().to_string()),
        ("LEADER_ELECT", "true"),
        ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
    ]);
    let mut held = Vec::new();
    for number in 0.. {
        if began.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        round(&world, &proxy, number).await;
        assert!(controller.is_running(), "{}", controller.log());
        held.push(Held::by(controller.pid(), began.elapsed()));
    }
    // What warms up does so in the first fifth.
    let fifth = held.len() / 5;
    assert!(fifth > 0, "too few rounds: {held:?}");
    let most = |part: &[Held]| {
        let of = |what: fn(&Held) -> u64| part.iter().map(what).max().unwrap_or_default();
        (of(|it| it.kilobytes), of(|it| it.files.try_into().unwrap_or(u64::MAX)), of(|it| it.threads))
    };
    let (early, late) = (most(&held[fifth..2 * fifth]), most(&held[4 * fifth..]));
    for it in held.iter().step_by(fifth.max(1)).chain(held.last()) {
        let Held { at, kilobytes, files, threads } = it;
        let seconds = at.as_secs();
        writeln!(stderr(), "{seconds:>4} s: {kilobytes} kB, {files} files, {threads} threads").ok();
    }
    let (rounds, calls) = (held.len(), proxy.log().len());
    writeln!(stderr(), "soak: {rounds} rounds, {calls} requests, {} faults to Kubernetes", proxy.struck())
        .ok();
    assert!(late.0 <= early.0 + early.0 / 10, "memory grows: {early:?}, {late:?} kB");
    assert!(late.1 <= early.1 + 5, "open files grow: {early:?}, {late:?}");
    assert!(late.2 <= early.2 + 2, "threads grow: {early:?}, {late:?}");
}
