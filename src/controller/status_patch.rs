//! Writes statuses by server-side apply, and publishes events (I/O).

use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{CONTROLLER, controller::Error, in_flight};

/// The longest prefix of an event name: a name has at most 253 characters, of which the API server
/// adds 5.
const EVENT_NAME_LENGTH: usize = 247;

/// The namespace of the events of cluster-scoped resources.
const DEFAULT_NAMESPACE: &str = "default";

/// Writes the status of a resource of kind `K` by server-side apply. Returns the resource version
/// of the written object.
///
/// The resource version in the patch makes the API server reject a status that is based on an older
/// version: written by a process that was paused, or for an earlier resource of the same name.
///
/// # Errors
/// Returns [`Error::PatchStatus`] if the write fails.
pub async fn patch_status<K, A>(
    api: &Api<A>,
    metadata: &ObjectMeta,
    status: &impl Serialize,
) -> Result<Option<String>, Error>
where
    K: Resource<DynamicType = ()>,
    A: Clone + DeserializeOwned + std::fmt::Debug + ResourceExt,
{
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version },
        "status": status,
    });
    let name = metadata.name.as_deref().unwrap_or_default();
    let (parameters, patch) = (PatchParams::apply(CONTROLLER).force(), Patch::Apply(patch));
    let write = api.patch_status(name, &parameters, &patch);
    let written = in_flight::kubernetes("patch status", write).await.map_err(Error::PatchStatus)?;
    Ok(written.resource_version())
}

/// One event to publish.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventNote {
    pub is_warning: bool,
    pub reason: String,
    pub note: String,
}

/// Publishes an event. A failure is only logged, as the status contains the same information.
/// `instance` is the name of this process.
pub async fn publish(
    client: &Client,
    resource: &impl Resource<DynamicType = ()>,
    (action, instance, now): (&str, &str, Timestamp),
    event_note: EventNote,
) {
    let namespace = resource.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let name = resource.name_any();
    let prefix = name[..name.len().min(EVENT_NAME_LENGTH)].trim_end_matches(['.', '-']);
    let event = Event {
        metadata: ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(event_note.note),
        reason: Some(event_note.reason),
        regarding: Some(resource.object_ref(&())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if event_note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    };
    let parameters = PostParams::default();
    if let Err(error) = in_flight::kubernetes("create event", api.create(&parameters, &event)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(resource = name, error, "cannot publish an event");
    }
}
