//! What one resource declares, entry by entry, in the account and region it is for. Pure.

use std::collections::HashSet;

use k8s_openapi::jiff::SignedDuration;

use crate::{
    account::identity::Identity,
    api::{
        InUse, Reason, TaskDefinitionRetirementSpec, TaskDefinitionRetirementStatus,
        task_definition_retirement::MAX_REVISIONS,
    },
    task_definition::{Arn, Reference, is_region},
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
    Here(Arn),
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
/// `account` is the one that the resource's revisions were already resolved in, if any: short forms mean
/// revisions of that account for good.
#[must_use]
pub fn entries(
    spec: &TaskDefinitionRetirementSpec,
    identity: Option<&Identity>,
    account: Option<&str>,
) -> Vec<Entry> {
    let mut seen = HashSet::new();
    let entries = spec.revisions.iter().map(|text| match text.parse() {
        Ok(reference) => entry(text, reference, identity, account),
        Err(error) => rejected(text, Reason::Invalid, error.to_string()),
    });
    entries.filter(|entry| seen.insert(entry.revision.clone())).collect()
}

fn entry(text: &str, reference: Reference, identity: Option<&Identity>, account: Option<&str>) -> Entry {
    let Some(identity) = identity else {
        return Entry { revision: text.to_owned(), target: Target::Unresolved(reference) };
    };
    if let Some(account) = account.filter(|account| *account != identity.account) {
        let message = format!(
            "the revisions of this resource are of account {account}, and the controller's credentials are now of account {}: make a new TaskDefinitionRetirement for that account",
            identity.account
        );
        let revision = match &reference {
            Reference::Revision(revision) => revision.to_string(),
            Reference::Arn(arn) if arn.account() == account => arn.revision().to_string(),
            Reference::Arn(arn) => arn.to_string(),
        };
        return Entry { revision, target: Target::Rejected { reason: Reason::WrongAccount, message } };
    }
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
    Entry { revision: arn.revision().to_string(), target: Target::Here(arn) }
}

fn rejected(text: &str, reason: Reason, message: String) -> Entry {
    Entry { revision: text.to_owned(), target: Target::Rejected { reason, message } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            partition: "aws".to_owned(),
            account: "012345678910".to_owned(),
            region: "us-west-2".to_owned(),
        }
    }

    fn spec(revisions: &[&str]) -> TaskDefinitionRetirementSpec {
        TaskDefinitionRetirementSpec {
            revisions: revisions.iter().map(|&text| text.to_owned()).collect(),
            ..TaskDefinitionRetirementSpec::default()
        }
    }

    fn reasons(
        revisions: &[&str],
        identity: Option<&Identity>,
        account: Option<&str>,
    ) -> Vec<Option<Reason>> {
        entries(&spec(revisions), identity, account)
            .iter()
            .map(|entry| match &entry.target {
                Target::Rejected { reason, .. } => Some(*reason),
                Target::Here(_) | Target::Unresolved(_) => None,
            })
            .collect()
    }

    const CPU_WAVE: &str = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";

    #[test]
    fn the_short_form_and_the_arn_are_one_entry() {
        let entries = entries(&spec(&["cpu-wave:1", CPU_WAVE, "cpu-wave:1"]), Some(&identity()), None);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].revision, "cpu-wave:1");
        assert!(matches!(&entries[0].target, Target::Here(arn) if arn.to_string() == CPU_WAVE));
    }

    #[test]
    fn what_is_of_elsewhere_is_rejected_with_its_arn_as_key() {
        let elsewhere = [
            ("arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:1", Reason::WrongAccount),
            ("arn:aws-cn:ecs:us-west-2:012345678910:task-definition/cpu-wave:1", Reason::WrongAccount),
            ("arn:aws:ecs:eu-west-1:012345678910:task-definition/cpu-wave:1", Reason::WrongRegion),
        ];
        for (arn, expected) in elsewhere {
            let entries = entries(&spec(&[arn, "cpu-wave:1"]), Some(&identity()), None);
            assert_eq!(entries[0].revision, arn);
            assert!(matches!(&entries[0].target, Target::Rejected { reason, .. } if *reason == expected));
            assert!(matches!(&entries[1].target, Target::Here(_)));
        }
    }

    #[test]
    fn nothing_resolves_in_another_account_than_the_first() {
        let declared = ["cpu-wave:1", CPU_WAVE];
        assert_eq!(
            reasons(&declared, Some(&identity()), Some("999999999999")),
            [Some(Reason::WrongAccount), Some(Reason::WrongAccount)]
        );
        assert_eq!(reasons(&declared, Some(&identity()), Some("012345678910")), [None]);
    }

    #[test]
    fn a_bad_entry_costs_no_other_entry_anything() {
        assert_eq!(
            reasons(&["cpu-wave", "cpu-wave:1", "cpu-wave:+7"], Some(&identity()), None),
            [Some(Reason::Invalid), None, Some(Reason::Invalid)]
        );
        assert_eq!(reasons(&["cpu-wave", "cpu-wave:1"], None, None), [Some(Reason::Invalid), None]);
    }

    #[test]
    fn a_spec_that_cannot_be_acted_on_says_what_to_write() {
        let many: Vec<String> = (1..=501).map(|number| format!("api:{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let moved = TaskDefinitionRetirementStatus {
            region: Some("eu-west-1".to_owned()),
            ..TaskDefinitionRetirementStatus::default()
        };
        let named =
            |name: &str| TaskDefinitionRetirementSpec { region: Some(name.to_owned()), ..spec(&["api:1"]) };
        assert_eq!(region(&spec(&[]), None, Some("us-west-2")), Err(InvalidSpec::Empty));
        assert_eq!(region(&spec(&many), None, Some("us-west-2")), Err(InvalidSpec::TooMany(501)));
        assert_eq!(region(&spec(&many[1..]), None, Some("us-west-2")), Ok("us-west-2".to_owned()));
        assert_eq!(region(&spec(&["api:1"]), None, None), Err(InvalidSpec::NoRegion));
        assert_eq!(region(&named("Oregon"), None, None), Err(InvalidSpec::Region("Oregon".to_owned())));
        assert!(matches!(
            region(&named("us-west-2"), Some(&moved), None),
            Err(InvalidSpec::RegionChanged { .. })
        ));
        assert_eq!(region(&named("eu-west-1"), Some(&moved), None), Ok("eu-west-1".to_owned()));
        assert_eq!(region(&spec(&["api:1"]), None, Some("us-west-2")), Ok("us-west-2".to_owned()));
    }

    #[test]
    fn a_quiet_time_is_a_duration_and_only_for_those_who_wait() {
        let quiet = |unused_for: &str, in_use| {
            let unused_for = Some(unused_for.to_owned());
            let spec = TaskDefinitionRetirementSpec { in_use, unused_for, ..spec(&["api:1"]) };
            region(&spec, None, Some("us-west-2"))
        };
        assert_eq!(quiet("1h30m", InUse::Wait), Ok("us-west-2".to_owned()));
        assert_eq!(quiet("soon", InUse::Wait), Err(InvalidSpec::UnusedFor("soon".to_owned())));
        assert_eq!(quiet("24h", InUse::Retire), Err(InvalidSpec::UnusedForWithoutWait));
    }

    #[test]
    fn a_row_keeps_its_key_when_the_account_changes() {
        let of_other = "arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:1";
        let keys = |account| {
            let entries = entries(&spec(&["cpu-wave:2", of_other]), Some(&identity()), Some(account));
            entries.into_iter().map(|entry| entry.revision).collect::<Vec<_>>()
        };
        assert_eq!(keys("999999999999"), ["cpu-wave:2", "cpu-wave:1"], "resolved there before");
        assert_eq!(keys("012345678910"), ["cpu-wave:2", of_other]);
        assert_eq!(keys("111111111111"), ["cpu-wave:2", of_other]);
    }

    proptest! {
        #[test]
        fn what_resolves_is_always_of_the_identity(text in "[a-z]{1,3}:[1-9]|arn:aws(-cn)?:ecs:(us-west-2|eu-west-1):(012345678910|999999999999):task-definition/[a-z]:[1-9]") {
            let identity = identity();
            for entry in entries(&spec(&[&text]), Some(&identity), None) {
                if let Target::Here(arn) = entry.target {
                    prop_assert_eq!(arn.account(), &identity.account);
                    prop_assert_eq!(arn.region(), &identity.region);
                    prop_assert_eq!(arn.partition(), &identity.partition);
                    prop_assert!(text == entry.revision || text == arn.to_string());
                }
            }
        }
    }
}
