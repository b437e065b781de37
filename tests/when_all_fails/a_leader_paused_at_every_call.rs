//! A leader paused at every call: it is stopped while it waits for an answer, another takes over, and then it goes on.

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

/// How long an answer is held back: the leader is stopped before it comes.
const HELD: Duration = Duration::from_secs(1);

/// The access keys tell the replicas apart in the log of calls.
const FIRST: &str = "AKIAFIRSTREPLICA0000";
const SECOND: &str = "AKIASECONDREPLICA000";

/// The answer at which the leader is stopped.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Aws(Action),
    Kubernetes(Verb, &'static str, u32),
}

/// What a pass reads right before it deregisters: by the time it is used, it is old.
const RIGHT_BEFORE: Answer = Answer::Kubernetes(Verb::Get, "taskdefinitionretirements", 2);

/// How many renewals fail before there is anything to do: two and one seconds apart, they leave a leader little of its ten.
const UNRENEWED: usize = 7;

const ANSWERS: [Answer; 7] = [
    Answer::Aws(Action::DescribeTaskDefinition),
    Answer::Aws(DEREGISTER),
    Answer::Kubernetes(Verb::Get, "taskdefinitionretirements", 1),
    RIGHT_BEFORE,
    Answer::Kubernetes(Verb::Patch, "taskdefinitionretirements/status", 1),
    Answer::Kubernetes(Verb::Patch, "taskdefinitionretirements/status", 2),
    Answer::Kubernetes(Verb::Create, "events", 1),
];

/// How many Deregisters the replicas made of the one revision, in all, and the first after it was stopped.
async fn deregistrations(answer: Answer, renews: bool) -> (usize, usize) {
    let world = World::new().await;
    let proxy = ApiProxy::before(world.namespace.control_plane()).await.expect("a proxy");
    let kubeconfig = proxy.kubeconfig().display().to_string();
    world.west.register("web");
    let replica = |key: &'static str, more: &[(&str, &str)]| {
        world.ecs.set_account(key, ACCOUNT);
        let election = [("LEADER_ELECT", "true"), ("LEADER_ELECTION_NAMESPACE", world.namespace.name())];
        let own = [("AWS_ACCESS_KEY_ID", key), ("POD_NAME", key)];
        world.start_with(&[&own, &election, more].concat())
    };
    let mut first = replica(FIRST, &[("KUBECONFIG", &kubeconfig)]);
    first.wait_for_log(" leading", DEADLINE).await.expect("the first leads");
    let mut second = replica(SECOND, &[]);
    second.wait_for_log("started", DEADLINE).await.expect("the second stands by");
    if !renews {
        proxy.fault(Fault::request(Verb::Update, "leases", 1, Effect::Refuse(503)).times(1000));
        assert!(proxy.wait_until_struck(UNRENEWED, DEADLINE).await, "{}", first.log());
    }
    match answer {
        Answer::Aws(action) => world.ecs.fault(simulated_ecs::Fault::on(action).nth(1).delay(HELD)),
        Answer::Kubernetes(verb, resource, nth) => {
            proxy.fault(Fault::request(verb, resource, nth, Effect::Delay(HELD)));
        }
    }
    let spec = json!({ "revisions": ["web:1"], "inUse": "Retire" });
    world.apply("web", spec).await.expect("it is admitted");
    let is_held = || match answer {
        Answer::Aws(action) => !world.ecs.calls_of(action).is_empty(),
        Answer::Kubernetes(..) => proxy.log().iter().any(|it| matches!(it.effect, Some(Effect::Delay(_)))),
    };
    wait(is_held).await;
    first.signal(Signal::STOP).expect("a signal can be sent");
    let stopped = Instant::now();
    second.wait_for_log(" leading", DEADLINE).await.expect("the second leads");
    match answer {
        Answer::Aws(DEREGISTER) => drop(world.wait_ready("web").await),
        // As soon as it has acted: an answer that is too old is believed by nobody.
        _ => wait(|| !world.ecs.calls_of(DEREGISTER).is_empty()).await,
    }

    first.signal(Signal::CONT).expect("a signal can be sent");
    // Once it has looked at the lease again and again, what it was about to do is done.
    let resumed = Instant::now();
    let looks = || proxy.log().iter().filter(|it| it.request.resource == "leases" && it.at > resumed).count();
    wait(|| looks() >= 3).await;
    world.wait_ready("web").await;
    world.wait_until_all_is_seen().await;
    let arn = world.west.arn("web:1");
    let mut calls = world.ecs.calls_of(DEREGISTER);
    calls.retain(|call| call.task_definition.as_ref() == Some(&arn));
    let late = calls.iter().filter(|call| call.access_key == FIRST && call.at > stopped).count();
    (calls.len(), late)
}

async fn wait(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE);
        sleep(Duration::from_millis(20)).await;
    }
}

async fn judge(what: &str, answers: Vec<Answer>, renews: bool) {
    let (began, runs) = (Instant::now(), answers.len());
    let results: Vec<_> = stream::iter(answers)
        .map(|answer| async move { (answer, deregistrations(answer, renews).await) })
        .buffer_unordered(runs)
        .collect()
        .await;
    let broken: Vec<_> = results.iter().filter(|(_, counts)| *counts != (1, 0)).collect();
    let seconds = began.elapsed().as_secs_f64();
    writeln!(stderr(), "{what}: {runs} runs, {} violations, {seconds:.0} s", broken.len()).ok();
    assert!(broken.is_empty(), "calls, and those of the paused one: {broken:?}");
}

#[tokio::test]
async fn a_leader_that_is_paused_at_any_answer_deregisters_nothing_when_it_goes_on() {
    judge("a leader paused", ANSWERS.to_vec(), true).await;
}

#[tokio::test]
async fn a_leader_that_is_paused_when_its_lease_has_nearly_run_out_deregisters_nothing() {
    judge("a leader paused that cannot renew", vec![RIGHT_BEFORE], false).await;
}
