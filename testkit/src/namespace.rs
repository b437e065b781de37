//! A Kubernetes namespace per test, and helpers that create objects in it.

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

/// A new namespace. It is not deleted after the test: no other test uses it, and the control plane
/// ends soon after.
pub struct Namespace<'plane> {
    plane: &'plane ControlPlane,
    client: Client,
    name: String,
}

impl Namespace<'static> {
    /// Creates a namespace on the control plane that the tests of this process share.
    ///
    /// # Panics
    /// Panics if the control plane does not start.
    pub async fn fresh() -> Self {
        Self::on(ControlPlane::shared().await).await
    }
}

impl<'plane> Namespace<'plane> {
    /// Creates a namespace on `plane`.
    ///
    /// # Panics
    /// Panics if the API server rejects the request.
    pub async fn on(plane: &'plane ControlPlane) -> Self {
        let client = plane.client();
        let namespace: CoreNamespace = serde_json::from_value(json!({"metadata": {"generateName": "test-"}}))
            .expect("the manifest is a valid namespace");
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

    /// Returns a client with administrator permissions.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the API of one kind in this namespace, with administrator permissions.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Applies one object with server-side apply. `manifest` is YAML or a `serde_json::Value`. The
    /// object is created in this namespace unless it names another. Unknown fields are rejected, as
    /// with kubectl.
    ///
    /// # Errors
    /// Returns the message of the API server if it rejects the object.
    pub async fn apply(&self, manifest: impl Display) -> Result<DynamicObject, String> {
        match &documents(&manifest.to_string())?[..] {
            [object] => apply(&self.client, &self.name, object).await,
            others => Err(format!("expected one object, got {}", others.len())),
        }
    }

    /// Installs the custom resource definitions in `yaml` for the whole control plane; see
    /// [`install_crds`].
    ///
    /// # Errors
    /// Returns the same errors as [`install_crds`].
    pub async fn install_crds(&self, yaml: &str) -> Result<(), String> {
        install_crds(&self.client, yaml).await
    }

    /// Runs kubectl in this namespace as administrator and returns its output.
    ///
    /// # Errors
    /// Returns kubectl's error output if it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.plane.kubectl(&[&["--namespace", &self.name], arguments].concat()).await
    }
}

/// Installs each custom resource definition in `yaml`, and returns once its objects can be created.
/// Idempotent.
///
/// # Errors
/// Returns the message of the API server if it rejects a definition, or the name of the definition
/// if it is not served in time.
pub async fn install_crds(client: &Client, yaml: &str) -> Result<(), String> {
    // Concurrent installations of the same definition would conflict.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _guard = ONE_AT_A_TIME.lock().await;
    for object in documents(yaml)? {
        let installed = apply(client, "", &object).await?;
        let definition: CustomResourceDefinition =
            installed.try_parse().map_err(|error| error.to_string())?;
        timeout(SERVED_DEADLINE, served(client, &definition))
            .await
            .map_err(|_| format!("{} is not served within the deadline", definition.name_any()))?;
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

/// Waits until LIST succeeds: the condition `Established` is set slightly earlier.
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

/// Parses the documents of a YAML stream.
///
/// # Errors
/// Returns an error if `yaml` is invalid.
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
