//! Checks that the policy that controls a retirement still chooses its revisions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource, ResourceExt};

use crate::{
    api::{
        ReasonClass, RevisionStatus, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement,
        task_definition_retention_policy::POLICY_GENERATION,
    },
    controller::Error,
    in_flight,
};

/// Returns the reference to the policy that controls a retirement.
#[must_use]
pub fn controlling_policy(retirement: &TaskDefinitionRetirement) -> Option<&OwnerReference> {
    retirement.owner_references().iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == TaskDefinitionRetentionPolicy::kind(&())
            && owner.api_version == TaskDefinitionRetentionPolicy::api_version(&())
    })
}

/// Returns true if every row is final and nothing can make it due again but a change of the spec.
#[must_use]
pub fn is_finished(retirement: &TaskDefinitionRetirement) -> bool {
    let Some(status) = &retirement.status else { return false };
    let is_on_hold = |row: &RevisionStatus| row.reason.class() == ReasonClass::OnHold;
    let is_final = |row: &RevisionStatus| row.reason.is_final() && !is_on_hold(row) && row.awaits.is_none();
    status.observed_generation == retirement.metadata.generation
        && !status.revisions.is_empty()
        && status.revisions.iter().all(is_final)
}

/// Reads the policy that controls a retirement uncached. Returns why it keeps the revisions now;
/// `None` if it does not, or if no policy controls the retirement.
///
/// # Errors
/// Returns [`Error::ReadResource`] if the call to the API server fails.
pub async fn kept_by(
    retirement: &TaskDefinitionRetirement,
    client: &Client,
) -> Result<Option<String>, Error> {
    let Some(owner) = controlling_policy(retirement) else { return Ok(None) };
    let namespace = retirement.namespace().unwrap_or_default();
    let api: Api<TaskDefinitionRetentionPolicy> = Api::namespaced(client.clone(), &namespace);
    let read = in_flight::kubernetes("get policy", api.get_opt(&owner.name)).await;
    let policy =
        read.map_err(Error::ReadResource)?.filter(|policy| policy.uid().as_ref() == Some(&owner.uid));
    Ok(kept_because(policy.as_ref(), &owner.name, retirement))
}

fn kept_because(
    policy: Option<&TaskDefinitionRetentionPolicy>,
    name: &str,
    retirement: &TaskDefinitionRetirement,
) -> Option<String> {
    let Some(policy) = policy.filter(|policy| policy.metadata.deletion_timestamp.is_none()) else {
        return Some(format!("kept: its policy {name} is deleted"));
    };
    if policy.spec.suspend {
        return Some(format!("kept: its policy {name} is suspended"));
    }
    if policy.spec.retirement.dry_run && !retirement.spec.dry_run {
        return Some(format!("kept: its policy {name} is a dry run (spec.retirement.dryRun)"));
    }
    let generation = retirement.annotations().get(POLICY_GENERATION);
    let is_current = generation == policy.metadata.generation.map(|it| it.to_string()).as_ref();
    (!is_current).then(|| {
        format!("kept: its policy {name} has changed, and removes what it keeps now with its next run")
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    #[test]
    fn policy_keeps_revisions_unless_its_current_generation_chose_them() {
        let mut policy = TaskDefinitionRetentionPolicy::default();
        policy.metadata.generation = Some(3);
        let kept = |policy: Option<&TaskDefinitionRetentionPolicy>, generation: Option<&str>| {
            let mut retirement = TaskDefinitionRetirement::default();
            let annotations = generation.map(|it| (POLICY_GENERATION.to_owned(), it.to_owned()));
            retirement.metadata.annotations = Some(annotations.into_iter().collect());
            kept_because(policy, "web", &retirement)
        };
        assert_eq!(kept(Some(&policy), Some("3")), None);
        for generation in [None, Some("2"), Some("4"), Some("")] {
            assert!(kept(Some(&policy), generation).is_some_and(|it| it.contains("has changed")));
        }
        assert!(kept(None, Some("3")).is_some_and(|it| it.contains("is deleted")));
        policy.spec.retirement.dry_run = true;
        assert!(kept(Some(&policy), Some("3")).is_some_and(|it| it.contains("is a dry run")));
        policy.spec.suspend = true;
        assert!(kept(Some(&policy), Some("3")).is_some_and(|it| it.contains("is suspended")));
        policy.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(kept(Some(&policy), Some("3")).is_some_and(|it| it.contains("is deleted")));
    }
}
