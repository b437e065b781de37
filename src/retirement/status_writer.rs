//! Writes the status of a resource if it differs, and publishes events for its transitions (I/O).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    api::{RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    controller::{
        Error,
        status_patch::{patch_status, publish},
    },
    in_flight,
    retirement::{
        context::Context,
        cool_down::resume,
        events::{event_notes, transitions},
        outcome::{Outcome, RevisionKey},
        size::fitted,
        status::{Report, summarize},
        summary::Summary,
        trigger::Trigger,
    },
};

/// A resource, its last written status, and the rows that are not written yet.
pub struct Record<'a> {
    api: Api<TaskDefinitionRetirement>,
    context: &'a Context,
    resource: TaskDefinitionRetirement,
    /// The status that the API server has stored.
    written: Option<TaskDefinitionRetirementStatus>,
}

impl<'a> Record<'a> {
    /// Restores the rows that are not written yet, and resets cool-downs that do not resume. `now`
    /// is the latest possible time by AWS's clock, or `None` while it is unknown.
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

    /// Returns what users changed or requested since the status was recorded. `None` if the
    /// resource has no conditions yet.
    #[must_use]
    pub fn trigger(&self) -> Option<Trigger> {
        let status = self.resource.status.as_ref().filter(|status| !status.conditions.is_empty())?;
        Some(Trigger::of(&self.resource, status))
    }

    /// Computes the status, and writes it if it differs.
    ///
    /// # Errors
    /// Returns [`Error::PatchStatus`] if the write fails.
    pub async fn update(&mut self, report: Report<'_>) -> Result<(), Error> {
        let status = summarize(&self.resource, report, (self.context.clock)());
        let learned = if let Report::Valid(findings) = report { findings.outcomes } else { &BTreeMap::new() };
        self.write(status, learned).await
    }

    /// Writes the status if it differs, and publishes events for its transitions. If the write
    /// fails, the rows of the revisions in `learned` are kept in memory.
    ///
    /// # Errors
    /// Returns [`Error::PatchStatus`] if the write fails.
    async fn write(
        &mut self,
        status: TaskDefinitionRetirementStatus,
        learned: &BTreeMap<RevisionKey, Outcome>,
    ) -> Result<(), Error> {
        let uid = self.resource.uid().unwrap_or_default();
        if self.written.as_ref() != Some(&status) {
            let metadata = &self.resource.metadata;
            match patch_status::<TaskDefinitionRetirement, _>(&self.api, metadata, &status).await {
                Ok(version) => self.resource.metadata.resource_version = version,
                Err(error) => {
                    let is_learned =
                        |row: &RevisionStatus| learned.contains_key(&RevisionKey::new(&row.revision));
                    let rows = status.revisions.into_iter().filter(is_learned);
                    self.context.pending_status.keep(&uid, rows);
                    return Err(error);
                }
            }
            let before = self.written.take().unwrap_or_default();
            for row in transitions(&before, &status) {
                let RevisionStatus { revision, reason, message, request_id, .. } = row;
                tracing::info!(revision, reason = reason.as_str(), message, request_id, "transition");
            }
            let now = (self.context.clock)();
            let is_repeated = |row: &RevisionStatus| self.context.recent_events.repeats(&uid, row, now);
            for event_note in event_notes(&before, &status, is_repeated) {
                let Context { client, instance, .. } = self.context;
                publish(client, &self.resource, ("Retire", instance, now), event_note).await;
            }
        }
        self.context.pending_status.forget(&uid);
        self.written = Some(status.clone());
        self.resource.status = Some(status);
        Ok(())
    }
}

/// Reports a resource that does not parse in its conditions. An older CRD may have admitted it. It
/// is reconciled again when it changes.
///
/// # Errors
/// Returns [`Error::ReadResource`] or [`Error::PatchStatus`] if a call to the API server fails.
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
        // The status was written by a newer version, for example. Overwriting it would lose data.
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
        patch_status::<TaskDefinitionRetirement, _>(&api, &object.metadata, &status).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
