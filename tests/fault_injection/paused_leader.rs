//! A leader paused at every call: it is stopped while it waits for an response, the standby takes
//! over, and then the paused leader resumes.

use std::{
    io::{Write, stderr},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde_json::json;
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault, Verb},
    process::Signal,
    simulated_ecs::{self, ACCOUNT, Action},
};
use tokio::time::sleep;

use crate::support::{DEADLINE, World};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Delay of the response. The leader is stopped before the response arrives.
const RESPONSE_DELAY: Duration = Duration::from_secs(1);

/// Access keys, which distinguish the replicas in the call log.
const FIRST: &str = "AKIAFIRSTREPLICA0000";
const SECOND: &str = "AKIASECONDREPLICA000";

/// The response at which the leader is stopped.
#[derive(Clone, Copy, Debug)]
enum Response {
    Aws(Action),
    Kubernetes(Verb, &'static str, u32),
}

/// The last read of a reconcile before it deregisters. It is stale by the time the leader resumes.
const LAST_READ: Response = Response::Kubernetes(Verb::Get, "taskdefinitionretirements", 2);

/// Lease renewals that fail before the resource is created. They are one to two seconds apart, so
/// that little remains of the lease duration of ten seconds.
const FAILED_RENEWALS: usize = 7;

const RESPONSES: [Response; 7] = [
    Response::Aws(Action::DescribeTaskDefinition),
    Response::Aws(DEREGISTER),
    Response::Kubernetes(Verb::Get, "taskdefinitionretirements", 1),
    LAST_READ,
    Response::Kubernetes(Verb::Patch, "taskdefinitionretirements/status", 1),
    Response::Kubernetes(Verb::Patch, "taskdefinitionretirements/status", 2),
    Response::Kubernetes(Verb::Create, "events", 1),
];

/// Number of runs in which the first replica may lose the lease before it waits for the response.
const ATTEMPTS: usize = 5;

/// Returns the number of `DeregisterTaskDefinition` calls for the revision: the calls of both
/// replicas, and the calls of the first replica after it was stopped. Returns `None` if the second
/// replica became leader before the response was delayed.
async fn deregistrations(response: Response, renews: bool) -> Option<(usize, usize)> {
    let world = World::new().await;
    let proxy = ApiProxy::in_front_of(world.namespace.control_plane()).await.expect("the proxy starts");
    let kubeconfig = proxy.kubeconfig().display().to_string();
    world.west.register("web");
    let replica = |key: &'static str, extra: &[(&str, &str)]| {
        world.ecs.set_account(key, ACCOUNT);
        let election = [("LEADER_ELECT", "true"), ("LEADER_ELECTION_NAMESPACE", world.namespace.name())];
        let own = [("AWS_ACCESS_KEY_ID", key), ("POD_NAME", key)];
        world.start_with(&[&own, &election, extra].concat())
    };
    let mut first = replica(FIRST, &[("KUBECONFIG", &kubeconfig)]);
    first.wait_for_log(" leading", DEADLINE).await.expect("the first replica becomes leader");
    let mut second = replica(SECOND, &[]);
    second.wait_for_log("started", DEADLINE).await.expect("the second replica becomes standby");
    if !renews {
        proxy.fault(Fault::request(Verb::Update, "leases", 1, Effect::Refuse(503)).times(1000));
        assert!(proxy.wait_until_faults_applied(FAILED_RENEWALS, DEADLINE).await, "{}", first.log());
    }
    match response {
        Response::Aws(action) => {
            world.ecs.fault(simulated_ecs::Fault::on(action).nth(1).delay(RESPONSE_DELAY));
        }
        Response::Kubernetes(verb, resource, nth) => {
            proxy.fault(Fault::request(verb, resource, nth, Effect::Delay(RESPONSE_DELAY)));
        }
    }
    let spec = json!({ "revisions": ["web:1"], "inUse": "Retire" });
    world.apply("web", spec).await.expect("the resource is admitted");
    let is_delayed = || match response {
        Response::Aws(action) => world.ecs.calls_of(action).iter().any(|call| call.access_key == FIRST),
        Response::Kubernetes(..) => proxy.log().iter().any(|it| matches!(it.effect, Some(Effect::Delay(_)))),
    };
    wait_until(|| is_delayed() || second.log().contains(" leading")).await;
    if !is_delayed() {
        return None;
    }
    first.signal(Signal::STOP).expect("a signal can be sent");
    let stopped = Instant::now();
    second.wait_for_log(" leading", DEADLINE).await.expect("the second replica becomes leader");
    match response {
        Response::Aws(DEREGISTER) => drop(world.wait_ready("web").await),
        // Resume the first replica as soon as the second has acted, while its response is still
        // recent.
        _ => wait_until(|| !world.ecs.calls_of(DEREGISTER).is_empty()).await,
    }

    first.signal(Signal::CONT).expect("a signal can be sent");
    // Three lease requests after the resume, the interrupted reconcile has ended.
    let resumed = Instant::now();
    let lease_requests =
        || proxy.log().iter().filter(|it| it.request.resource == "leases" && it.at > resumed).count();
    wait_until(|| lease_requests() >= 3).await;
    world.wait_ready("web").await;
    world.wait_until_all_is_seen().await;
    let arn = world.west.arn("web:1");
    let mut calls = world.ecs.calls_of(DEREGISTER);
    calls.retain(|call| call.task_definition.as_ref() == Some(&arn));
    let after_pause = calls.iter().filter(|call| call.access_key == FIRST && call.at > stopped).count();
    Some((calls.len(), after_pause))
}

async fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Repeats the run until the response was delayed while the first replica was the leader.
async fn repeat_until_delayed(response: Response, renews: bool) -> (usize, usize) {
    for _ in 0..ATTEMPTS {
        if let Some(counts) = deregistrations(response, renews).await {
            return counts;
        }
    }
    panic!("{response:?}: the first replica lost the lease in each of {ATTEMPTS} runs");
}

async fn check(what: &str, responses: Vec<Response>, renews: bool) {
    let (start, runs) = (Instant::now(), responses.len());
    let results: Vec<_> = stream::iter(responses)
        .map(|response| async move { (response, repeat_until_delayed(response, renews).await) })
        .buffer_unordered(runs)
        .collect()
        .await;
    let broken: Vec<_> = results.iter().filter(|(_, counts)| *counts != (1, 0)).collect();
    let seconds = start.elapsed().as_secs_f64();
    writeln!(stderr(), "{what}: {runs} runs, {} violations, {seconds:.0} s", broken.len()).ok();
    assert!(broken.is_empty(), "calls, and those of the paused replica: {broken:?}");
}

#[tokio::test]
async fn leader_paused_at_any_response_deregisters_nothing_after_it_resumes() {
    check("a leader paused", RESPONSES.to_vec(), true).await;
}

#[tokio::test]
async fn leader_paused_shortly_before_its_lease_expires_deregisters_nothing() {
    check("a leader paused that cannot renew", vec![LAST_READ], false).await;
}
