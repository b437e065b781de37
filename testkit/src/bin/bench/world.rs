//! The environment of a measurement: a namespace, a simulated ECS, and the release binary.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use testkit::{
    control_plane::ControlPlane,
    namespace::Namespace,
    process::{self, Folder, free_port},
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Call, Region, SimulatedEcs},
};
use tokio::time::sleep;

use crate::controller::Controller;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub const REGION: &str = "us-west-2";
const API_VERSION: &str = "ecs-retirement.dev/v1alpha1";
const CRD_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// An API server that serves the custom resource, and the binary to measure.
pub struct Bench {
    pub plane: ControlPlane,
    pub binary: PathBuf,
}

impl Bench {
    /// Starts the API server.
    pub async fn start(binary: PathBuf) -> Result<Self, Failure> {
        let plane = ControlPlane::start().await?;
        let printed = process::output(Command::new(&binary).arg("crd"), CRD_DEADLINE).await?;
        testkit::namespace::install_crds(&plane.client(), &String::from_utf8(printed.stdout)?).await?;
        Ok(Self { plane, binary })
    }
}

/// A namespace with its own simulated ECS.
pub struct World<'bench> {
    pub ecs: SimulatedEcs,
    /// The account and region of the controller.
    pub west: Region,
    bench: &'bench Bench,
    namespace: Namespace<'bench>,
    folder: Folder,
}

impl<'bench> World<'bench> {
    pub async fn on(bench: &'bench Bench) -> io::Result<Self> {
        let namespace = Namespace::on(&bench.plane).await;
        let ecs = SimulatedEcs::start().await;
        let west = ecs.region(ACCOUNT, REGION);
        Ok(Self { ecs, west, bench, namespace, folder: Folder::create()? })
    }

    /// Starts the controller with its default flags and `flags`, each with its value. It is the
    /// only replica of its namespace.
    pub fn start(&self, flags: &[(&str, String)]) -> io::Result<Controller> {
        let (metrics, health) = (address()?, address()?);
        let namespace = self.namespace.name().to_owned();
        let mut command = Command::new(&self.bench.binary);
        command.arg("run");
        for (flag, value) in [
            ("--watch-namespace", namespace.clone()),
            ("--leader-election-namespace", namespace),
            ("--metrics-bind-address", metrics.clone()),
            ("--health-probe-bind-address", health.clone()),
        ]
        .iter()
        .chain(flags)
        {
            command.args([flag, value.as_str()]);
        }
        command.envs(BTreeMap::from([
            ("KUBECONFIG", self.bench.plane.kubeconfig().display().to_string()),
            ("AWS_ENDPOINT_URL", self.ecs.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]));
        Controller::start(&command, &self.folder.join("controller.log"), metrics, health)
    }

    /// Returns the name of the namespace.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Returns the API of the retirements.
    pub fn api(&self) -> Api<DynamicObject> {
        let kind = api_resource("TaskDefinitionRetirement", "taskdefinitionretirements");
        Api::namespaced_with(self.namespace.client(), self.name(), &kind)
    }

    pub fn policies(&self) -> Api<DynamicObject> {
        let kind = api_resource("TaskDefinitionRetentionPolicy", "taskdefinitionretentionpolicies");
        Api::namespaced_with(self.namespace.client(), self.name(), &kind)
    }

    /// Returns the API of the EcsAccounts, which all measurements share.
    pub fn accounts(&self) -> Api<DynamicObject> {
        Api::all_with(self.namespace.client(), &api_resource("EcsAccount", "ecsaccounts"))
    }

    /// Applies an object, which is labelled with the name of the namespace.
    pub async fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<DynamicObject, Failure> {
        let manifest = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": { "name": name, "labels": { "namespace": self.name() } },
            "spec": spec,
        });
        Ok(self.namespace.apply(manifest).await?)
    }

    /// Declares `revisions` in a resource called `name`, as `kubectl apply --server-side` does.
    pub async fn declare(&self, name: &str, revisions: &[String]) -> kube::Result<DynamicObject> {
        let spec = json!({ "revisions": revisions });
        self.api().patch(name, &PatchParams::apply("kubectl"), &apply_patch(name, "spec", &spec)).await
    }

    /// Waits until the resource is final, and returns it.
    pub async fn wait_until_final(&self, name: &str, deadline: Duration) -> Result<DynamicObject, Failure> {
        let began = Instant::now();
        loop {
            let object = self.api().get(name).await?;
            if is_final(&object.data["status"]) {
                return Ok(object);
            }
            if began.elapsed() > deadline {
                return Err(format!("{name} is not final: {}", object.data["status"]).into());
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until ECS has received `count` deregistrations, and returns all of them.
    pub async fn deregistrations(&self, count: usize, deadline: Duration) -> Result<Vec<Call>, Failure> {
        let began = Instant::now();
        loop {
            let calls = self.ecs.calls_of(Action::DeregisterTaskDefinition);
            if calls.len() >= count {
                return Ok(calls);
            }
            if began.elapsed() > deadline {
                return Err(format!("{} of {count} deregistrations within {deadline:?}", calls.len()).into());
            }
            sleep(PAUSE).await;
        }
    }
}

fn api_resource(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("ecs-retirement.dev", "v1alpha1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// Returns a server-side apply of one field of a resource.
pub fn apply_patch(name: &str, part: &str, value: &Value) -> Patch<Value> {
    Patch::Apply(json!({
        "apiVersion": API_VERSION,
        "kind": "TaskDefinitionRetirement",
        "metadata": { "name": name },
        part: value,
    }))
}

fn is_final(status: &Value) -> bool {
    let list = |field: &str| status[field].as_array().into_iter().flatten();
    list("conditions").any(|it| it["type"] == "Ready" && it["status"] == "True")
        && list("revisions").all(|row| row["deregisteredAt"].is_string() && row["message"].is_null())
}

/// Counts the throttled calls.
pub fn throttled<'calls>(calls: impl IntoIterator<Item = &'calls Call>) -> usize {
    calls.into_iter().filter(|call| call.outcome.error_code() == Some("ThrottlingException")).count()
}

fn address() -> io::Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}
