//! Soak test: minutes of work while different faults are injected. Memory, open files and threads
//! of the process must not grow.

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

/// Resources per round.
const RESOURCES: usize = 10;

const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// The faults of AWS, one per round, in rotation.
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
    (Verb::Patch, "taskdefinitionretirements/status", Effect::DropReply),
    (Verb::Create, "events", Effect::HangReply),
    (Verb::Update, "leases", Effect::Refuse(409)),
    (Verb::Watch, "taskdefinitionretirements", Effect::DropRequest),
];
const EVENTS: [Effect; 3] = [Effect::DropEvent, Effect::CutWatch, Effect::Repeat];

/// Memory, open files and threads of a process at one point in time.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    at: Duration,
    kilobytes: u64,
    files: usize,
    threads: u64,
}

impl Footprint {
    fn of(process: u32, at: Duration) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
        let number = |field: &str| {
            let value = status.lines().find_map(|it| it.strip_prefix(field)).unwrap_or_default();
            value.split_whitespace().next().and_then(|it| it.parse().ok()).expect("a number")
        };
        let files = fs::read_dir(format!("/proc/{process}/fd")).expect("the process runs").count();
        Self { at, kilobytes: number("VmRSS:"), files, threads: number("Threads:") }
    }
}

/// Runs one round: declares resources, injects faults, waits until every resource is ready, and
/// deletes the resources.
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
        world
            .wait_for(name, "Ready=True", READY_TIMEOUT, |seen| seen.is_current() && seen.ready() == "True")
            .await;
        world.delete(name).await;
    }
    world.ecs.clear_faults();
    proxy.clear_faults();
    let deregistered =
        world.ecs.calls_of(Action::DeregisterTaskDefinition).iter().filter(|it| it.changed).count();
    assert_eq!(deregistered, RESOURCES, "each revision is deregistered once");
    world.ecs.clear_log();
}

#[tokio::test]
#[ignore = "ten minutes: make soak"]
async fn soak_keeps_memory_files_and_threads_flat() {
    let seconds = env::var("SOAK_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(600);
    let (world, start) = (World::new().await, Instant::now());
    let proxy = ApiProxy::in_front_of(world.namespace.control_plane()).await.expect("the proxy starts");
    let mut controller = world.start_with(&[
        ("KUBECONFIG", &proxy.kubeconfig().display().to_string()),
        ("LEADER_ELECT", "true"),
        ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
    ]);
    let mut samples = Vec::new();
    for number in 0.. {
        if start.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        round(&world, &proxy, number).await;
        assert!(controller.is_running(), "{}", controller.log());
        samples.push(Footprint::of(controller.pid(), start.elapsed()));
    }
    // The first fifth is warm-up.
    let fifth = samples.len() / 5;
    assert!(fifth > 0, "too few rounds: {samples:?}");
    let maximum = |part: &[Footprint]| {
        let of = |what: fn(&Footprint) -> u64| part.iter().map(what).max().unwrap_or_default();
        (of(|it| it.kilobytes), of(|it| it.files.try_into().unwrap_or(u64::MAX)), of(|it| it.threads))
    };
    let (early, late) = (maximum(&samples[fifth..2 * fifth]), maximum(&samples[4 * fifth..]));
    for it in samples.iter().step_by(fifth.max(1)).chain(samples.last()) {
        let Footprint { at, kilobytes, files, threads } = it;
        let seconds = at.as_secs();
        writeln!(stderr(), "{seconds:>4} s: {kilobytes} kB, {files} files, {threads} threads").ok();
    }
    let (rounds, calls) = (samples.len(), proxy.log().len());
    writeln!(
        stderr(),
        "soak: {rounds} rounds, {calls} requests, {} faults to Kubernetes",
        proxy.faults_applied()
    )
    .ok();
    assert!(late.0 <= early.0 + early.0 / 10, "memory grows: {early:?}, {late:?} kB");
    assert!(late.1 <= early.1 + 5, "open files grow: {early:?}, {late:?}");
    assert!(late.2 <= early.2 + 2, "threads grow: {early:?}, {late:?}");
}
