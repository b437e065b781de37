//! Releases of the chart: their service account suffices for what their pods do.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, authorization::v1::SubjectAccessReview};
use kube::{Api, api::PostParams};
use serde_json::json;
use testkit::{
    control_plane::ControlPlane,
    helm,
    process::{Process, free_port},
};

use tokio::time::sleep;

use crate::{
    chart_accounts::assert_account_is_served,
    chart_policies::assert_policy_is_served,
    support::{CHART, DEADLINE, POLICY_CRD, World, page, stop},
};

const RELEASE: &str = "retirement";

/// The name of the service account and of the Deployment of a release.
pub const NAME: &str = "retirement-ecs-retirement-controller";

/// Installs the chart in `namespace`.
pub async fn install(plane: &ControlPlane, namespace: &str, values: &[&str]) {
    let arguments = ["install", RELEASE, CHART, "--namespace", namespace, "--create-namespace"];
    helm::on(plane, &[&arguments, values].concat()).await.expect("the chart installs");
}

/// A controller with the arguments and the service account token of a pod of the release.
pub struct Pod {
    process: Process,
    metrics: String,
}

pub async fn start_pod(world: &World<'_>, namespace: &str, name: &str) -> Pod {
    let plane = world.namespace.control_plane();
    let deployments: Api<Deployment> = Api::namespaced(plane.client(), namespace);
    let deployment = deployments.get(NAME).await.expect("the Deployment is there");
    let spec = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod spec");
    let account = spec.service_account_name.expect("pods have an account");
    let arguments = spec.containers[0].args.clone().expect("arguments");
    // Unlike pods in a cluster, the processes share the ports of this machine.
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.contains("bind-address")).collect();

    wait_until_authorized(world, namespace, &account).await;
    let token = plane.kubectl(&["create", "token", &account, "-n", namespace]).await.expect("a token");
    let user = format!("{namespace}-{name}");
    let kubeconfig: PathBuf = plane.kubeconfig_for(&user, token.trim()).expect("a kubeconfig");
    let metrics = format!("127.0.0.1:{}", free_port().expect("a port"));
    let environment = [
        ("KUBECONFIG", kubeconfig.to_str().expect("text")),
        ("POD_NAME", name),
        ("LEADER_ELECTION_NAMESPACE", namespace),
        ("METRICS_BIND_ADDRESS", &metrics),
        ("WATCH_NAMESPACE", ""),
        ("LEADER_ELECT", ""),
    ];
    let process = world.start_as(&arguments, &environment);
    Pod { process, metrics: format!("{metrics}/metrics") }
}

/// Waits until the API server has observed the roles of the release. It refuses requests for some
/// time after they are created.
async fn wait_until_authorized(world: &World<'_>, namespace: &str, account: &str) {
    let requests = [
        ("watch", "ecs-retirement.dev", "ecsaccounts", "", ""),
        ("watch", "ecs-retirement.dev", "taskdefinitionretirements", "", world.namespace.name()),
        ("update", "coordination.k8s.io", "leases", NAME, namespace),
        ("create", "events.k8s.io", "events", "", "default"),
    ];
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let reviews: Api<SubjectAccessReview> = Api::all(world.namespace.client());
    for (verb, group, resource, name, namespace) in requests {
        let attributes = json!({
            "verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace,
        });
        let review: SubjectAccessReview =
            serde_json::from_value(json!({ "spec": { "user": user, "resourceAttributes": attributes } }))
                .expect("a review");
        let began = Instant::now();
        loop {
            let reviewed = reviews.create(&PostParams::default(), &review).await.expect("a review");
            if reviewed.status.is_some_and(|status| status.allowed) {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{user} may not {verb} {resource} in {namespace:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Pod {
    /// Asserts that the API server refused nothing, and that each of `requests` was made.
    pub async fn assert_nothing_was_refused(&self, requests: &[&str]) {
        let (_, metrics) = page(&self.metrics).await.expect("metrics are served");
        for request in requests {
            assert!(
                metrics.contains(&format!("rest_client_requests_total{{{request}}}")),
                "{request}: {metrics}"
            );
        }
        for output in [&metrics, &self.process.log()] {
            let refused =
                ["\"401\"", "\"403\"", "orbidden", "nauthorized"].iter().find(|word| output.contains(**word));
            assert_eq!(refused, None, "{output}");
        }
    }
}

/// Starts two pods of the release. Asserts that the first leads and retires, and that the second
/// takes over after it stops.
async fn assert_release_works(world: &World<'_>, release: &str) {
    world.west.register_many("web", 3);
    let mut first = start_pod(world, release, "first").await;
    first.process.wait_for_log(" leading", DEADLINE).await.expect("the first leads");
    let mut second = start_pod(world, release, "second").await;
    second.process.wait_for_log("started", DEADLINE).await.expect("the second stands by");
    world.declare("web-1", &["web:1"]).await;
    world.wait_ready("web-1").await;
    let began = Instant::now();
    // The event is published after the status is written.
    while !world.namespace.kubectl(&["events"]).await.is_ok_and(|events| events.contains("Retired")) {
        assert!(began.elapsed() < DEADLINE, "no event: {}", first.process.log());
    }
    assert_account_is_served(world, release).await;
    assert_policy_is_served(world).await;
    let asked = [
        r#"method="POST",code="201""#,
        r#"method="PUT",code="200""#,
        r#"method="PATCH",code="200""#,
        r#"method="GET",code="200""#,
    ];
    first.assert_nothing_was_refused(&asked).await;

    stop(&mut first.process).await;
    second.process.wait_for_log(" leading", DEADLINE).await.expect("the second leads");
    world.declare("web-2", &["web:2", "web:99"]).await;
    world.wait_until_blocked("web-2").await;
    world.delete("web-2").await;
    world.declare("web-3", &["web:3"]).await;
    world.wait_ready("web-3").await;
    second.assert_nothing_was_refused(&asked[1..]).await;
}

#[tokio::test]
async fn service_account_suffices_to_lead_and_to_retire() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    install(&plane, "ecs-retirement", &["--set=controllerName=ecs-retirement"]).await;
    let world = World::on(&plane, "").await;
    assert_release_works(&world, "ecs-retirement").await;
}

#[tokio::test]
async fn controller_with_watch_namespaces_works_only_in_them() {
    let world = World::new().await;
    let unwatched = World::new().await;
    world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
    let release = format!("release-{}", world.namespace.name());
    let watched = format!("--set=crds.enabled=false,watchNamespaces={{{}}}", world.namespace.name());
    let named = format!("--set=controllerName={release}");
    install(world.namespace.control_plane(), &release, &[&watched, &named]).await;
    unwatched.west.register("web");
    unwatched.declare("web", &["web:1"]).await;
    assert_release_works(&world, &release).await;
    assert_eq!(unwatched.seen("web").await.number("observedGeneration"), -1, "it is not reconciled");
}
