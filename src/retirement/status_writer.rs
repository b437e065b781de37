//! The shell of a resource's record: its status, written only when it differs, and the events of its transitions.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    CONTROLLER,
    api::{RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    aws::response::Outcome,
    in_flight,
    retirement::{
        account_guard::AccountGuard,
        cool_down::resume,
        events::{EventNote, event_notes, transitions},
        reconcile::{Context, Error},
        size::fitted,
        summary::Summary,
    },
};

/// The longest prefix of an event's name: a name has at most 253 characters, and the API server adds 5.
const EVENT_NAME_LENGTH: usize = 247;

/// One resource as it was last read or written, with what is known beyond that.
pub struct Record<'a> {
    api: Api<TaskDefinitionRetirement>,
    context: &'a Context,
    resource: TaskDefinitionRetirement,
    /// The status that the API server holds.
    written: Option<TaskDefinitionRetirementStatus>,
}

impl<'a> Record<'a> {
    /// `now` is the time by AWS's clock, or `None` while that is unknown.
    pub fn open(
        api: Api<TaskDefinitionRetirement>,
        mut resource: TaskDefinitionRetirement,
        context: &'a Context,
        now: Option<Timestamp>,
    ) -> Self {
        let uid = resource.uid().unwrap_or_default();
        let written = resource.status.take();
        resource.status = context.pending_status.restore(&uid, written.clone());
        if let (Some(status), Some(now)) = (&mut resource.status, now) {
            resume(status, &uid, now);
        }
        Self { api, context, resource, written }
    }

    #[must_use]
    pub fn resource(&self) -> &TaskDefinitionRetirement {
        &self.resource
    }

    /// Returns what limits the AWS account of the resource.
    #[must_use]
    pub fn account_guard(&self) -> AccountGuard<'_> {
        let TaskDefinitionRetirement { spec, status, .. } = &self.resource;
        AccountGuard::new(spec, status.as_ref(), &self.context.allowed_accounts)
    }

    /// Writes the status if it differs, and publishes what has changed for people. What the pass learned of the
    /// revisions in `learned` is kept where the write fails.
    ///
    /// # Errors
    /// Where the API server does not take it.
    pub async fn write(
        &mut self,
        status: TaskDefinitionRetirementStatus,
        learned: &BTreeMap<String, Outcome>,
    ) -> Result<(), Error> {
        let uid = self.resource.uid().unwrap_or_default();
        if self.written.as_ref() != Some(&status) {
            let patch = apply(&self.resource.metadata, &status);
            let name = self.resource.name_any();
            let (parameters, patch) = (manager(), Patch::Apply(patch));
            let write = self.api.patch_status(&name, &parameters, &patch);
            match in_flight::kubernetes("patch status", write).await {
                Ok(written) => self.resource.metadata.resource_version = written.metadata.resource_version,
                Err(error) => {
                    let rows = status.revisions.into_iter().filter(|row| learned.contains_key(&row.revision));
                    self.context.pending_status.keep(&uid, rows);
                    return Err(Error::PatchStatus(error));
                }
            }
            let before = self.written.take().unwrap_or_default();
            for row in transitions(&before, &status) {
                let RevisionStatus { revision, reason, message, request_id, .. } = row;
                tracing::info!(revision, reason = reason.as_str(), message, request_id, "transition");
            }
            let now = (self.context.clock)();
            let is_repeated = |row: &RevisionStatus| self.context.recent_events.repeats(&uid, row, now);
            for notice in event_notes(&before, &status, is_repeated) {
                publish(&self.resource, notice, self.context).await;
            }
        }
        self.context.pending_status.forget(&uid);
        self.written = Some(status.clone());
        self.resource.status = Some(status);
        Ok(())
    }
}

fn manager() -> PatchParams {
    PatchParams::apply(CONTROLLER).force()
}

/// The resource version makes the API server refuse a status that was made from an older one: by a process that was
/// paused, or for another resource that had the name.
fn apply(metadata: &ObjectMeta, status: &TaskDefinitionRetirementStatus) -> Value {
    json!({
        "apiVersion": TaskDefinitionRetirement::api_version(&()),
        "kind": TaskDefinitionRetirement::kind(&()),
        "metadata": { "name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version },
        "status": status,
    })
}

/// An event that cannot be published is no reason to stop: the status has it all.
async fn publish(resource: &TaskDefinitionRetirement, notice: EventNote, context: &Context) {
    let api: Api<Event> = Api::namespaced(context.client.clone(), &resource.namespace().unwrap_or_default());
    let name = resource.name_any();
    let prefix = name[..name.len().min(EVENT_NAME_LENGTH)].trim_end_matches(['.', '-']);
    let event = Event {
        metadata: ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() },
        action: Some("Retire".to_owned()),
        event_time: Some(MicroTime((context.clock)())),
        note: Some(notice.note),
        reason: Some(notice.reason),
        regarding: Some(resource.object_ref(&())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(context.instance.clone()),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    };
    let parameters = PostParams::default();
    if let Err(error) = in_flight::kubernetes("create event", api.create(&parameters, &event)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(resource = resource.name_any(), error, "cannot publish an event");
    }
}

/// Reports a resource that does not parse, as an older CRD may let one in. It is looked at again when it changes.
///
/// # Errors
/// Where Kubernetes does not take or give the resource.
pub async fn report_unreadable(metadata: &ObjectMeta, context: &Context) -> Result<Option<Duration>, Error> {
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let kind = ApiResource::erase::<TaskDefinitionRetirement>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &kind);
    let read = in_flight::kubernetes("get resource", api.get_opt(&name));
    let Some(object) = read.await.map_err(Error::ReadResource)? else {
        return Ok(None);
    };
    let whole =
        json!({ "metadata": object.metadata, "spec": object.data["spec"], "status": object.data["status"] });
    let Err(error) = serde_path_to_error::deserialize::<_, TaskDefinitionRetirement>(whole) else {
        return Ok(None);
    };
    let recorded = Option::<TaskDefinitionRetirementStatus>::deserialize(&object.data["status"]);
    let Ok(recorded) = recorded.map(Option::unwrap_or_default) else {
        // Of a later version of the CRD, say: to tell of it there would lose what it holds.
        let error = &error as &dyn std::error::Error;
        tracing::error!(
            namespace,
            name,
            error,
            "the status cannot be read and is left as it is: run the version of the controller that wrote it"
        );
        return Ok(None);
    };
    let generation = object.metadata.generation;
    let conditions =
        Summary::unreadable(&error).conditions(&recorded.conditions, generation, (context.clock)());
    let status =
        TaskDefinitionRetirementStatus { observed_generation: generation, conditions, ..recorded.clone() };
    let status = fitted(status);
    if status != recorded {
        let patch = apply(&object.metadata, &status);
        let (parameters, patch) = (manager(), Patch::Apply(patch));
        let write = api.patch_status(&name, &parameters, &patch);
        in_flight::kubernetes("patch status", write).await.map_err(Error::PatchStatus)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
