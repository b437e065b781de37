//! Leader election: only the leader deregisters, and the standby takes over soon.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use testkit::{
    process::{Process, Signal},
    proxy::Proxy,
    simulated_ecs::{ACCOUNT, Action, Call, Fault},
};

use crate::support::{DEADLINE, World, stop};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// The access keys distinguish the replicas in the log of calls.
const FIRST: &str = "AKIAFIRSTREPLICA0000";
const SECOND: &str = "AKIASECONDREPLICA000";

/// How long the standby may take to lead after the leader has crashed: 17 s, and 3 s for a loaded
/// machine.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// How long the leader may take to shut down.
const STOP: Duration = Duration::from_secs(2);
/// How long the standby may take to lead after the leader has shut down. It reads the lease each
/// second, and would wait 15 s for a lease that was not released.
const HAND_OVER: Duration = Duration::from_secs(4);

fn replica(world: &World<'_>, key: &str, more: &[(&str, &str)]) -> Process {
    world.ecs.set_account(key, ACCOUNT);
    let mut environment = vec![
        ("AWS_ACCESS_KEY_ID", key),
        ("LEADER_ELECT", "true"),
        ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
        ("POD_NAME", key),
    ];
    environment.extend(more);
    world.start_with(&environment)
}

/// Starts a leader and a standby with forty revisions to retire, and applies `interrupt` to the
/// leader at the tenth call.
async fn interrupt_midway(
    more: &[(&str, &str)],
    interrupt: impl AsyncFnOnce(&mut Process),
) -> (World<'static>, Process, Process, Instant) {
    let world = World::new().await;
    let mut first = replica(&world, FIRST, more);
    first.wait_for_log(" leading", DEADLINE).await.expect("the first leads");
    let mut second = replica(&world, SECOND, &[]);
    second.wait_for_log("started", DEADLINE).await.expect("the second stands by");
    world.west.register_many("web", 40);
    world.ecs.fault(Fault::on(DEREGISTER).delay(Duration::from_millis(50)));
    let declared: Vec<String> = (1..=40).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    world.ecs.wait_for_calls(DEREGISTER, 10, DEADLINE).await;
    interrupt(&mut first).await;
    (world, first, second, Instant::now())
}

/// Asserts that the standby leads in time and finishes, and that no revision is deregistered twice.
async fn assert_taken_over(
    world: &World<'_>,
    second: &mut Process,
    since: Instant,
    within: Duration,
    how: &str,
) {
    second.wait_for_log(" leading", TAKE_OVER * 2).await.expect("the second leads");
    let took = since.elapsed();
    println!("take-over, leader {how}: {:.1} s", took.as_secs_f64());
    assert!(took <= within, "{took:?}");
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.text("progress"), "40/40");
    assert_each_once(&world.ecs.calls_of(DEREGISTER));
}

