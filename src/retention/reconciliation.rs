//! What the steps of one reconcile share: the policy, its retirements and its status.

use std::time::Duration;

use kube::{Api, ResourceExt};

use crate::{
    api::{TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus, TaskDefinitionRetirement},
    controller::{Error, delay, status_patch::patch_status},
    retention::{
        apply::finish,
        context::Context,
        existing::Existing,
        list::list,
        status::{Summary, summarize},
    },
};

/// Requeue delay after a run that failed.
const RETRY_DELAY: Duration = Duration::from_secs(15);

/// The longest requeue delay: timers may be late after a suspension of the machine.
pub(super) const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// The reconciliation of one policy.
pub(super) struct Reconciliation<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: Api<TaskDefinitionRetentionPolicy>,
    pub(super) namespace: String,
    /// The policy as it was last read or written.
    pub(super) policy: TaskDefinitionRetentionPolicy,
}

impl Reconciliation<'_> {
    pub(super) fn recorded(&self) -> TaskDefinitionRetentionPolicyStatus {
        self.policy.status.clone().unwrap_or_default()
    }

    pub(super) fn retry_delay(&self) -> Duration {
        delay::jitter(RETRY_DELAY, &self.policy.uid().unwrap_or_default())
    }

    pub(super) fn retirements(&self) -> Api<TaskDefinitionRetirement> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    /// Returns the retirements of the policy. Removes the owner reference of finished ones first,
    /// so that they outlive the policy.
    pub(super) async fn existing(&self) -> Result<Vec<Existing>, Error> {
        let (retirements, uid) = (self.retirements(), self.policy.uid().unwrap_or_default());
        let mut existing = Vec::new();
        for it in list(&retirements, &uid).await? {
            let is_record = it.is_controlled && it.is_finished && !it.is_dry_run;
            if is_record && (self.context.is_active)() {
                let record = finish(&retirements, &it).await?;
                existing.extend(Existing::of_policy(&record, &uid));
            } else {
                existing.push(it);
            }
        }
        Ok(existing)
    }

    /// Writes the status if it differs. `change` sets what the conditions do not have.
    pub(super) async fn report(
        &mut self,
        summary: &Summary,
        change: impl FnOnce(&mut TaskDefinitionRetentionPolicyStatus),
        overlapping: Option<&[String]>,
    ) -> Result<(), Error> {
        let mut recorded = self.recorded();
        change(&mut recorded);
        let status = summarize(&self.policy, recorded, summary, overlapping, (self.context.clock)());
        if self.policy.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let (api, metadata) = (&self.policies, &self.policy.metadata);
        let version = patch_status::<TaskDefinitionRetentionPolicy, _>(api, metadata, &status).await?;
        self.policy.metadata.resource_version = version;
        self.policy.status = Some(status);
        Ok(())
    }
}

/// Returns the number of retirements that wait for approval.
pub(super) fn pending_approval(existing: &[Existing]) -> i32 {
    count(existing.iter().filter(|it| it.awaits_approval()).count())
}

pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
