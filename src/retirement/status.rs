//! The status of a resource, from its spec, the recorded status and the observations of a
//! reconcile. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{REQUESTED_AT, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    aws::identity::Identity,
    aws::{
        permit_queue::QueuePosition,
        response::{Failure, Outcome},
    },
    retirement::{
        cool_down::last_scan,
        resolve::{Entry, InvalidSpec},
        row::row,
        size::{REQUESTED_AT_BYTES, cut, fitted},
        summary::Summary,
    },
};

/// Result of a (possibly partial) reconcile.
#[derive(Clone, Copy, Debug)]
pub enum Observation<'a> {
    Invalid(&'a InvalidSpec),
    Valid {
        region: &'a str,
        /// The account whose revisions the short forms refer to; `None` if it is not known yet.
        account: Option<&'a str>,
        entries: &'a [Entry],
        caller: Caller<'a>,
        outcomes: &'a BTreeMap<String, Outcome>,
        /// The position in the queue for a permit to deregister; `None` if the resource is not
        /// queued.
        position: Option<QueuePosition>,
        /// End of the usage scan that `outcomes` are based on, by AWS's clock. `None` if the scan
        /// did not confirm all revisions that are cooling down.
        scanned_at: Option<Timestamp>,
    },
}

/// The controller's AWS identity in the region of the resource.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    NotRequested,
    Known(&'a Identity),
    Unknown(&'a Failure),
}

impl<'a> Caller<'a> {
    #[must_use]
    pub fn of(identity: &'a Result<Identity, Failure>) -> Self {
        match identity {
            Ok(identity) => Self::Known(identity),
            Err(failure) => Self::Unknown(failure),
        }
    }
}

/// Returns the new status of a resource. The status of every resource that parses is built here.
#[must_use]
pub fn summarize(
    resource: &TaskDefinitionRetirement,
    observation: Observation<'_>,
    now: Timestamp,
) -> TaskDefinitionRetirementStatus {
    let recorded = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    let (region, account, rows, summary, scanned_at) = match observation {
        Observation::Invalid(error) => {
            let summary = Summary::invalid(error, resource.spec.revisions.len(), &recorded.revisions);
            (recorded.region, recorded.account, recorded.revisions, summary, None)
        }
        Observation::Valid { region, account, entries, caller, outcomes, position, scanned_at } => {
            let trigger = Trigger::of(resource, &recorded);
            let rows: Vec<RevisionStatus> = entries
                .iter()
                .map(|entry| row(entry, &resource.spec, &recorded.revisions, trigger, caller, outcomes))
                .collect();
            let summary = Summary::of(&rows, position.map(|position| (position, now)));
            (Some(region.to_owned()), account.map(str::to_owned), rows, summary, scanned_at)
        }
    };
    let uid = resource.uid().unwrap_or_default();
    fitted(TaskDefinitionRetirementStatus {
        observed_generation: generation,
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

/// Returns the value of the annotation that requests a reconcile, truncated as in the status.
#[must_use]
pub fn requested_at(resource: &TaskDefinitionRetirement) -> Option<String> {
    let mut requested = resource.annotations().get(REQUESTED_AT).cloned();
    if let Some(requested) = &mut requested {
        cut(requested, REQUESTED_AT_BYTES);
    }
    requested
}

/// Changes and requests by users since the status was recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trigger {
    pub spec_changed: bool,
    pub reconcile_requested: bool,
}

impl Trigger {
    #[must_use]
    pub fn of(resource: &TaskDefinitionRetirement, recorded: &TaskDefinitionRetirementStatus) -> Self {
        let requested = requested_at(resource);
        Self {
            spec_changed: recorded.observed_generation != resource.metadata.generation,
            reconcile_requested: requested.is_some() && requested != recorded.last_handled_reconcile_at,
        }
    }

    #[must_use]
    pub fn is_due(self) -> bool {
        self.spec_changed || self.reconcile_requested
    }
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
        let status = summarize(&resource, Observation::Invalid(&InvalidSpec::Empty), Timestamp::UNIX_EPOCH);
        assert_eq!(status.revisions, [retired]);
        assert_eq!(status.account.as_deref(), Some("012345678910"));
        assert_eq!(status.region.as_deref(), Some("us-west-2"));
        assert_eq!(status.observed_generation, Some(2));
        assert_eq!(status.conditions[1].type_, STALLED);
        assert_eq!(status.conditions[1].message, InvalidSpec::Empty.to_string());
    }
}