fn assert_each_once(calls: &[Call]) {
    let mut callers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for call in calls {
        callers.entry(call.task_definition.clone()).or_default().push(call.access_key.clone());
    }
    assert_eq!(callers.len(), 40);
    let twice: Vec<_> = callers.iter().filter(|(_, keys)| keys.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn standby_makes_no_calls() {
    let world = World::new().await;
    world.west.register("web");
    let mut first = replica(&world, FIRST, &[]);
    first.wait_for_log(" leading", DEADLINE).await.expect("the first leads");
    let port = testkit::process::free_port().expect("a port").to_string();
    let probes = format!("127.0.0.1:{port}");
    let _second = replica(&world, SECOND, &[("HEALTH_PROBE_BIND_ADDRESS", &probes)]);
    crate::support::wait_for_page(&format!("{probes}/readyz"), "ok").await;
    world.declare("web", &["web:1"]).await;
    world.wait_ready("web").await;
    assert!(world.ecs.calls().iter().all(|call| call.access_key == FIRST));
}

#[tokio::test]
async fn standby_takes_over_from_a_killed_leader_once_the_lease_expires() {
    let kill = async |leader: &mut Process| leader.kill();
    let (world, _first, mut second, since) = interrupt_midway(&[], kill).await;
    assert_taken_over(&world, &mut second, since, TAKE_OVER, "killed").await;
}

#[tokio::test]
async fn leader_stops_within_2_s_of_sigterm_and_hands_over() {
    let mut began = None;
    let terminate = async |leader: &mut Process| {
        began = Some(Instant::now());
        stop(leader).await;
    };
    let (world, first, mut second, _) = interrupt_midway(&[], terminate).await;
    assert!(first.log().contains("lease released"), "{}", first.log());
    let began = began.expect("SIGTERM was sent");
    println!("stop on SIGTERM in the middle of forty revisions: {:.2} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() <= STOP, "{:?}", began.elapsed());
    assert_taken_over(&world, &mut second, Instant::now(), HAND_OVER, "stopped").await;
}

#[tokio::test]
async fn leader_that_resumes_after_a_minute_repeats_nothing() {
    let pause = async |leader: &mut Process| leader.signal(Signal::STOP).expect("a signal can be sent");
    let (world, mut first, mut second, since) = interrupt_midway(&[], pause).await;
    assert_taken_over(&world, &mut second, since, TAKE_OVER, "paused").await;
    tokio::time::sleep_until((since + Duration::from_mins(1)).into()).await;
    first.signal(Signal::CONT).expect("a signal can be sent");
    first.wait_for_log("no longer leading", DEADLINE).await.ok();

    // The first is the standby now. The second retires what is declared from here on.
    world.wait_until_all_is_seen().await;
    let calls = world.ecs.calls_of(DEREGISTER);
    let late: Vec<_> = calls
        .iter()
        .filter(|call| call.access_key == FIRST && call.at > since + Duration::from_secs(15))
        .collect();
    assert!(late.is_empty(), "{late:?}");
    assert_each_once(
        &calls
            .into_iter()
            .filter(|call| call.task_definition.as_ref().is_some_and(|arn| arn.contains("/web:")))
            .collect::<Vec<_>>(),
    );
    let seen = world.seen("web").await;
    let unknown = (1..=40).filter(|number| seen.row(&format!("web:{number}"))["requestId"].is_null());
    assert!(unknown.count() <= 10, "at most one batch is lost: {seen}");
    assert!(first.is_running());
}

#[tokio::test]
async fn leader_without_a_connection_to_the_api_server_stops_acting() {
    let plane = testkit::control_plane::ControlPlane::shared().await;
    let server = plane.url().trim_start_matches("https://");
    let proxy = Proxy::in_front_of(server).await.expect("a proxy");
    let kubeconfig = fs::read_to_string(plane.kubeconfig()).expect("a kubeconfig");
    let folder = testkit::process::Folder::create().expect("a folder");
    let path = folder.join("through-the-proxy.kubeconfig");
    fs::write(&path, kubeconfig.replace(server, &proxy.address().to_string()))
        .expect("the file can be written");

    let path = path.display().to_string();
    let cut = async |_: &mut Process| proxy.cut();
    let (world, mut first, mut second, since) = interrupt_midway(&[("KUBECONFIG", &path)], cut).await;
    assert_taken_over(&world, &mut second, since, TAKE_OVER, "cut off").await;
    let calls = world.ecs.calls_of(DEREGISTER);
    let by_first = calls.iter().filter(|call| call.access_key == FIRST).map(|call| call.at).max();
    assert!(
        by_first.is_some_and(|last| last < since + Duration::from_secs(1)),
        "the disconnected leader has stopped"
    );

    proxy.restore();
    first.wait_for_log("no longer leading", DEADLINE).await.ok();
    world.wait_until_all_is_seen().await;
    let leases: Api<Lease> = world.namespace.api();
    let lease = leases.get("ecs-retirement-controller").await.expect("the lease is there");
    let spec = lease.spec.expect("it has a spec");
    assert!(spec.holder_identity.is_some_and(|holder| holder.starts_with(SECOND)));
    assert_eq!(spec.lease_transitions, Some(1));
    assert!(first.is_running(), "{}", first.log());
}
