//! The retirements of a policy, as far as the policy needs to know them. No I/O.

use std::collections::BTreeSet;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use kube::ResourceExt;

use crate::{
    api::{
        RevisionStatus, TaskDefinitionRetirement,
        task_definition_retention_policy::{POLICY_GENERATION, POLICY_UID_LABEL},
    },
    retirement::policy_guard::{controlling_policy, is_finished},
    task_definition::{Reference, Revision},
};

/// A retirement of a policy.
#[expect(clippy::struct_excessive_bools, reason = "independent properties of the retirement")]
#[derive(Clone, Debug, PartialEq)]
pub struct Existing {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// True if the policy is the controller owner. False for the record of a finished retirement.
    pub is_controlled: bool,
    /// True if nothing is left to do for it.
    pub is_finished: bool,
    pub is_suspended: bool,
    /// True for a dry run that each run replaces. False if a user has made a dry run of a
    /// retirement of which entries are retired.
    pub is_dry_run: bool,
    pub keep_latest: Option<u32>,
    /// The declared revisions, in the order of the spec.
    pub declared: Vec<Declared>,
    /// The generation of the policy that last chose its revisions.
    pub policy_generation: Option<String>,
    pub has_annotations: bool,
    /// The owner references other than that to the policy.
    pub other_owners: Vec<OwnerReference>,
}

/// A declared revision of a retirement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Declared {
    /// The entry as it is written.
    pub text: String,
    pub revision: Option<Revision>,
    pub is_retired: bool,
    pub registered_at: Option<Timestamp>,
}

impl Existing {
    /// Returns the retirement if it belongs to the policy `uid`: the owner reference decides and,
    /// for records, the label.
    #[must_use]
    pub fn of_policy(retirement: &TaskDefinitionRetirement, uid: &str) -> Option<Self> {
        let owner = controlling_policy(retirement);
        let is_controlled = owner.is_some_and(|owner| owner.uid == uid);
        let is_record =
            owner.is_none() && retirement.labels().get(POLICY_UID_LABEL).is_some_and(|it| it == uid);
        if !is_controlled && !is_record {
            return None;
        }
        let rows = retirement.status.as_ref().map(|status| status.revisions.as_slice()).unwrap_or_default();
        let declared: Vec<Declared> =
            retirement.spec.revisions.iter().map(|text| declared(text, rows)).collect();
        // What a dry run of the policy declares may have been retired otherwise.
        let is_unchanged = retirement.metadata.generation == Some(1);
        let is_inventory = is_unchanged || !declared.iter().any(|it| it.is_retired);
        Some(Self {
            name: retirement.name_any(),
            uid: retirement.uid().unwrap_or_default(),
            resource_version: retirement.resource_version().unwrap_or_default(),
            is_controlled,
            is_finished: is_finished(retirement),
            is_suspended: retirement.spec.suspend,
            is_dry_run: retirement.spec.dry_run && is_inventory,
            keep_latest: retirement.spec.keep_latest,
            declared,
            policy_generation: retirement.annotations().get(POLICY_GENERATION).cloned(),
            has_annotations: !retirement.annotations().is_empty(),
            other_owners: retirement.owner_references().iter().filter(|it| it.uid != uid).cloned().collect(),
        })
    }

    /// Returns true if the policy controls the retirement and something is left to do for it.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.is_controlled && !self.is_finished && !self.is_dry_run
    }

    /// Returns true if the retirement waits for approval.
    #[must_use]
    pub fn awaits_approval(&self) -> bool {
        self.is_unfinished() && self.is_suspended
    }
}

fn declared(text: &str, rows: &[RevisionStatus]) -> Declared {
    let revision = match text.parse() {
        Ok(Reference::Revision(revision)) => Some(revision),
        Ok(Reference::Arn(arn)) => Some(arn.revision().clone()),
        Err(_) => None,
    };
    let short = revision.as_ref().map(ToString::to_string);
    let row = rows.iter().find(|row| row.revision == text || Some(&row.revision) == short.as_ref());
    let is_retired = row.is_some_and(|row| row.reason.is_retired());
    let registered_at = row.and_then(|row| row.registered_at.as_ref()).map(|time| time.0);
    Declared { text: text.to_owned(), revision, is_retired, registered_at }
}

/// Returns the revisions that unfinished retirements of the policy declare.
#[must_use]
pub fn declared_revisions(existing: &[Existing]) -> BTreeSet<Revision> {
    let unfinished = existing.iter().filter(|it| it.is_unfinished());
    unfinished.flat_map(|it| &it.declared).filter_map(|it| it.revision.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a dry run of generation `generation` with the entries `web:1` and `web:2`.
    fn dry_run(generation: i64, reasons: [&str; 2]) -> Existing {
        let rows = [("web:1", reasons[0]), ("web:2", reasons[1])];
        let rows = rows.map(|(revision, reason)| json!({ "revision": revision, "reason": reason }));
        let owner = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetentionPolicy",
            "name": "web", "uid": "1", "controller": true,
        });
        let retirement = json!({
            "metadata": { "name": "web-1", "generation": generation, "ownerReferences": [owner] },
            "spec": { "revisions": ["web:1", "web:2"], "dryRun": true },
            "status": { "revisions": rows },
        });
        let retirement = serde_json::from_value(retirement).expect("a retirement");
        Existing::of_policy(&retirement, "1").expect("of the policy")
    }

    #[test]
    fn dry_run_of_a_half_retired_retirement_is_unfinished() {
        let changed = dry_run(2, ["Retired", "DryRun"]);
        assert!(changed.is_unfinished() && !changed.is_dry_run);
        assert_eq!(declared_revisions(&[changed]).len(), 2);
        for replaced in [dry_run(2, ["DryRun", "DryRun"]), dry_run(1, ["Retired", "DryRun"])] {
            assert!(replaced.is_dry_run && !replaced.is_unfinished());
            assert!(declared_revisions(&[replaced]).is_empty());
        }
    }
}
