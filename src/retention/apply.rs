//! Applies the plan of a run: creates, narrows and deletes retirements, and makes records of
//! finished ones (I/O).

use std::collections::{BTreeMap, BTreeSet};

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

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
        stop::Stop,
    },
    task_definition::Revision,
};

/// What the retirements of a run are made from.
pub struct Applier<'a> {
    pub policies: &'a Api<TaskDefinitionRetentionPolicy>,
    pub retirements: &'a Api<TaskDefinitionRetirement>,
    pub policy: &'a TaskDefinitionRetentionPolicy,
    pub reader: &'a Reader<'a>,
}

/// What was created.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Created {
    pub retirements: usize,
    pub revisions: usize,
}

impl Applier<'_> {
    /// Applies a plan. What makes a retirement smaller comes first.
    ///
    /// # Errors
    /// Returns why the run ends early. Applying the plan of a later read completes it.
    pub async fn apply(&self, plan: &Plan) -> Result<Created, Stop> {
        for narrowed in &plan.narrow {
            self.narrow(narrowed).await?;
        }
        for existing in &plan.delete {
            self.delete(existing).await?;
        }
        let mut created = Created::default();
        for (name, revisions) in &plan.create {
            let count = self.create(name, revisions).await?;
            created.retirements += usize::from(count > 0);
            created.revisions += count;
        }
        Ok(created)
    }

    /// Removes entries from a retirement, raises the number of revisions that it keeps, and records
    /// the generation of the policy. It fails if the retirement was changed meanwhile.
    async fn narrow(&self, narrowed: &Narrowed) -> Result<(), Stop> {
        let Narrowed { existing, entries, keep_latest, is_judged } = narrowed;
        let mut operations = vec![
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
        self.reader.check_active()?;
        patch(self.retirements, existing, operations).await.map(drop).map_err(Stop::Kubernetes)
    }

    async fn delete(&self, existing: &Existing) -> Result<(), Stop> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(existing.uid.clone()),
                resource_version: Some(existing.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        self.reader.check_active()?;
        let delete = self.retirements.delete(&existing.name, &parameters);
        match in_flight::kubernetes("delete retirement", delete).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Stop::Kubernetes(Error::Write(error))),
        }
    }

    /// Creates a retirement, unless the policy or what its EcsAccount allows has changed. The
    /// newest revisions are read again, and what they keep now is left out. Returns the number of
    /// its revisions.
    async fn create(&self, name: &str, revisions: &[Revision]) -> Result<usize, Stop> {
        let revisions = self.without_newest(revisions).await?;
        if revisions.is_empty() {
            return Ok(0);
        }
        self.check_unchanged().await?;
        let retirement = self.retirement(name, &revisions);
        let parameters = PostParams::default();
        self.reader.check()?;
        let create = self.retirements.create(&parameters, &retirement);
        match in_flight::kubernetes("create retirement", create).await {
            Ok(_) => {
                tracing::info!(retirement = name, revisions = revisions.len(), "retirement proposed");
                Ok(revisions.len())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Ok(if self.is_created(name).await? { revisions.len() } else { 0 })
            }
            Err(error) => Err(Stop::Kubernetes(Error::Write(error))),
        }
    }

    async fn without_newest(&self, revisions: &[Revision]) -> Result<Vec<Revision>, Stop> {
        let families: BTreeSet<&str> = revisions.iter().map(Revision::family).collect();
        let mut newest = BTreeMap::new();
        for family in families {
            newest.insert(family, self.reader.newest(family).await?);
        }
        let latest = usize::try_from(self.reader.policy.latest).unwrap_or(usize::MAX);
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
        is_same.then_some(()).ok_or(Stop::Changed)
    }

    /// Returns true if the retirement that has the name is of this policy: a create whose response
    /// was lost has succeeded. Otherwise a retirement of another owner has the name; the next run
    /// has another one.
    async fn is_created(&self, name: &str) -> Result<bool, Stop> {
        let read = in_flight::kubernetes("get retirement", self.retirements.get_opt(name)).await;
        let taken = read.map_err(Error::ReadResource)?;
        let uid = self.policy.uid().unwrap_or_default();
        Ok(taken.and_then(|taken| Existing::of_policy(&taken, &uid)).is_some())
    }

    fn retirement(&self, name: &str, revisions: &[Revision]) -> TaskDefinitionRetirement {
        let uid = self.policy.uid().unwrap_or_default();
        let generation = self.policy.metadata.generation.unwrap_or_default();
        let (valid, identity) = (self.reader.policy, &self.reader.waiter.session.identity);
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
                account_id: Some(identity.account.clone()),
                region: Some(identity.region.clone()),
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

/// Removes the reference of a finished retirement to the policy, so that it outlives the policy.
/// Returns the record.
///
/// # Errors
/// Returns [`Error::Write`] if the call to the API server fails.
pub async fn finish(
    retirements: &Api<TaskDefinitionRetirement>,
    existing: &Existing,
) -> Result<TaskDefinitionRetirement, Error> {
    let owners =
        json!({ "op": "replace", "path": "/metadata/ownerReferences", "value": existing.other_owners });
    patch(retirements, existing, vec![owners]).await
}

/// Patches a retirement, unless it was changed meanwhile.
async fn patch(
    retirements: &Api<TaskDefinitionRetirement>,
    existing: &Existing,
    operations: Vec<Value>,
) -> Result<TaskDefinitionRetirement, Error> {
    let test =
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": existing.resource_version });
    let operations = Value::Array([vec![test], operations].concat());
    let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError);
    let patch = Patch::Json::<()>(patch.map_err(Error::Write)?);
    let parameters = PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() };
    let write = retirements.patch(&existing.name, &parameters, &patch);
    in_flight::kubernetes("patch retirement", write).await.map_err(Error::Write)
}
