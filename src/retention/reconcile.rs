//! Reconciles one `TaskDefinitionRetentionPolicy`: the order of the steps.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};

use crate::{
    api::{REQUESTED_AT, TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus},
    controller::{Error, conditions::State},
    in_flight,
    retention::{
        context::Context,
        credentials::{authorized, is_served_by_other, prepare},
        existing::Existing,
        reconciliation::{LONGEST_DELAY, Reconciliation, pending_approval},
        status::{Summary, completed, due, is_reported_by_other},
        validate::{ValidatedPolicy, validate},
    },
};

/// Requeue delay while the EcsAccounts are being listed after a start.
const ACCOUNTS_DELAY: Duration = Duration::from_millis(200);

/// Reconciles one policy. Returns the requeue delay, or `None` to wait for a change.
///
/// # Errors
/// Returns an error if a call to the API server fails.
pub(super) async fn reconcile(
    cached: &TaskDefinitionRetentionPolicy,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let policies: Api<TaskDefinitionRetentionPolicy> = Api::namespaced(context.client.clone(), &namespace);
    let read = in_flight::kubernetes("get policy", policies.get_opt(&cached.name_any())).await;
    let live = read.map_err(Error::ReadResource)?;
    let Some(live) = live.filter(|live| live.metadata.deletion_timestamp.is_none()) else { return Ok(None) };
    let mut reconciliation = Reconciliation { context, policies, namespace, policy: live };
    let valid = validate(&reconciliation.policy);
    if let Ok(valid) = &valid
        && is_reported_by_other(&reconciliation.recorded())
        && is_served_by_other(valid, &reconciliation.namespace, context)
    {
        return Ok(None);
    }
    let existing = reconciliation.existing().await?;
    let valid = match valid {
        Ok(valid) => valid,
        Err(error) => {
            let summary = Summary::new(State::Stalled, "InvalidSpec", error.to_string());
            reconciliation.report(&summary, |_| {}, None).await?;
            return Ok(None);
        }
    };
    if valid.is_suspended {
        return reconciliation.suspended(&existing).await;
    }
    let now = (context.clock)();
    let due = match due(&reconciliation.policy, valid.interval, now) {
        Ok(due) => due,
        Err(next) => return reconciliation.wait(&valid, &existing, next).await,
    };
    let recorded = reconciliation.recorded();
    let prepared = match prepare(&valid, &recorded, &reconciliation.namespace, context).await {
        Ok(prepared) => prepared,
        Err(None) => return Ok(Some(ACCOUNTS_DELAY)),
        Err(Some(summary)) => {
            reconciliation.report(&summary, |_| {}, None).await?;
            return Ok(Some(reconciliation.retry_delay()));
        }
    };
    reconciliation.run(&valid, &prepared, existing, due).await
}

impl Reconciliation<'_> {
    /// Reports a suspended policy. Nothing is created, and what it has proposed waits.
    async fn suspended(&mut self, existing: &[Existing]) -> Result<Option<Duration>, Error> {
        let text = "suspended: nothing is proposed, and nothing that it has proposed is deregistered";
        let pending = pending_approval(existing);
        let request = self.policy.annotations().get(REQUESTED_AT).cloned();
        let change = |status: &mut TaskDefinitionRetentionPolicyStatus| {
            status.pending_approval = pending;
            status.next_run_time = None;
            status.last_handled_reconcile_at = request;
        };
        self.report(&Summary::new(State::Ready, "Suspended", text), change, None).await?;
        Ok(None)
    }

    /// Keeps the status current between two runs.
    async fn wait(
        &mut self,
        valid: &ValidatedPolicy,
        existing: &[Existing],
        next: Timestamp,
    ) -> Result<Option<Duration>, Error> {
        let pending = pending_approval(existing);
        let recorded = self.recorded();
        let until = Duration::try_from(next.duration_since((self.context.clock)())).unwrap_or_default();
        let (summary, delay) = match authorized(valid, &recorded, &self.namespace, self.context) {
            // The next run, a second later, reports a changed spec.
            Ok(_) if recorded.last_run_generation != self.policy.metadata.generation => {
                return Ok(Some(until));
            }
            Ok(_) => (completed(valid, &recorded, pending), until.min(LONGEST_DELAY)),
            Err(None) => return Ok(Some(ACCOUNTS_DELAY)),
            Err(Some(summary)) => (summary, until.min(self.retry_delay())),
        };
        self.report(&summary, |status| status.pending_approval = pending, None).await?;
        Ok(Some(delay))
    }
}
