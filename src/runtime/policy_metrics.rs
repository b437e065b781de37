//! Metrics of the policies, which are computed at each scrape. No label holds a family.

use std::collections::{HashMap, HashSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use metrics::{Unit, describe_gauge, gauge};
use parking_lot::Mutex;

use crate::{
    api::{
        TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus, TaskDefinitionRetirement,
        conditions::READY, reason::ReasonClass, task_definition_retention_policy::POLICY_LABEL,
    },
    controller::Cache,
    retirement::policy_guard::{controlling_policy, is_finished},
};

const FAMILIES: &str = "ecs_retirement_policy_families";
const RETIRABLE: &str = "ecs_retirement_policy_retirable_revisions";
const IN_USE: &str = "ecs_retirement_policy_in_use_revisions";
const PENDING: &str = "ecs_retirement_policy_pending_approvals";
const REVISIONS: &str = "ecs_retirement_policy_revisions";
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
        REVISIONS,
        "Revisions in the retirements of a policy, by state: Proposed (awaiting approval), Approved, or Retired. Without dry runs. Exported by the leader only."
    );
    describe_gauge!(
        READY_POLICY,
        "1 if the last run of a policy succeeded, or the policy is suspended or was deleted, else 0. Exported by the leader only."
    );
    describe_gauge!(
        LAST_RUN,
        Unit::Seconds,
        "Time since the last complete run of a policy. Exported by the leader only."
    );
}

/// The namespace and the name of a policy.
type Key = (String, String);

/// Number of revisions in the retirements of a policy, by state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Revisions {
    proposed: u32,
    approved: u32,
    retired: u32,
}

impl Revisions {
    fn add(&mut self, retirement: &TaskDefinitionRetirement) {
        let rows = retirement.status.iter().flat_map(|status| &status.revisions);
        let retired = rows.filter(|row| row.reason.class() == ReasonClass::Retired).count();
        self.retired += saturated(retired);
        let is_unfinished = controlling_policy(retirement).is_some() && !is_finished(retirement);
        if is_unfinished && !retirement.spec.dry_run {
            let waiting = saturated(retirement.spec.revisions.len().saturating_sub(retired));
            *(if retirement.spec.suspend { &mut self.proposed } else { &mut self.approved }) += waiting;
        }
    }
}

/// Updates the gauges of the policies. Those of a deleted policy, and on a standby, report nothing
/// to do.
pub(super) fn measure(
    policies: &[Cache<TaskDefinitionRetentionPolicy>],
    retirements: &[Cache<TaskDefinitionRetirement>],
    exported: &Exported,
    is_leader: bool,
) {
    let mut revisions: HashMap<Key, Revisions> = HashMap::new();
    for object in retirements.iter().flat_map(Cache::state).filter(|_| is_leader) {
        let Ok(retirement) = &object.0 else { continue };
        if let Some(policy) = policy_of(retirement) {
            let key = (retirement.namespace().unwrap_or_default(), policy.clone());
            revisions.entry(key).or_default().add(retirement);
        }
    }
    let mut current = HashSet::new();
    for object in policies.iter().flat_map(Cache::state).filter(|_| is_leader) {
        let Ok(policy) = &object.0 else { continue };
        let key = (policy.namespace().unwrap_or_default(), policy.name_any());
        export(&key, policy.status.as_ref(), revisions.get(&key).copied().unwrap_or_default());
        current.insert(key);
    }
    for gone in exported.replace(current) {
        export(&gone, None, Revisions::default());
    }
}

/// Returns the name of the policy that controls a retirement, or that controlled it until it was
/// finished.
fn policy_of(retirement: &TaskDefinitionRetirement) -> Option<&String> {
    let owner = controlling_policy(retirement).map(|owner| &owner.name);
    owner.or_else(|| retirement.labels().get(POLICY_LABEL))
}

/// Sets the gauges of one policy. Without a status it has nothing to do.
fn export(
    (namespace, name): &Key,
    status: Option<&TaskDefinitionRetentionPolicyStatus>,
    revisions: Revisions,
) {
    let labels = [("namespace", namespace.clone()), ("name", name.clone())];
    let count = |of: fn(&TaskDefinitionRetentionPolicyStatus) -> i32| status.map(of).unwrap_or_default();
    gauge!(FAMILIES, &labels).set(count(|status| status.matched_families));
    gauge!(RETIRABLE, &labels).set(count(|status| status.retirable));
    gauge!(IN_USE, &labels).set(count(|status| status.in_use));
    gauge!(PENDING, &labels).set(count(|status| status.pending_approval));
    let Revisions { proposed, approved, retired } = revisions;
    for (state, count) in [("Proposed", proposed), ("Approved", approved), ("Retired", retired)] {
        let [namespace, name] = labels.clone();
        gauge!(REVISIONS, &[namespace, name, ("state", state.to_owned())]).set(count);
    }
    let is_true = |status: &TaskDefinitionRetentionPolicyStatus| {
        status.conditions.iter().any(|it| it.type_ == READY && it.status == "True")
    };
    gauge!(READY_POLICY, &labels).set(u8::from(status.is_none_or(is_true)));
    let completed = status.and_then(|status| status.last_run_completion_time.as_ref());
    let age = completed.map(|time| Timestamp::now().duration_since(time.0).as_secs()).unwrap_or_default();
    gauge!(LAST_RUN, &labels).set(f64::from(u32::try_from(age).unwrap_or_default()));
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The namespaces and names whose gauges were exported. A gauge cannot be removed.
#[derive(Debug, Default)]
pub(super) struct Exported(Mutex<HashSet<Key>>);

impl Exported {
    /// Replaces the exported names. Returns those that are gone.
    pub(super) fn replace(&self, current: HashSet<Key>) -> Vec<Key> {
        let mut exported = self.0.lock();
        let gone = exported.difference(&current).cloned().collect();
        *exported = current;
        gone
    }
}
