//! Metrics of the policies, which are computed at each scrape. No label holds a family.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use metrics::{Unit, describe_gauge, gauge};

use crate::{
    api::{TaskDefinitionRetentionPolicy, conditions::READY},
    controller::Cache,
};

const FAMILIES: &str = "ecs_retirement_policy_families";
const RETIRABLE: &str = "ecs_retirement_policy_retirable_revisions";
const IN_USE: &str = "ecs_retirement_policy_in_use_revisions";
const PENDING: &str = "ecs_retirement_policy_pending_approvals";
const READY_POLICY: &str = "ecs_retirement_policy_ready";
const LAST_RUN: &str = "ecs_retirement_policy_last_run_age_seconds";

/// Describes the metrics.
pub(super) fn describe() {
    describe_gauge!(FAMILIES, "Families that a policy includes. Exported by the leader only.");
    describe_gauge!(
        RETIRABLE,
        "Revisions that a policy does not keep, that are unused and not declared yet. Exported by the leader only."
    );
    describe_gauge!(
        IN_USE,
        "Revisions that a policy would retire, but that are in use. Exported by the leader only."
    );
    describe_gauge!(PENDING, "Retirements of a policy that wait for approval. Exported by the leader only.");
    describe_gauge!(
        READY_POLICY,
        "1 if the last run of a policy succeeded, or the policy is suspended, else 0. Exported by the leader only."
    );
    describe_gauge!(
        LAST_RUN,
        Unit::Seconds,
        "Time since the last complete run of a policy. Exported by the leader only."
    );
}

/// Updates the gauges of the policies. A standby exports none.
pub(super) fn measure(caches: &[Cache<TaskDefinitionRetentionPolicy>], is_leader: bool) {
    for object in caches.iter().flat_map(Cache::state).filter(|_| is_leader) {
        let Ok(policy) = &object.0 else { continue };
        let status = policy.status.clone().unwrap_or_default();
        let labels = [("namespace", policy.namespace().unwrap_or_default()), ("name", policy.name_any())];
        gauge!(FAMILIES, &labels).set(status.matched_families);
        gauge!(RETIRABLE, &labels).set(status.retirable);
        gauge!(IN_USE, &labels).set(status.in_use);
        gauge!(PENDING, &labels).set(status.pending_approval);
        let is_ready = status.conditions.iter().any(|it| it.type_ == READY && it.status == "True");
        gauge!(READY_POLICY, &labels).set(u8::from(is_ready));
        if let Some(completed) = &status.last_run_completion_time {
            let age = Timestamp::now().duration_since(completed.0).as_secs();
            gauge!(LAST_RUN, &labels).set(f64::from(u32::try_from(age).unwrap_or_default()));
        }
    }
}
