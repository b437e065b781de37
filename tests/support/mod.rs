//! Support for the end-to-end tests: a namespace, a simulated ECS, and the real binary.

pub mod api_reference;
pub mod invariants;
pub mod metrics;
pub mod peer;
mod seen;

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use testkit::{
    control_plane::ControlPlane,
    namespace::Namespace,
    process::{self, Folder, Process, Signal},
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Region, SimulatedEcs},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

pub use seen::{HEALTH_CHECK, Seen, Verdict};

/// How long a test waits for a condition.
pub const DEADLINE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

pub const REGION: &str = "us-west-2";

/// The generated CRD of retirements, as it is committed.
pub const CRD: &str = include_str!("../../crds/ecs-retirement.dev_taskdefinitionretirements.yaml");

/// The generated CRD of `EcsAccounts`, as it is committed.
pub const ACCOUNT_CRD: &str = include_str!("../../crds/ecs-retirement.dev_ecsaccounts.yaml");

/// The generated CRD of retention policies, as it is committed.
pub const POLICY_CRD: &str =
    include_str!("../../crds/ecs-retirement.dev_taskdefinitionretentionpolicies.yaml");

/// The Helm chart, from the root of the repository.
pub const CHART: &str = "charts/ecs-retirement-controller";

/// A namespace and a simulated ECS for one test. A controller runs once it is started.
pub struct World<'plane> {
    pub namespace: Namespace<'plane>,
    pub ecs: SimulatedEcs,
    /// The account and region of the controller.
    pub west: Region,
    folder: Folder,
}

/// Returns the kind by its names, independently of the product's code.
pub fn kind() -> ApiResource {
    let kind = GroupVersionKind::gvk("ecs-retirement.dev", "v1alpha1", "TaskDefinitionRetirement");
    ApiResource::from_gvk_with_plural(&kind, "taskdefinitionretirements")
}

impl World<'static> {
    /// Creates a namespace on the shared API server with the released CRD.
    pub async fn new() -> Self {
        Self::on(ControlPlane::shared().await, CRD).await
    }
}

impl<'plane> World<'plane> {
    /// Creates a namespace on `plane`. Installs `crd` as the CRD of retirements, and the CRD of
    /// `EcsAccounts`; neither if `crd` is empty.
    pub async fn on(plane: &'plane ControlPlane, crd: &str) -> Self {
        let namespace = Namespace::on(plane).await;
        if !crd.is_empty() {
            namespace.install_crds(crd).await.expect("the CRD installs");
            namespace.install_crds(ACCOUNT_CRD).await.expect("the CRD installs");
        }
        let ecs = SimulatedEcs::start().await;
        let west = ecs.region(ACCOUNT, REGION);
        Self { namespace, ecs, west, folder: Folder::create().expect("a folder for logs") }
    }

    /// Starts the controller on this namespace and this ECS.
    pub fn start(&self) -> Process {
        self.start_with(&[])
    }

