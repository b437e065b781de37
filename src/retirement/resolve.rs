//! Validation of the spec, and resolution of its entries in the account and region of the resource.
//! No I/O.

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
    /// The key in the status: the short form, or the literal entry of the spec if it belongs to
    /// another account or region.
    pub revision: String,
    pub target: Target,
}

/// The revision that an entry refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A revision in the account, partition and region of the resource.
    Resolved(Arn),
    /// A valid entry whose account is not known yet.
    Unresolved(Reference),
    /// An entry that no call is made for.
    Rejected { reason: Reason, message: String },
}

/// An error in the spec that affects every entry. Each message names the field, its value and what
/// to write.
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
        "the region was {before} and is now {now}: a resource keeps its region; make a new TaskDefinitionRetirement for {now}"
    )]
    RegionChanged { before: String, now: String },
}

/// Validates the fields of the spec other than the entries, and returns the region of the resource.
///
/// # Errors
/// Returns [`InvalidSpec`] if a field is invalid, or if the region differs from the recorded one.
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

/// Parses a duration in hours, minutes and seconds, as Kubernetes writes them. Returns `None` if it
/// is invalid.
#[must_use]
pub fn duration(text: &str) -> Option<SignedDuration> {
    let is_strict = text.chars().all(|char| char.is_ascii_digit() || "hms".contains(char));
    is_strict.then(|| text.parse().ok()).flatten()
}

/// Returns the entries of a resource in the order of the spec. A revision that is declared twice is
/// one entry.
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

/// Returns an entry of a resource for which calls are forbidden. A revision of `account` keeps the
/// short form as its key.
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
        Reference::Revision(revision) => resolved(identity.arn(&revision)),
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
        Reference::Arn(arn) => resolved(arn),
    }
}

fn resolved(arn: Arn) -> Entry {
    Entry { revision: arn.revision().to_string(), target: Target::Resolved(arn) }
}

fn rejected(text: &str, reason: Reason, message: String) -> Entry {
    Entry { revision: text.to_owned(), target: Target::Rejected { reason, message } }
}

#[cfg(test)]
mod tests;
