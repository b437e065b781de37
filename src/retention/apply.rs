//! Applies the plan of a run: creates, narrows, deletes and finishes retirements (I/O).

use std::collections::{BTreeMap, BTreeSet};

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use crate::{
    CONTROLLER,
    api::{
        AccountRef, InUse, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement,
        TaskDefinitionRetirementSpec,
        task_definition_retention_policy::{POLICY_GENERATION, POLICY_LABEL, POLICY_UID_LABEL},
    },
    controller::Error,
    in_flight,
    retention::{
        existing::Existing,
        plan::{Narrowed, Plan},
        read::Reader,
        validate::ValidatedPolicy,
    },
    task_definition::Revision,
};

/// What the retirements of a run are made from.
pub struct Applier<'a> {
    pub policies: &'a Api<TaskDefinitionRetentionPolicy>,
    pub retirements: &'a Api<TaskDefinitionRetirement>,
    pub policy: &'a TaskDefinitionRetentionPolicy,
    pub valid: &'a ValidatedPolicy,
    /// The resolved account and region, which each retirement names.
    pub account: &'a str,
    pub region: &'a str,
}

/// What was created.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Created {
    pub retirements: usize,
    pub revisions: usize,
}

/// Why a run ends early.
#[derive(Debug)]
pub enum Stop {
    /// The policy has changed, is suspended or is being deleted. The next reconcile uses the new one.
    PolicyChanged,
    Aws(crate::aws::response::Failure),
    Kubernetes(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Kubernetes(error)
    }
}

