//! AWS and Kubernetes calls: no more than the work needs, and no resource delays another.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use testkit::{
    process::free_port,
    simulated_ecs::{Action, Fault},
};

use crate::support::{DEADLINE, World, page, stop};

const DESCRIBE: Action = Action::DescribeTaskDefinition;
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

#[tokio::test]
async fn permanent_refusal_causes_only_calls_with_backoff_and_no_status_writes() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.fault(Fault::on(DEREGISTER).access_denied());
    let spec = json!({ "revisions": ["web:1"], "inUse": "Retire" });
    world.apply("web", spec).await.expect("admitted");
    let _controller = world.start();
    let first = world.wait_until_blocked("web").await;

    let calls = world.ecs.wait_for_calls(DEREGISTER, 4, Duration::from_mins(1)).await;
    let last = world.seen("web").await;
    assert_eq!(first.version(), last.version(), "an unchanged situation causes no write: {first} {last}");
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_secs(5)), "{pauses:?}");
    assert!(pauses[2] > pauses[0] + Duration::from_secs(2), "the delay grows: {pauses:?}");
    assert_eq!(
        world.ecs.calls_of(DESCRIBE).len(),
        calls.len(),
        "one DescribeTaskDefinition call per attempt"
    );
}

#[tokio::test]
async fn ecs_outage_causes_one_call_at_a_time_and_no_status_writes() {
    let world = World::new().await;
    world.west.register_many("web", 3);
    world.ecs.fault(Fault::on(DESCRIBE).unavailable());
    world.declare("web", &["web:1", "web:2", "web:3"]).await;
    let _controller = world.start();
    let is_unavailable = |seen: &crate::support::Seen| seen.reason("web:3") == "Unavailable";
    let first = world.wait("web", "Unavailable", is_unavailable).await;
    assert_eq!(first.ready_reason(), "Unavailable", "{first}");
    let so_far = world.ecs.calls_of(DESCRIBE).len();
    assert_eq!(so_far, 3, "the reconcile stops at the first sign of an outage");

    let calls = world.ecs.wait_for_calls(DESCRIBE, so_far + 2, DEADLINE).await;
    assert!(calls[so_far + 1].at - calls[so_far].at >= Duration::from_secs(2));
    assert_eq!(first.version(), world.seen("web").await.version());
    world.ecs.clear_faults();
    world.wait_ready("web").await;
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 3);
}

#[tokio::test]
async fn retired_revision_costs_one_deregister_call_and_two_describe_calls() {
    let world = World::new().await;
    world.west.register_many("web", 25);
    let declared: Vec<String> = (1..=25).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start();
    world.wait_ready("web").await;
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 25);
    let describes = world.ecs.calls_of(DESCRIBE);
    let took = describes[describes.len() - 1].at - describes[0].at;
    // One more if usage was not known yet. A batch that takes two seconds ends early, and up to
    // nine revisions of it are described again.
    let batches_cut = usize::try_from(took.as_secs() / 2).expect("a small number");
    let expected = 50..=51 + 9 * batches_cut;
    assert!(expected.contains(&describes.len()), "{} in {took:?}, expected {expected:?}", describes.len());
    assert_eq!(world.ecs.calls_of(Action::ListClusters).len(), 1);
    assert_eq!(world.ecs.calls_of(Action::GetCallerIdentity).len(), 1);
}

#[tokio::test]
async fn large_resource_delays_a_small_one_by_at_most_one_batch() {
    let world = World::new().await;
    world.west.register_many("large", 60);
    world.west.register("small");
    let declared: Vec<String> = (1..=60).map(|number| format!("large:{number}")).collect();
    world.apply("large", json!({ "revisions": declared })).await.expect("admitted");
    let (namespace, client) = (world.namespace.name().to_owned(), world.namespace.client());
    world.ecs.before(DEREGISTER, 1, async move {
        let api: kube::Api<kube::api::DynamicObject> =
            kube::Api::namespaced_with(client, &namespace, &crate::support::kind());
        let mut small = kube::api::DynamicObject::new("small", &crate::support::kind());
        small.data = json!({ "spec": { "revisions": ["small:1"] } });
        api.create(&kube::api::PostParams::default(), &small).await.expect("the resource is admitted");
    });
    let _controller = world.start_with(&[("MAX_CONCURRENT_RECONCILES", "1")]);
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    world.wait_ready("large").await;
    world.wait_ready("small").await;
    let small = world.west.arn("small:1");
    let calls = world.ecs.calls_of(DEREGISTER);
    let before = calls.iter().position(|call| call.task_definition.as_ref() == Some(&small));
    assert!(
        before.is_some_and(|before| before <= 20),
        "{before:?} revisions of the large resource came first"
    );
}

#[tokio::test]
async fn resources_that_wait_for_a_worker_are_reconciled_first_come_first_served() {
    let world = World::new().await;
    for family in 1..=8 {
        let family = format!("web-{family}");
        world.west.register_many(&family, 50);
        let declared: Vec<String> = (1..=50).map(|number| format!("{family}:{number}")).collect();
        world.apply(&family, json!({ "revisions": declared })).await.expect("admitted");
    }
    let _controller = world.start_with(&[("MAX_CONCURRENT_RECONCILES", "1")]);
    let calls = world.ecs.wait_for_calls(DEREGISTER, 400, Duration::from_mins(2)).await;
    let mut counts = BTreeMap::<&str, usize>::new();
    let names = calls.iter().filter_map(|call| call.task_definition.as_deref());
    for name in names {
        let family = name.rsplit('/').next().and_then(|it| it.split(':').next()).unwrap_or_default();
        *counts.entry(family).or_default() += 1;
        if counts[family] > 20 {
            break;
        }
    }
    assert_eq!(counts.len(), 8, "each has had a batch before another has its third: {counts:?}");
}

#[tokio::test]
async fn revisions_that_always_fail_do_not_delay_the_others() {
    let world = World::new().await;
    world.west.register_many("web", 30);
    for number in 1..=12 {
        world.ecs.fault(Fault::on(DESCRIBE).revision(format!("web:{number}")).server_error());
    }
    let declared: Vec<String> = (1..=30).map(|number| format!("web:{number}")).collect();
    world.apply("web", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start();
    let seen = world.wait("web", "18 retired", |seen| seen.number("retired") == 18).await;
    assert_eq!(seen.number("waiting"), 12);
}

#[tokio::test]
async fn final_resources_are_not_reconciled_after_a_restart_or_a_leader_change() {
    let world = World::new().await;
    world.west.register_many("web", 20);
    let resources: Vec<String> = (1..=20).map(|number| format!("web-{number}")).collect();
    for name in &resources {
        world.declare(name, &[&name.replace('-', ":")]).await;
    }
    let mut controller = world.start();
    for name in &resources {
        world.wait_ready(name).await;
    }
    stop(&mut controller).await;

    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let _controller = world.start_with(&[
        ("LEADER_ELECT", "true"),
        ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
        ("METRICS_BIND_ADDRESS", &metrics),
    ]);
    world.wait_until_all_is_seen().await;
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let adds = "workqueue_adds_total{name=\"taskdefinitionretirement\"} ";
    let queued = text.lines().find_map(|line| line.strip_prefix(adds)?.parse::<u32>().ok());
    assert!(queued.is_some_and(|queued| queued < 20), "only the fence is queued: {text}");
}
