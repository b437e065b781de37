//! The control plane, the emulators of ECS, kstatus and the processes behave as the tests expect.

use std::{fs, net::TcpStream, path::Path, process::Command, time::Duration};

use aws_sdk_ecs::types::TaskDefinitionStatus;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{ResourceExt, api::PostParams};
use serde_json::json;
use testkit::{
    control_plane::ControlPlane,
    emulator::{Emulator, Product},
    kstatus,
    namespace::Namespace,
    process::{Folder, Process, Signal},
};
use tokio::time::sleep;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_api_server_answers_a_client_and_kubectl() {
    let plane = ControlPlane::shared().await;
    let version = plane.client().apiserver_version().await.expect("the server tells its version");
    assert_eq!(version.major, "1");
    let namespaces = plane.kubectl(&["get", "namespaces", "-o", "name"]).await.expect("kubectl works");
    assert!(namespaces.contains("namespace/default\n"), "{namespaces}");
    let refusal = plane.kubectl(&["get", "unicorns"]).await.expect_err("there is no such kind");
    assert!(refusal.contains("unicorns"), "{refusal}");
}

#[tokio::test]
async fn each_test_has_a_namespace_to_itself() {
    let (one, other) = (Namespace::fresh().await, Namespace::fresh().await);
    for namespace in [&one, &other] {
        let manifest = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "same"}, "data": {"of": namespace.name()},
        });
        namespace.apply(manifest).await.expect("the manifest is right");
    }
    for namespace in [&one, &other] {
        let found = namespace.api::<ConfigMap>().get("same").await.expect("it was applied");
        assert_eq!(found.data.expect("it has data")["of"], namespace.name());
    }
    assert!(one.kubectl(&["get", "configmap", "same"]).await.is_ok());
}

#[tokio::test]
async fn a_refusal_is_the_text_of_the_api_server() {
    let namespace = Namespace::fresh().await;
    let refusal = namespace
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper}}")
        .await
        .expect_err("names are lower case");
    assert!(refusal.contains("lower case alphanumeric"), "{refusal}");
    let refusal = namespace
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: typo}, dato: {}}")
        .await
        .expect_err("there is no such field");
    assert!(refusal.contains("dato"), "{refusal}");
}

#[tokio::test]
async fn an_object_can_be_applied_as_soon_as_its_definition_is_installed() {
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: moons.testkit.dev}
spec:
  group: testkit.dev
  scope: Namespaced
  names: {kind: Moon, plural: moons}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {phase: {type: string, enum: [new, full]}}}}
";
    let namespace = Namespace::fresh().await;
    let twice = tokio::join!(namespace.install_crds(definition), namespace.install_crds(definition));
    assert_eq!(twice, (Ok(()), Ok(())));
    let moon = |phase| json!({"apiVersion": "testkit.dev/v1", "kind": "Moon", "metadata": {"name": "io"}, "spec": {"phase": phase}});
    let applied = namespace.apply(moon("full")).await.expect("it follows the schema");
    assert_eq!(applied.namespace().as_deref(), Some(namespace.name()));
    let refusal = namespace.apply(moon("blue")).await.expect_err("the schema has no such phase");
    assert!(refusal.contains("spec.phase: Unsupported value"), "{refusal}");
}

#[tokio::test]
async fn a_service_account_has_a_real_token() {
    let namespace = Namespace::fresh().await;
    namespace
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}}")
        .await
        .expect("the manifest is right");
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token = namespace
        .api::<ServiceAccount>()
        .create_token_request("robot", &PostParams::default(), &request)
        .await
        .expect("the server signs tokens")
        .status
        .expect("the answer holds the token")
        .token;
    let kubeconfig = namespace.control_plane().kubeconfig_for("robot", &token).expect("the folder is there");
    let whoami = namespace
        .kubectl(&["--kubeconfig", &kubeconfig.to_string_lossy(), "auth", "whoami"])
        .await
        .expect("the token is good");
    assert!(whoami.contains(&format!("system:serviceaccount:{}:robot", namespace.name())), "{whoami}");
}

