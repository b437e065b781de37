//! A Kubernetes namespace of a test's own, and short ways to put objects into it.

use std::{fmt::Display, time::Duration};

use k8s_openapi::{
    api::core::v1::Namespace as CoreNamespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Error, Resource, ResourceExt,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, NamespaceResourceScope},
    discovery::{Scope, pinned_kind},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::control_plane::ControlPlane;

const FIELD_MANAGER: &str = "testkit";
const SERVED_DEADLINE: Duration = Duration::from_secs(30);

/// A fresh namespace. It stays when the test is over: nothing else looks into it, and the control plane ends soon after.
pub struct Namespace<'plane> {
    plane: &'plane ControlPlane,
    client: Client,
    name: String,
}

impl Namespace<'static> {
    /// One on the control plane that the tests of this process share.
    ///
    /// # Panics
    /// The control plane does not start.
    pub async fn fresh() -> Self {
        Self::on(ControlPlane::shared().await).await
    }
}

impl<'plane> Namespace<'plane> {
    /// One on a control plane of the test's own.
    ///
    /// # Panics
    /// The API server refuses.
    pub async fn on(plane: &'plane ControlPlane) -> Self {
        let client = plane.client();
        let namespace: CoreNamespace = serde_json::from_value(json!({"metadata": {"generateName": "test-"}}))
            .expect("this is a namespace");
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .expect("an administrator may create namespaces");
        Self { plane, client, name: created.name_any() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn control_plane(&self) -> &'plane ControlPlane {
        self.plane
    }

    /// An administrator's client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of one kind in this namespace, as an administrator.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Applies one object on the server's side, given as YAML or as a `serde_json::Value`. It lands in this namespace
    /// unless it names another. Like kubectl, it refuses fields that the schema does not know.
    ///
    /// # Errors
    /// The text with which the API server refused.
    pub async fn apply(&self, manifest: impl Display) -> Result<DynamicObject, String> {
        match &documents(&manifest.to_string())?[..] {
            [object] => apply(&self.client, &self.name, object).await,
            others => Err(format!("apply takes one object, not {}", others.len())),
        }
    }

    /// Installs the custom resource definitions in `yaml` for the whole control plane; see [`install_crds`].
    ///
    /// # Errors
    /// As [`install_crds`].
    pub async fn install_crds(&self, yaml: &str) -> Result<(), String> {
        install_crds(&self.client, yaml).await
    }

    /// Runs kubectl in this namespace, as administrator, and returns what it printed.
    ///
    /// # Errors
    /// What kubectl complained about.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.plane.kubectl(&[&["--namespace", &self.name], arguments].concat()).await
    }
}

/// Installs each custom resource definition in `yaml`, and returns when its objects can be created. Again is harmless.
///
/// # Errors
/// The text with which the API server refused, or which definition it does not serve in time.
pub async fn install_crds(client: &Client, yaml: &str) -> Result<(), String> {
    // Tests that install the same definition at the same moment would refuse each other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    for object in documents(yaml)? {
        let installed = apply(client, "", &object).await?;
        let definition: CustomResourceDefinition =
            installed.try_parse().map_err(|error| error.to_string())?;
        timeout(SERVED_DEADLINE, served(client, &definition))
            .await
            .map_err(|_| format!("{} is not served", definition.name_any()))?;
    }
    Ok(())
}

async fn apply(client: &Client, namespace: &str, object: &Value) -> Result<DynamicObject, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let (resource, capabilities) =
        pinned_kind(client, &GroupVersionKind::gvk(group, version, kind)).await.map_err(message)?;
    let api: Api<DynamicObject> = match (&capabilities.scope, text("/metadata/namespace")) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, "") => Api::namespaced_with(client.clone(), namespace, &resource),
        (Scope::Namespaced, other) => Api::namespaced_with(client.clone(), other, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    api.patch(text("/metadata/name"), &parameters, &Patch::Apply(object)).await.map_err(message)
}

/// Established is a little less than served: the answer to a LIST is what a test relies on.
async fn served(client: &Client, definition: &CustomResourceDefinition) {
    let spec = &definition.spec;
    for version in spec.versions.iter().filter(|version| version.served) {
        let kind = GroupVersionKind::gvk(&spec.group, &version.name, &spec.names.kind);
        loop {
            if let Ok((resource, _)) = pinned_kind(client, &kind).await {
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                if api.list(&ListParams::default().limit(1)).await.is_ok() {
                    break;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The documents of a YAML stream.
///
/// # Errors
/// Where it is none.
pub fn documents(yaml: &str) -> Result<Vec<Value>, String> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(Value::deserialize)
        .filter(|document| !matches!(document, Ok(Value::Null)))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn message(error: Error) -> String {
    match error {
        Error::Api(status) => status.message,
        other => other.to_string(),
    }
}
