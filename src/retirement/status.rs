//! The status of a resource, from its spec, the recorded status and the observations of a
//! reconcile. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;

use crate::{
    api::{RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    aws::{permit_queue::QueuePosition, response::Failure},
    retirement::{
        cool_down::last_scan,
        outcome::{Outcome, RevisionKey},
        resolve::Entry,
        row::{new_row, recorded_row},
        size::fitted,
        summary::{Summary, blocked_since},
        trigger::{Trigger, requested_at},
        validate::{InvalidSpec, ValidatedSpec},
    },
};

/// Result of a (possibly partial) reconcile.
#[derive(Clone, Copy, Debug)]
pub enum Report<'a> {
    Invalid(&'a InvalidSpec),
    Valid(Findings<'a>),
}

/// What a reconcile found out about a resource with a valid spec.
#[derive(Clone, Copy, Debug)]
pub struct Findings<'a> {
    pub spec: &'a ValidatedSpec,
    /// The region of the resource; `None` if it is not known yet.
    pub region: Option<&'a str>,
    /// The account whose revisions the short forms refer to; `None` if it is not known yet.
    pub account: Option<&'a str>,
    pub entries: &'a [Entry],
    /// Why the identity of the credentials could not be verified.
    pub identity_failure: Option<&'a Failure>,
    pub outcomes: &'a BTreeMap<RevisionKey, Outcome>,
    /// The position in the queue for a permit to deregister; `None` if the resource is not queued.
    pub position: Option<QueuePosition>,
    /// End of the usage scan that `outcomes` are based on, by AWS's clock. `None` if the scan did
    /// not confirm all revisions that are cooling down.
    pub scanned_at: Option<Timestamp>,
}

/// Returns the new status of a resource. The status of every resource that parses is built here.
#[must_use]
pub fn summarize(
    resource: &TaskDefinitionRetirement,
    report: Report<'_>,
    now: Timestamp,
) -> TaskDefinitionRetirementStatus {
    let recorded = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    let mut blocked = None;
    let (region, account, rows, summary, scanned_at) = match report {
        Report::Invalid(error) => {
            let summary = Summary::invalid(error, resource.spec.revisions.len(), &recorded.revisions);
            (recorded.region, recorded.account, recorded.revisions, summary, None)
        }
        Report::Valid(findings) => {
            let trigger = Trigger::of(resource, &recorded);
            let new_row = |entry: &Entry| {
                let row = recorded_row(entry, &recorded.revisions).cloned();
                let outcome = findings.outcomes.get(&entry.key);
                new_row(entry, findings.spec, row, trigger, outcome.ok_or(findings.identity_failure))
            };
            let rows: Vec<RevisionStatus> = findings.entries.iter().map(new_row).collect();
            blocked = blocked_since(&rows, recorded.blocked_since.as_ref(), now);
            let summary = Summary::of(&rows, blocked, findings.position, now);
            let region = findings.region.map(str::to_owned).or(recorded.region);
            (region, findings.account.map(str::to_owned), rows, summary, findings.scanned_at)
        }
    };
    let uid = resource.uid().unwrap_or_default();
    fitted(TaskDefinitionRetirementStatus {
        observed_generation: generation,
        blocked_since: blocked.map(Time),
        last_usage_scan: last_scan(recorded.last_usage_scan, &rows, scanned_at, &uid),
        conditions: summary.conditions(&recorded.conditions, generation, now),
        last_handled_reconcile_at: requested_at(resource),
        account,
        region,
        progress: format!("{}/{}", summary.retired, summary.declared),
        retired: count(summary.retired),
        waiting: count(summary.waiting),
        rejected: count(summary.rejected),
        revisions: rows,
    })
}

fn count(rows: usize) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Reason, TaskDefinitionRetirementSpec, conditions::STALLED};

    #[test]
    fn recorded_rows_are_kept_if_the_spec_becomes_invalid() {
        let retired = RevisionStatus {
            revision: "api:1".to_owned(),
            reason: Reason::Retired,
            request_id: Some("request".to_owned()),
            ..RevisionStatus::default()
        };
        let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
        resource.metadata.generation = Some(2);
        resource.status = Some(TaskDefinitionRetirementStatus {
            account: Some("012345678910".to_owned()),
            region: Some("us-west-2".to_owned()),
            revisions: vec![retired.clone()],
            ..TaskDefinitionRetirementStatus::default()
        });
        let status = summarize(&resource, Report::Invalid(&InvalidSpec::Empty), Timestamp::UNIX_EPOCH);
        assert_eq!(status.revisions, [retired]);
        assert_eq!(status.account.as_deref(), Some("012345678910"));
        assert_eq!(status.region.as_deref(), Some("us-west-2"));
        assert_eq!(status.observed_generation, Some(2));
        assert_eq!(status.conditions[1].type_, STALLED);
        assert_eq!(status.conditions[1].message, InvalidSpec::Empty.to_string());
    }
}
