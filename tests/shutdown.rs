//! SIGTERM ends the controller with code 0 within two seconds; only deregistrations are awaited.

use std::{fs, time::Duration};

use serde_json::json;
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault as ApiFault, Verb},
    process::{Folder, Process, Signal},
    simulated_ecs::{Action, Fault, Service},
};
use tokio::{net::TcpListener, time::Instant};

use crate::support::{DEADLINE, World};

const DESCRIBE: Action = Action::DescribeTaskDefinition;
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

const LIMIT: Duration = Duration::from_secs(2);

/// The limit if the release of the lease hangs, which takes one second itself. Any other timeout
/// that could end the process takes at least five seconds. `make bench` measures the goal of two
/// seconds.
const LIMIT_WITHOUT_RELEASE: Duration = Duration::from_secs(4);

/// Sends SIGTERM. Returns how long the controller took to end, with code 0.
async fn terminate(controller: &mut Process) -> Duration {
    let began = Instant::now();
    controller.signal(Signal::TERM).expect("a signal can be sent");
    let status = controller.wait(DEADLINE).await.expect("the controller ends");
    assert!(status.success(), "{status}: {}", controller.log());
    began.elapsed()
}

async fn assert_ends_in_time(controller: &mut Process, pending: &str) {
    assert_ends_within(LIMIT, controller, pending).await;
}

async fn assert_ends_within(limit: Duration, controller: &mut Process, pending: &str) {
    let took = terminate(controller).await;
    println!("stop on SIGTERM, {pending} pending: {:.2} s", took.as_secs_f64());
    assert!(took <= limit, "{pending}: {took:?}");
}

#[tokio::test]
async fn shutdown_abandons_calls_to_aws_that_hang() {
    for action in [Action::GetCallerIdentity, DESCRIBE, Action::ListClusters, Action::DescribeServices] {
        let world = World::new().await;
        world.west.register("web");
        world.west.cluster("prod").put_service(Service::steady("shop", "web:1"));
        world.ecs.fault(Fault::on(action).hang());
        world.declare("web", &["web:1"]).await;
        let election = [("LEADER_ELECT", "true"), ("LEADER_ELECTION_NAMESPACE", world.namespace.name())];
        let mut controller = world.start_with(&election);
        world.ecs.wait_for_calls(action, 1, DEADLINE).await;
        assert_ends_in_time(&mut controller, action.name()).await;
        assert!(controller.log().contains("lease released"), "{}", controller.log());
    }
}

#[tokio::test]
async fn shutdown_abandons_credentials_that_are_not_provided() {
    let world = World::new().await;
    world.west.register("web");
    let provider = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/credentials", provider.local_addr().expect("an address"));
    world.declare("web", &["web:1"]).await;
    let mut controller = world.start_with(&[
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url),
    ]);
    let connection = tokio::time::timeout(DEADLINE, provider.accept()).await.expect("credentials are loaded");
    assert_ends_in_time(&mut controller, "credentials").await;
    drop(connection);
}

#[tokio::test]
async fn shutdown_abandons_requests_to_kubernetes_that_hang() {
    let requests = [
        (Verb::List, "taskdefinitionretirements"),
        (Verb::Get, "taskdefinitionretirements"),
        (Verb::Patch, "taskdefinitionretirements/status"),
        (Verb::Get, "leases"),
        (Verb::Create, "leases"),
        (Verb::Update, "leases"),
    ];
    for (verb, resource) in requests {
        let world = World::new().await;
        world.west.register("web");
        let proxy = ApiProxy::in_front_of(world.namespace.control_plane()).await.expect("a proxy");
        proxy.fault(ApiFault::request(verb, resource, 1, Effect::Hang).times(1_000));
        let kubeconfig = proxy.kubeconfig().display().to_string();
        world.declare("web", &["web:1"]).await;
        let mut controller = world.start_with(&[
            ("KUBECONFIG", &kubeconfig),
            ("LEADER_ELECT", "true"),
            ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
        ]);
        assert!(proxy.wait_until_faults_applied(1, DEADLINE).await, "{verb:?} {resource}");
        let limit = if resource == "leases" { LIMIT_WITHOUT_RELEASE } else { LIMIT };
        assert_ends_within(limit, &mut controller, &format!("{verb:?} {resource}")).await;
    }
}

#[tokio::test]
async fn shutdown_is_possible_before_the_api_server_responds() {
    let world = World::new().await;
    let server = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let folder = Folder::create().expect("a folder");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "clusters": [{ "name": "none", "cluster": {
            "server": format!("http://{}", server.local_addr().expect("an address")),
        } }],
        "users": [{ "name": "none", "user": {} }],
        "contexts": [{ "name": "none", "context": { "cluster": "none", "user": "none" } }],
    });
    let path = folder.join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).expect("the file can be written");
    let path = path.display().to_string();
    let mut controller = world.start_with(&[("KUBECONFIG", &path), ("LEADER_ELECT", "true")]);
    let connection = tokio::time::timeout(DEADLINE, server.accept()).await.expect("it connects");
    assert_ends_in_time(&mut controller, "the API server").await;
    drop(connection);
}

#[tokio::test]
async fn shutdown_waits_for_a_deregistration_and_records_its_response_without_another_call() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.ecs.fault(Fault::on(DEREGISTER).delay(Duration::from_secs(4)));
    let spec = json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" });
    world.apply("web", spec).await.expect("admitted");
    let mut controller = world.start();
    let calls = world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let took = terminate(&mut controller).await;
    assert!(took > LIMIT && took < Duration::from_secs(8), "{took:?}");
    let seen = world.seen("web").await;
    assert_eq!(seen.reason("web:1"), "Retired", "{seen}");
    assert_eq!(seen.row("web:1")["requestId"], calls[0].request_id, "{seen}");
    assert_eq!(world.ecs.calls_of(DESCRIBE).len(), 2, "only before the call");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1, "the other revision is not deregistered");
}

#[tokio::test]
async fn shutdown_records_a_response_although_the_next_read_hangs() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.fault(Fault::on(DESCRIBE).nth(2).hang());
    world.apply("web", json!({ "revisions": ["web:1"], "inUse": "Retire" })).await.expect("admitted");
    let mut controller = world.start();
    world.ecs.wait_for_calls(DESCRIBE, 2, DEADLINE).await;
    assert_ends_in_time(&mut controller, "the second DescribeTaskDefinition").await;
    let calls = world.ecs.calls_of(DEREGISTER);
    let seen = world.seen("web").await;
    assert_eq!(seen.row("web:1")["requestId"], calls[0].request_id, "{seen}");
}