    /// Starts the controller with additional or changed environment variables. An empty value
    /// removes one.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Process {
        self.start_as(&["run"], environment)
    }

    /// Starts the controller with `arguments`, which take precedence over environment variables.
    pub fn start_as(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
        let mut variables = BTreeMap::from([
            ("KUBECONFIG", self.namespace.control_plane().kubeconfig().display().to_string()),
            ("WATCH_NAMESPACE", self.namespace.name().to_owned()),
            ("AWS_ENDPOINT_URL", self.ecs.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("LEADER_ELECT", "false".to_owned()),
            ("DEREGISTRATIONS_PER_SECOND", "1000".to_owned()),
            ("DEREGISTRATION_BURST", "1000".to_owned()),
            ("METRICS_BIND_ADDRESS", "0".to_owned()),
            ("HEALTH_PROBE_BIND_ADDRESS", "0".to_owned()),
        ]);
        variables.extend(environment.iter().map(|(name, value)| (*name, (*value).to_owned())));
        variables.retain(|_, value| !value.is_empty());
        command.args(arguments).envs(variables);
        let name = format!("controller-{:?}.log", std::time::SystemTime::now());
        Process::start(&command, &self.folder.join(&name)).expect("the controller starts")
    }

    pub fn api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.namespace.client(), self.namespace.name(), &kind())
    }

    /// Declares `revisions` in a resource called `name`.
    pub async fn declare(&self, name: &str, revisions: &[&str]) {
        self.apply(name, json!({ "revisions": revisions })).await.expect("the resource is admitted");
    }

    /// Applies a resource with this spec, as a GitOps tool does.
    pub async fn apply(&self, name: &str, spec: Value) -> Result<DynamicObject, String> {
        let manifest = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "TaskDefinitionRetirement",
            "metadata": { "name": name },
            "spec": spec,
        });
        self.namespace.apply(manifest).await
    }

    pub async fn delete(&self, name: &str) {
        self.api().delete(name, &DeleteParams::default()).await.expect("the resource can be deleted");
    }

    /// Requests a reconcile, as `kubectl annotate` does.
    pub async fn request(&self, name: &str, value: &str) {
        let patch = json!({ "metadata": { "annotations": { "ecs-retirement.dev/requestedAt": value } } });
        self.api()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("it can be annotated");
    }

    pub async fn seen(&self, name: &str) -> Seen {
        Seen(self.api().get(name).await.expect("the resource is there"))
    }

    /// Waits until `is_so` returns true for the resource.
    pub async fn wait(&self, name: &str, what: &str, is_so: impl Fn(&Seen) -> bool) -> Seen {
        self.wait_for(name, what, DEADLINE, is_so).await
    }

    pub async fn wait_for(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&Seen) -> bool,
    ) -> Seen {
        let began = Instant::now();
        loop {
            let seen = self.seen(name).await;
            if is_so(&seen) {
                return seen;
            }
            assert!(began.elapsed() < deadline, "{name}: no {what} within {deadline:?}: {seen}");
            sleep(PAUSE).await;
        }
    }

    /// Runs a command of a document in the root of the repository; kubectl uses this namespace.
    /// Returns whether it succeeded, and its output with warnings.
    pub async fn shell(&self, command: &str) -> (bool, String) {
        let admin = fs::read_to_string(self.namespace.control_plane().kubeconfig()).expect("a kubeconfig");
        let mut kubeconfig: Value = serde_json::from_str(&admin).expect("JSON is YAML, too");
        kubeconfig["contexts"][0]["context"]["namespace"] = self.namespace.name().into();
        let path = self.folder.join("namespace.kubeconfig");
        fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig can be written");
        let kubectl = testkit::tools::find("kubectl").expect("kubectl");
        let programs = kubectl.parent().expect("a folder").display();
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1; set -o pipefail; PATH={programs}:$PATH; {command}")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("KUBECONFIG", path)
            .env("HOME", self.folder.join(""));
        let output = process::output(&bash, DEADLINE).await.expect("bash runs and exits");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until every declared revision is retired, and its time is known.
    pub async fn wait_ready(&self, name: &str) -> Seen {
        self.wait(name, "Ready=True", |seen| seen.is_current() && seen.ready() == "True").await
    }

    /// Waits until the controller reports that manual intervention is required, or will be if a
    /// reason with two minutes of grace lasts.
    pub async fn wait_until_blocked(&self, name: &str) -> Seen {
        let has_grace = |seen: &Seen| {
            ["AccessDenied", "AccountNotFound", "AccountNotReady"].contains(&seen.ready_reason())
        };
        let is_blocked = |seen: &Seen| seen.condition("Stalled").is_some() || has_grace(seen);
        self.wait(name, "Stalled=True", |seen| seen.is_current() && is_blocked(seen)).await
    }

    /// Waits until the controller has caught up: a resource that is declared now is ready.
    pub async fn wait_until_all_is_seen(&self) {
        let number = self.west.register("fence");
        let name = format!("fence-{number}");
        self.declare(&name, &[&format!("fence:{number}")]).await;
        self.wait_ready(&name).await;
    }
}

/// Stops the controller as Kubernetes does, and asserts that it exits with code 0.
pub async fn stop(controller: &mut Process) {
    controller.signal(Signal::TERM).expect("a signal can be sent");
    let status = controller.wait(DEADLINE).await.expect("the controller stops");
    assert!(status.success(), "{status}: {}", controller.log());
}

/// Returns the status and the body of the page at `HOST:PORT/PATH`; `None` if nothing listens.
pub async fn page(url: &str) -> Option<(u16, String)> {
    let (address, path) = url.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Waits until a page contains `text`.
pub async fn wait_for_page(url: &str, text: &str) {
    wait_for_response(url, 200, text).await;
}

/// Waits until the response has this status and contains `text`.
pub async fn wait_for_response(url: &str, expected: u16, text: &str) {
    let began = Instant::now();
    loop {
        let page = page(url).await;
        if page.as_ref().is_some_and(|(status, body)| *status == expected && body.contains(text)) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{url}: no {expected} with {text}: {page:?}");
        sleep(PAUSE).await;
    }
}
