//! etcd restore: the controller sees what the API server stores, even if every watch is rejected.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde_json::json;
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault, Verb},
    control_plane::ControlPlane,
    process::free_port,
    simulated_ecs::{self, Action},
};

use crate::support::{CRD, DEADLINE, World, stop, wait_for_page};

/// How long a restored resource may remain unseen: far below ten minutes, and enough for a loaded
/// machine.
const SEEN_WITHIN: Duration = Duration::from_mins(2);

/// Creates objects, so that the resource version exceeds what the API server writes at startup.
async fn write(world: &World<'_>, count: u32) {
    let api: Api<ConfigMap> = world.namespace.api();
    for number in 0..count {
        let object = json!({ "metadata": { "generateName": format!("filler-{number}-") } });
        let object: ConfigMap = serde_json::from_value(object).expect("a config map");
        api.create(&PostParams::default(), &object).await.expect("it is created");
    }
}

#[tokio::test]
async fn resources_are_seen_after_a_restore_of_etcd() {
    let plane = ControlPlane::start().await.expect("a control plane");
    let world = World::on(&plane, CRD).await;
    world.west.register_many("web", 5);
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let mut controller = world.start_with(&[
        ("LEADER_ELECT", "true"),
        ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
        ("METRICS_BIND_ADDRESS", &metrics),
    ]);
    world.declare("retired", &["web:1"]).await;
    world.wait_ready("retired").await;
    world.ecs.fault(simulated_ecs::Fault::on(Action::DescribeTaskDefinition).revision("web:2").throttle());
    world.declare("throttled", &["web:2"]).await;
    world.wait("throttled", "Throttled", |seen| seen.reason("web:2") == "Throttled").await;
    plane.back_up().await.expect("a backup");

    world.ecs.clear_faults();
    world.wait_for("throttled", "Ready=True", SEEN_WITHIN, |seen| seen.ready() == "True").await;
    write(&world, 1_000).await;
    world.declare("lost", &["web:3"]).await;
    world.wait_ready("lost").await;

    plane.restore().await.expect("the backup is restored");
    assert!(world.api().get_opt("lost").await.expect("a response").is_none(), "it is newer than the backup");
    // The backup has `throttled` with Ready=False. The controller may correct it at once.
    world.declare("new", &["web:4"]).await;
    for name in ["new", "throttled"] {
        world.wait_for(name, "Ready=True", SEEN_WITHIN, |seen| seen.ready() == "True").await;
    }
    // The lost resource has left the cache.
    wait_for_page(&format!("{metrics}/metrics"), "ecs_retirement_resources{condition=\"Ready\"} 3\n").await;
    // The same name as before the restore, but another resource.
    world.declare("lost", &["web:5"]).await;
    world.wait_for("lost", "Ready=True", SEEN_WITHIN, |seen| seen.ready() == "True").await;
    assert_eq!(world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 5, "one call per revision");
    stop(&mut controller).await;
    assert!(controller.log().contains("lease released"), "{}", controller.log());
}

#[tokio::test]
async fn resources_are_seen_although_every_watch_is_rejected_with_504() {
    let world = World::new().await;
    let proxy = ApiProxy::in_front_of(world.namespace.control_plane()).await.expect("a proxy");
    proxy.fault(
        Fault::request(Verb::Watch, "taskdefinitionretirements", 1, Effect::Refuse(504)).times(u32::MAX - 1),
    );
    let kubeconfig = proxy.kubeconfig().display().to_string();
    let _controller = world.start_with(&[("KUBECONFIG", &kubeconfig)]);
    assert!(proxy.wait_until_faults_applied(1, DEADLINE).await, "the controller watches");
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    world.wait_ready("web").await;
}
