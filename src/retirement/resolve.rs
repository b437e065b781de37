//! What one resource declares, entry by entry, in the account and region it is for. Pure.

use std::collections::HashSet;

use k8s_openapi::jiff::SignedDuration;

use crate::{
    api::{
        InUse, Reason, TaskDefinitionRetirementSpec, TaskDefinitionRetirementStatus,
        task_definition_retirement::MAX_REVISIONS,
    },
    aws::identity::Identity,
    retirement::account_guard::AccountGuard,
    task_definition::{Arn, Reference, is_account, is_region},
};

/// One declared revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its key in the status: the short form, or the text of the manifest where it is of elsewhere.
    pub revision: String,
    pub target: Target,
}

/// What an entry stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A revision of the account, partition and region that the resource is for.
    Resolved(Arn),
    /// A legal entry, while it is not known yet in which account the resource is.
    Unresolved(Reference),
    /// Never called.
    Rejected { reason: Reason, message: String },
}

/// Why no entry of a resource can be acted on at all. Each message names the field, its value and what to write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSpec {
    #[error("spec.revisions is empty: declare 1 to {MAX_REVISIONS} revisions")]
    Empty,
    #[error(
        "spec.revisions has {0} entries: declare at most {MAX_REVISIONS}, and make another TaskDefinitionRetirement for the rest"
    )]
    TooMany(usize),
    #[error(
        "spec.accountId is {0:?}: write the 12 digits of an AWS account, in quotes, such as \"012345678910\""
    )]
    AccountId(String),
    #[error("spec.region is {0:?}: write the code of an AWS region, such as us-west-2")]
    Region(String),
    #[error(
        "spec.region is not set and the controller has no default region: set spec.region, such as us-west-2"
    )]
    NoRegion,
    #[error("spec.unusedFor is {0:?}: write a duration such as 20s, 90m or 24h")]
    UnusedFor(String),
    #[error("spec.unusedFor is only for spec.inUse: Wait: remove it, or write inUse: Wait")]
    UnusedForWithoutWait,
    #[error(
        "the region was {before} and is now {now}: a resource must_wait its region; make a new TaskDefinitionRetirement for {now}"
    )]
    RegionChanged { before: String, now: String },
}

/// The region that a resource is for.
///
/// # Errors
/// [`InvalidSpec`] where none of its entries can be acted on, whatever they are.
pub fn region(
    spec: &TaskDefinitionRetirementSpec,
    status: Option<&TaskDefinitionRetirementStatus>,
    default_region: Option<&str>,
) -> Result<String, InvalidSpec> {
    match spec.revisions.len() {
        0 => return Err(InvalidSpec::Empty),
        count if count > MAX_REVISIONS => return Err(InvalidSpec::TooMany(count)),
        _ => {}
    }
    if let Some(unused_for) = &spec.unused_for {
        duration(unused_for).ok_or_else(|| InvalidSpec::UnusedFor(unused_for.clone()))?;
        if spec.in_use != InUse::Wait {
            return Err(InvalidSpec::UnusedForWithoutWait);
        }
    }
    if let Some(account_id) = spec.account_id.as_ref().filter(|account_id| !is_account(account_id)) {
        return Err(InvalidSpec::AccountId(account_id.clone()));
    }
    let region = spec.region.as_deref().or(default_region).ok_or(InvalidSpec::NoRegion)?;
    if !is_region(region) {
        return Err(InvalidSpec::Region(region.to_owned()));
    }
    match status.and_then(|status| status.region.as_deref()) {
        Some(before) if before != region => {
            Err(InvalidSpec::RegionChanged { before: before.to_owned(), now: region.to_owned() })
        }
        _ => Ok(region.to_owned()),
    }
}

/// A duration in hours, minutes and seconds, as Kubernetes writes them.
#[must_use]
pub fn duration(text: &str) -> Option<SignedDuration> {
    let is_strict = text.chars().all(|char| char.is_ascii_digit() || "hms".contains(char));
    is_strict.then(|| text.parse().ok()).flatten()
}

/// The entries of a resource, in its order; the same revision written twice is one entry.
///
/// `identity` is `None` while the account of the credentials is not known.
#[must_use]
pub fn entries(
    spec: &TaskDefinitionRetirementSpec,
    identity: Option<&Identity>,
    guard: &AccountGuard<'_>,
) -> Vec<Entry> {
    let mut seen = HashSet::new();
    let refusal = guard.refusal(identity);
    let entries = spec.revisions.iter().map(|text| match (text.parse(), &refusal) {
        (Ok(reference), Some(refusal)) => refused(text, &reference, guard.account(identity), refusal),
        (Ok(reference), None) => entry(text, reference, identity),
        (Err(error), _) => rejected(text, Reason::Invalid, error.to_string()),
    });
    entries.filter(|entry| seen.insert(entry.revision.clone())).collect()
}

/// Returns the entry of a resource that may not be acted on. A revision of `account` must_wait the short form as
/// its key, as it has where the resource may be acted on.
fn refused(text: &str, reference: &Reference, account: Option<&str>, refusal: &str) -> Entry {
    let key = match reference {
        Reference::Arn(arn) if Some(arn.account()) != account => text.to_owned(),
        Reference::Arn(arn) => arn.revision().to_string(),
        Reference::Revision(revision) => revision.to_string(),
    };
    rejected(&key, Reason::WrongAccount, refusal.to_owned())
}

fn entry(text: &str, reference: Reference, identity: Option<&Identity>) -> Entry {
    let Some(identity) = identity else {
        return Entry { revision: text.to_owned(), target: Target::Unresolved(reference) };
    };
    match reference {
        Reference::Revision(revision) => here(identity.arn(&revision)),
        Reference::Arn(arn) if arn.account() != identity.account || arn.partition() != identity.partition => {
            let message = format!(
                "the controller's credentials are of account {} in partition {}: this revision must be declared where those of its own account are used",
                identity.account, identity.partition
            );
            rejected(text, Reason::WrongAccount, message)
        }
        Reference::Arn(arn) if arn.region() != identity.region => {
            let message = format!(
                "this resource is for region {}: declare the revision in a TaskDefinitionRetirement with spec.region {}",
                identity.region,
                arn.region()
            );
            rejected(text, Reason::WrongRegion, message)
        }
        Reference::Arn(arn) => here(arn),
    }
}

fn here(arn: Arn) -> Entry {
    Entry { revision: arn.revision().to_string(), target: Target::Resolved(arn) }
}

fn rejected(text: &str, reason: Reason, message: String) -> Entry {
    Entry { revision: text.to_owned(), target: Target::Rejected { reason, message } }
}

#[cfg(test)]
mod tests;
