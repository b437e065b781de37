//! Validation of a spec: parses every field once. No I/O.

use std::fmt;

use k8s_openapi::jiff::SignedDuration;

use crate::{
    account::validate::ValidatedAccount,
    api::{InUse, TaskDefinitionRetirementSpec, task_definition_retirement::MAX_REVISIONS},
    duration::duration,
    task_definition::{ParseError, Reference, is_account, is_region},
};

/// A spec whose fields are valid. An entry that does not parse is reported in its own row.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedSpec {
    /// The declared revisions, in the order of the spec.
    pub revisions: Vec<Declared>,
    /// The name of the EcsAccount; `None` for the ambient credentials.
    pub account_ref: Option<String>,
    pub account_id: Option<String>,
    pub region: Option<String>,
    pub use_policy: UsePolicy,
    /// Why nothing may be deregistered; `None` if it may.
    pub suspended: Option<Suspended>,
    pub dry_run: bool,
}

/// One entry of `spec.revisions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The entry as it is written.
    pub text: String,
    /// The revision, or why the entry is none.
    pub reference: Result<Reference, String>,
}

/// What to do with a revision that is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UsePolicy {
    /// Wait until it has been unused for this long. `None` if any unused revision is retired.
    Wait {
        unused_for: Option<SignedDuration>,
    },
    Retire,
}

/// What suspends the retirement. The text is the message of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Suspended {
    BySpec,
    /// By the EcsAccount of this name.
    ByAccount(String),
}

impl fmt::Display for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BySpec => f.write_str("suspended: would be deregistered without spec.suspend"),
            Self::ByAccount(name) => write!(
                f,
                "suspended by EcsAccount {name} (its spec.suspend): deregistered once the administrator of the cluster resumes it"
            ),
        }
    }
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

/// Parses a spec.
///
/// # Errors
/// Returns [`InvalidSpec`] if a field other than the entries is invalid.
pub fn validate(spec: &TaskDefinitionRetirementSpec) -> Result<ValidatedSpec, InvalidSpec> {
    match spec.revisions.len() {
        0 => return Err(InvalidSpec::Empty),
        count if count > MAX_REVISIONS => return Err(InvalidSpec::TooMany(count)),
        _ => {}
    }
    if let Some(account_id) = spec.account_id.as_ref().filter(|account_id| !is_account(account_id)) {
        return Err(InvalidSpec::AccountId(account_id.clone()));
    }
    if let Some(region) = spec.region.as_ref().filter(|region| !is_region(region)) {
        return Err(InvalidSpec::Region(region.clone()));
    }
    let parsed = spec.revisions.iter().map(|text| Declared {
        text: text.clone(),
        reference: text.parse().map_err(|error: ParseError| error.to_string()),
    });
    Ok(ValidatedSpec {
        revisions: parsed.collect(),
        account_ref: spec.account_ref.as_ref().map(|account_ref| account_ref.name.clone()),
        account_id: spec.account_id.clone(),
        region: spec.region.clone(),
        use_policy: use_policy(spec)?,
        suspended: spec.suspend.then_some(Suspended::BySpec),
        dry_run: spec.dry_run,
    })
}

fn use_policy(spec: &TaskDefinitionRetirementSpec) -> Result<UsePolicy, InvalidSpec> {
    let parse = |text: &String| duration(text).ok_or_else(|| InvalidSpec::UnusedFor(text.clone()));
    let unused_for = spec.unused_for.as_ref().map(parse).transpose()?;
    match spec.in_use {
        InUse::Wait => Ok(UsePolicy::Wait { unused_for }),
        InUse::Retire if unused_for.is_some() => Err(InvalidSpec::UnusedForWithoutWait),
        InUse::Retire => Ok(UsePolicy::Retire),
    }
}

impl ValidatedSpec {
    /// Applies what an EcsAccount adds: a suspension, and a minimum of `unusedFor`.
    pub fn restrict(&mut self, account: &ValidatedAccount) {
        if account.is_suspended && self.suspended.is_none() {
            self.suspended = Some(Suspended::ByAccount(account.name.clone()));
        }
        if let UsePolicy::Wait { unused_for } = &mut self.use_policy {
            *unused_for = (*unused_for).max(account.minimum_unused_for);
        }
    }

    /// Returns the duration for which a revision must have been unused. `None` if it need not.
    #[must_use]
    pub fn unused_for(&self) -> Option<SignedDuration> {
        match self.use_policy {
            UsePolicy::Wait { unused_for } => unused_for,
            UsePolicy::Retire => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(count: usize) -> TaskDefinitionRetirementSpec {
        let revisions = (1..=count).map(|number| format!("api:{number}")).collect();
        TaskDefinitionRetirementSpec { revisions, ..Default::default() }
    }

    #[test]
    fn invalid_spec_is_reported_by_its_field() {
        assert_eq!(validate(&spec(0)), Err(InvalidSpec::Empty));
        assert_eq!(validate(&spec(501)), Err(InvalidSpec::TooMany(501)));
        assert!(validate(&spec(500)).is_ok());
        let region = TaskDefinitionRetirementSpec { region: Some("Oregon".to_owned()), ..spec(1) };
        assert_eq!(validate(&region), Err(InvalidSpec::Region("Oregon".to_owned())));
        let account = TaskDefinitionRetirementSpec { account_id: Some("12".to_owned()), ..spec(1) };
        assert_eq!(validate(&account), Err(InvalidSpec::AccountId("12".to_owned())));
    }

    #[test]
    fn unused_for_is_a_duration_and_requires_in_use_wait() {
        let policy = |unused_for: &str, in_use| {
            let unused_for = Some(unused_for.to_owned());
            let spec = TaskDefinitionRetirementSpec { in_use, unused_for, ..spec(1) };
            validate(&spec).map(|spec| spec.use_policy)
        };
        let unused_for = Some(SignedDuration::from_mins(90));
        assert_eq!(policy("1h30m", InUse::Wait), Ok(UsePolicy::Wait { unused_for }));
        assert_eq!(policy("soon", InUse::Wait), Err(InvalidSpec::UnusedFor("soon".to_owned())));
        assert_eq!(policy("24h", InUse::Retire), Err(InvalidSpec::UnusedForWithoutWait));
    }
}
