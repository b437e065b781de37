//! Tests of the control plane, the ECS emulators, kstatus and processes.

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
async fn api_server_responds_to_a_client_and_to_kubectl() {
    let plane = ControlPlane::shared().await;
    let version = plane.client().apiserver_version().await.expect("the server reports its version");
    assert_eq!(version.major, "1");
    let namespaces = plane.kubectl(&["get", "namespaces", "-o", "name"]).await.expect("kubectl succeeds");
    assert!(namespaces.contains("namespace/default\n"), "{namespaces}");
    let error = plane.kubectl(&["get", "unicorns"]).await.expect_err("the kind does not exist");
    assert!(error.contains("unicorns"), "{error}");
}

#[tokio::test]
async fn namespaces_are_isolated() {
    let (one, other) = (Namespace::fresh().await, Namespace::fresh().await);
    for namespace in [&one, &other] {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "same"},
            "data": {"of": namespace.name()},
        });
        namespace.apply(manifest).await.expect("the manifest is valid");
    }
    for namespace in [&one, &other] {
        let found = namespace.api::<ConfigMap>().get("same").await.expect("the config map was applied");
        assert_eq!(found.data.expect("the config map has data")["of"], namespace.name());
    }
    assert!(one.kubectl(&["get", "configmap", "same"]).await.is_ok());
}

#[tokio::test]
async fn apply_returns_the_error_message_of_the_api_server() {
    let namespace = Namespace::fresh().await;
    let error = namespace
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper}}")
        .await
        .expect_err("names are lower case");
    assert!(error.contains("lower case alphanumeric"), "{error}");
    let error = namespace
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: typo}, dato: {}}")
        .await
        .expect_err("the field does not exist");
    assert!(error.contains("dato"), "{error}");
}

#[tokio::test]
async fn install_crds_returns_once_objects_can_be_applied() {
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
    let moon = |phase| {
        json!({
            "apiVersion": "testkit.dev/v1",
            "kind": "Moon",
            "metadata": {"name": "io"},
            "spec": {"phase": phase},
        })
    };
    let applied = namespace.apply(moon("full")).await.expect("the object matches the schema");
    assert_eq!(applied.namespace().as_deref(), Some(namespace.name()));
    let error = namespace.apply(moon("blue")).await.expect_err("the schema does not allow the phase");
    assert!(error.contains("spec.phase: Unsupported value"), "{error}");
}

#[tokio::test]
async fn service_account_token_is_accepted_by_the_api_server() {
    let namespace = Namespace::fresh().await;
    namespace
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}}")
        .await
        .expect("the manifest is valid");
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token = namespace
        .api::<ServiceAccount>()
        .create_token_request("robot", &PostParams::default(), &request)
        .await
        .expect("the server signs tokens")
        .status
        .expect("the response contains the token")
        .token;
    let kubeconfig = namespace.control_plane().kubeconfig_for("robot", &token).expect("the file is written");
    let whoami = namespace
        .kubectl(&["--kubeconfig", &kubeconfig.to_string_lossy(), "auth", "whoami"])
        .await
        .expect("the token is valid");
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
async fn kstatus_computes_a_status_and_reports_invalid_objects() {
    let object = |condition: &str| {
        json!({
            "apiVersion": "testkit.dev/v1", "kind": "Moon", "metadata": { "name": "io", "generation": 2 },
            "status": { "observedGeneration": 2, "conditions": [{ "type": condition, "status": "True" }] },
        })
    };
    for (condition, expected) in [("Ready", "Current"), ("Reconciling", "InProgress"), ("Stalled", "Failed")]
    {
        assert_eq!(kstatus::status(&object(condition)).expect("kstatus succeeds"), expected);
    }
    let error = kstatus::status(&json!({ "kind": "Moon", "status": { "conditions": "none" } }));
    assert!(error.is_err_and(|error| error.to_string().starts_with("kstatus: ")));
    assert_eq!(kstatus::status(&object("Ready")).expect("kstatus succeeds after an error"), "Current");
}

#[tokio::test]
async fn process_can_be_stopped_continued_and_terminated() {
    let folder = Folder::create().expect("the folder is created");
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'echo leaving; exit 7' TERM; echo $GREETING; while :; do sleep 0.01; done"]);
    let mut process =
        Process::start(command.env("GREETING", "hello"), &folder.join("log")).expect("sh starts");
    process.wait_for_log("hello\n", SOON).await.expect("the greeting is in the log");
    process.signal(Signal::STOP).expect("the signal is sent");
    process.signal(Signal::TERM).expect("the signal is sent");
    assert_eq!(
        process.wait(Duration::from_millis(200)).await,
        None,
        "a stopped process does not handle signals"
    );
    process.signal(Signal::CONT).expect("the signal is sent");
    let status = process.wait(SOON).await.expect("the process ends");
    assert_eq!(status.code(), Some(7));
    assert_eq!(process.log(), "hello\nleaving\n");
}

#[tokio::test]
async fn control_plane_leaves_nothing_behind_if_it_is_killed() {
    let (mut process, _folder, variables) = control_plane_process().await;
    let children = children_of(process.pid());
    assert!(children.len() >= 3, "expected etcd, kube-apiserver and moto: {children:?}");
    process.kill();
    assert_gone(&variables, &children).await;
}

#[tokio::test]
async fn control_plane_shuts_down_if_its_input_closes() {
    let (mut process, _folder, variables) = control_plane_process().await;
    let children = children_of(process.pid());
    process.close_input();
    let status = process.wait(SOON).await.expect("the process ends");
    assert!(status.success(), "{}", process.log());
    assert_gone(&variables, &children).await;
}

async fn control_plane_process() -> (Process, Folder, Vec<(String, String)>) {
    let folder = Folder::create().expect("the folder is created");
    let file = folder.join("output");
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    let mut process = Process::start(command.arg(&file), &folder.join("log")).expect("the process starts");
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

async fn assert_gone(variables: &[(String, String)], children: &[u32]) {
    let value = |name: &str| {
        &variables.iter().find(|(known, _)| known == name).expect("the variable is in the output").1
    };
    let folder = Path::new(value("KUBECONFIG")).parent().expect("the path has a parent");
    eventually("the folder is removed", || !folder.exists()).await;
    eventually("the child processes end", || !children.iter().any(|pid| is_running(*pid))).await;
    for url in [value("KUBERNETES_URL"), value("AWS_ENDPOINT_URL")] {
        let address = url.split_once("://").expect("the value is a URL").1;
        eventually("the port is closed", || TcpStream::connect(address).is_err()).await;
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("not within the deadline: {what}");
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is readable");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == format!("PPid:\t{parent}")))
    };
    pids.filter(is_child).collect()
}

/// A zombie process has no command line.
fn is_running(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