impl Applier<'_> {
    /// Applies a plan. What makes a retirement smaller comes first.
    ///
    /// # Errors
    /// Returns why the run ends early. Applying the plan of a later read completes it.
    pub async fn apply(&self, plan: &Plan, reader: &Reader<'_>) -> Result<Created, Stop> {
        for narrowed in &plan.narrow {
            self.narrow(narrowed).await?;
        }
        for existing in &plan.finish {
            self.finish(existing).await?;
        }
        for existing in &plan.delete {
            self.delete(existing).await?;
        }
        let mut created = Created::default();
        for (name, revisions) in &plan.create {
            let count = self.create(name, revisions, reader).await?;
            created.retirements += usize::from(count > 0);
            created.revisions += count;
        }
        Ok(created)
    }

    /// Removes entries from a retirement, raises the number of revisions that it keeps, and records
    /// the generation of the policy. It fails if the retirement was changed meanwhile.
    async fn narrow(&self, narrowed: &Narrowed) -> Result<(), Error> {
        let Narrowed { existing, entries, keep_latest, is_judged } = narrowed;
        let mut operations = vec![
            json!({ "op": "test", "path": "/metadata/resourceVersion", "value": existing.resource_version }),
            json!({ "op": "replace", "path": "/spec/revisions", "value": entries }),
            json!({ "op": "add", "path": "/spec/keepLatest", "value": keep_latest }),
        ];
        let generation = self.policy.metadata.generation.unwrap_or_default().to_string();
        if *is_judged && existing.has_annotations {
            let path = format!("/metadata/annotations/{}", POLICY_GENERATION.replace('/', "~1"));
            operations.push(json!({ "op": "add", "path": path, "value": generation }));
        } else if *is_judged {
            let annotations = json!({ POLICY_GENERATION: generation });
            operations.push(json!({ "op": "add", "path": "/metadata/annotations", "value": annotations }));
        }
        self.patch(existing, operations.into()).await
    }

    /// Removes the reference of a finished retirement to the policy, so that it outlives the policy.
    ///
    /// # Errors
    /// Returns [`Error::Write`] if the call to the API server fails.
    pub async fn finish(&self, existing: &Existing) -> Result<(), Error> {
        self.patch(
            existing,
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": existing.resource_version },
                { "op": "replace", "path": "/metadata/ownerReferences", "value": existing.other_owners },
            ]),
        )
        .await
    }

    async fn patch(&self, existing: &Existing, operations: serde_json::Value) -> Result<(), Error> {
        let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError);
        let patch = Patch::Json::<()>(patch.map_err(Error::Write)?);
        let parameters = PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() };
        let write = self.retirements.patch(&existing.name, &parameters, &patch);
        in_flight::kubernetes("patch retirement", write).await.map(drop).map_err(Error::Write)
    }

    async fn delete(&self, existing: &Existing) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(existing.uid.clone()),
                resource_version: Some(existing.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        let delete = self.retirements.delete(&existing.name, &parameters);
        match in_flight::kubernetes("delete retirement", delete).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Error::Write(error)),
        }
    }

    /// Creates a retirement, unless the policy has changed. The newest revisions are read again, and
    /// what they keep now is left out. Returns the number of its revisions.
    async fn create(&self, name: &str, revisions: &[Revision], reader: &Reader<'_>) -> Result<usize, Stop> {
        let revisions = self.without_newest(revisions, reader).await?;
        if revisions.is_empty() {
            return Ok(0);
        }
        self.check_unchanged().await?;
        let retirement = self.retirement(name, &revisions);
        let parameters = PostParams::default();
        let create = self.retirements.create(&parameters, &retirement);
        match in_flight::kubernetes("create retirement", create).await {
            Ok(_) => {
                tracing::info!(retirement = name, revisions = revisions.len(), "retirement proposed");
                Ok(revisions.len())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.is_ours(name, &revisions).await
            }
            Err(error) => Err(Stop::Kubernetes(Error::Write(error))),
        }
    }

    async fn without_newest(
        &self,
        revisions: &[Revision],
        reader: &Reader<'_>,
    ) -> Result<Vec<Revision>, Stop> {
        let families: BTreeSet<&str> = revisions.iter().map(Revision::family).collect();
        let mut newest = BTreeMap::new();
        for family in families {
            newest.insert(family, reader.newest(family).await.map_err(Stop::Aws)?);
        }
        let latest = usize::try_from(self.valid.latest).unwrap_or(usize::MAX);
        let is_below = |revision: &&Revision| {
            let newest = &newest[revision.family()];
            newest.len() >= latest && newest.iter().all(|number| revision.number() < *number)
        };
        Ok(revisions.iter().filter(is_below).cloned().collect())
    }

    /// Reads the policy uncached.
    async fn check_unchanged(&self) -> Result<(), Stop> {
        let read = in_flight::kubernetes("get policy", self.policies.get_opt(&self.policy.name_any())).await;
        let live = read.map_err(Error::ReadResource)?;
        let is_same = live.is_some_and(|live| {
            live.uid() == self.policy.uid()
                && live.metadata.generation == self.policy.metadata.generation
                && live.metadata.deletion_timestamp.is_none()
        });
        is_same.then_some(()).ok_or(Stop::PolicyChanged)
    }

    /// Handles a name that is taken: a create whose response was lost has succeeded.
    async fn is_ours(&self, name: &str, revisions: &[Revision]) -> Result<usize, Stop> {
        let read = in_flight::kubernetes("get retirement", self.retirements.get_opt(name)).await;
        let taken = read.map_err(Error::ReadResource)?;
        let uid = self.policy.uid().unwrap_or_default();
        let is_ours = taken.and_then(|taken| Existing::of_policy(&taken, &uid)).is_some();
        // Otherwise a retirement of another owner has the name; the next run has another one.
        Ok(if is_ours { revisions.len() } else { 0 })
    }

    fn retirement(&self, name: &str, revisions: &[Revision]) -> TaskDefinitionRetirement {
        let uid = self.policy.uid().unwrap_or_default();
        let generation = self.policy.metadata.generation.unwrap_or_default();
        let valid = self.valid;
        TaskDefinitionRetirement {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(
                    [(POLICY_LABEL.to_owned(), self.policy.name_any()), (POLICY_UID_LABEL.to_owned(), uid)]
                        .into(),
                ),
                annotations: Some([(POLICY_GENERATION.to_owned(), generation.to_string())].into()),
                owner_references: self.policy.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: TaskDefinitionRetirementSpec {
                revisions: revisions.iter().map(ToString::to_string).collect(),
                account_ref: valid.account_ref.clone().map(|name| AccountRef { name }),
                account_id: Some(self.account.to_owned()),
                region: Some(self.region.to_owned()),
                in_use: InUse::Wait,
                unused_for: valid.unused_for.clone(),
                keep_latest: Some(valid.latest),
                suspend: valid.is_manual && !valid.is_dry_run,
                dry_run: valid.is_dry_run,
            },
            status: None,
        }
    }
}
