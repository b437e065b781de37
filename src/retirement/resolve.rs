//! Resolution of a spec in the account and region of its resource. No I/O.

use std::collections::HashSet;

use crate::{
    account::authorize::Refused,
    api::{Reason, TaskDefinitionRetirementStatus},
    aws::identity::Identity,
    retirement::{
        account_guard::AccountGuard,
        outcome::RevisionKey,
        validate::{Declared, InvalidSpec, ValidatedSpec},
    },
    task_definition::{Arn, Reference, is_region},
};

/// One declared revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub key: RevisionKey,
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

/// Returns the region of a resource: that of the spec or, without one, `default_region`.
///
/// # Errors
/// Returns [`InvalidSpec`] if there is none, or if the region differs from the recorded one.
pub fn region(
    spec: &ValidatedSpec,
    status: Option<&TaskDefinitionRetirementStatus>,
    default_region: Option<&str>,
) -> Result<String, InvalidSpec> {
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

/// Returns the entries of a resource in the order of the spec. A revision that is declared twice is
/// one entry.
///
/// `identity` is `None` while the account of the credentials is not known, and `region` while the
/// region of the resource is not known. `refused` is why the
/// resource may use no credentials, and `refuse_family` why it may not for a family.
#[must_use]
pub fn entries(
    spec: &ValidatedSpec,
    identity: Option<&Identity>,
    guard: &AccountGuard<'_>,
    region: Option<&str>,
    refused: Option<&Refused>,
    refuse_family: impl Fn(&str) -> Option<Refused>,
) -> Vec<Entry> {
    let mut seen = HashSet::new();
    let wrong_account =
        guard.refusal(identity).map(|message| Refused { reason: Reason::WrongAccount, message });
    let refused = refused.or(wrong_account.as_ref());
    let entries = spec.revisions.iter().map(|Declared { text, reference }| {
        let reference = match reference {
            Ok(reference) => reference,
            Err(error) => return rejected(text, Reason::Invalid, error.clone()),
        };
        let refused = refused.cloned().or_else(|| refuse_family(reference.family()));
        match refused {
            Some(refused) => refuse(text, reference, (guard.account(identity), region), refused),
            None => entry(text, reference.clone(), identity),
        }
    });
    entries.filter(|entry| seen.insert(entry.key.clone())).collect()
}

/// Returns an entry of a resource for which calls are forbidden. A revision of the account and
/// region of the resource keeps the short form as its key.
fn refuse(
    text: &str,
    reference: &Reference,
    resource: (Option<&str>, Option<&str>),
    refused: Refused,
) -> Entry {
    let key = match reference {
        Reference::Arn(arn) if (Some(arn.account()), Some(arn.region())) == resource => {
            arn.revision().to_string()
        }
        Reference::Arn(_) => text.to_owned(),
        Reference::Revision(revision) => revision.to_string(),
    };
    rejected(&key, refused.reason, refused.message)
}

fn entry(text: &str, reference: Reference, identity: Option<&Identity>) -> Entry {
    let Some(identity) = identity else {
        return Entry { key: RevisionKey::new(text), target: Target::Unresolved(reference) };
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
    Entry { key: RevisionKey::new(arn.revision().to_string()), target: Target::Resolved(arn) }
}

fn rejected(text: &str, reason: Reason, message: String) -> Entry {
    Entry { key: RevisionKey::new(text), target: Target::Rejected { reason, message } }
}

#[cfg(test)]
mod tests;