#[tokio::test]
async fn emulators_register_describe_and_deregister() {
    for product in [Product::Moto, Product::Ministack] {
        let emulator = Emulator::start(product).await.expect("the emulator starts");
        let revision = emulator.register("web").await;
        assert_eq!(revision, "web:1", "{product:?}");
        assert_eq!(emulator.status(&revision).await, Some(TaskDefinitionStatus::Active), "{product:?}");
        let request = emulator.client().deregister_task_definition().task_definition(&revision);
        request.send().await.expect("the emulator deregisters");
        assert_eq!(emulator.status(&revision).await, Some(TaskDefinitionStatus::Inactive), "{product:?}");
        assert_eq!(emulator.status("web:2").await, None, "{product:?}");
    }
}

#[tokio::test]
async fn kstatus_computes_a_status_per_object_and_reports_what_is_not_one() {
    let object = |condition: &str| {
        json!({
            "apiVersion": "testkit.dev/v1", "kind": "Moon", "metadata": { "name": "io", "generation": 2 },
            "status": { "observedGeneration": 2, "conditions": [{ "type": condition, "status": "True" }] },
        })
    };
    for (condition, expected) in [("Ready", "Current"), ("Reconciling", "InProgress"), ("Stalled", "Failed")]
    {
        assert_eq!(kstatus::status(&object(condition)).expect("kstatus runs"), expected);
    }
    let error = kstatus::status(&json!({ "kind": "Moon", "status": { "conditions": "none" } }));
    assert!(error.is_err_and(|error| error.to_string().starts_with("kstatus: ")));
    assert_eq!(kstatus::status(&object("Ready")).expect("it serves the next caller"), "Current");
}

#[tokio::test]
async fn a_process_can_be_stopped_continued_asked_to_end_and_read() {
    let folder = Folder::create().expect("there is room");
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'echo leaving; exit 7' TERM; echo $GREETING; while :; do sleep 0.01; done"]);
    let mut process = Process::start(command.env("GREETING", "hello"), &folder.join("log"))
        .expect("every system has a shell");
    process.wait_for_log("hello\n", SOON).await.expect("it prints its greeting");
    process.signal(Signal::STOP).expect("the process is ours");
    process.signal(Signal::TERM).expect("the process is ours");
    assert_eq!(
        process.wait(Duration::from_millis(200)).await,
        None,
        "a stopped process does not handle signals"
    );
    process.signal(Signal::CONT).expect("the process is ours");
    let status = process.wait(SOON).await.expect("it ends");
    assert_eq!(status.code(), Some(7));
    assert_eq!(process.log(), "hello\nleaving\n");
}

#[tokio::test]
async fn nothing_outlives_a_control_plane_that_is_killed() {
    let (mut process, _folder, announced) = control_plane_process().await;
    let children = children_of(process.pid());
    assert!(children.len() >= 3, "etcd, kube-apiserver and moto: {children:?}");
    process.kill();
    assert_gone(&announced, &children).await;
}

#[tokio::test]
async fn a_control_plane_ends_cleanly_when_its_input_closes() {
    let (mut process, _folder, announced) = control_plane_process().await;
    let children = children_of(process.pid());
    process.close_input();
    let status = process.wait(SOON).await.expect("it leaves");
    assert!(status.success(), "{}", process.log());
    assert_gone(&announced, &children).await;
}

async fn control_plane_process() -> (Process, Folder, Vec<(String, String)>) {
    let folder = Folder::create().expect("there is room");
    let file = folder.join("announced");
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    let mut process = Process::start(command.arg(&file), &folder.join("log")).expect("the binary was built");
    let line = loop {
        if let Ok(line) = fs::read_to_string(&file) {
            break line;
        }
        assert!(process.is_running(), "{}", process.log());
        sleep(Duration::from_millis(20)).await;
    };
    let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    (process, folder, line.split_whitespace().filter_map(pair).collect())
}

async fn assert_gone(announced: &[(String, String)], children: &[u32]) {
    let value = |name: &str| &announced.iter().find(|(known, _)| known == name).expect("it was announced").1;
    let folder = Path::new(value("KUBECONFIG")).parent().expect("the file is in a folder");
    eventually("its folder is removed", || !folder.exists()).await;
    eventually("its children have ended", || !children.iter().any(|pid| is_running(*pid))).await;
    for url in [value("KUBERNETES_URL"), value("AWS_ENDPOINT_URL")] {
        let address = url.split_once("://").expect("it is a URL").1;
        eventually("it no longer listens", || TcpStream::connect(address).is_err()).await;
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("this is Linux");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == format!("PPid:\t{parent}")))
    };
    pids.filter(is_child).collect()
}

/// A process that has ended but was not yet waited for has no command line.
fn is_running(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
