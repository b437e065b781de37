//! Validation of a policy: parses every field once. No I/O.

use std::collections::BTreeSet;

use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;

use crate::{
    api::{TaskDefinitionRetentionPolicy, task_definition_retention_policy::Approval},
    duration::duration,
    family_pattern::FamilyPattern,
    task_definition::{Reference, Revision, is_account, is_region},
};

/// Maximum length of the name of a policy: the names of its retirements begin with it.
pub const NAME_LENGTH: usize = 52;

/// The shortest interval between runs.
const SHORTEST_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// A policy whose fields are valid.
#[derive(Clone, Debug)]
pub struct ValidatedPolicy {
    pub account_ref: Option<String>,
    pub account_id: Option<String>,
    pub region: Option<String>,
    pub include: Vec<FamilyPattern>,
    pub exclude: Vec<FamilyPattern>,
    /// The number of newest ACTIVE revisions of each family to keep.
    pub latest: u32,
    pub younger_than: Option<SignedDuration>,
    pub kept_revisions: BTreeSet<Revision>,
    pub interval: SignedDuration,
    pub is_manual: bool,
    pub max_revisions: usize,
    pub history_limit: Option<usize>,
    pub is_suspended: bool,
    /// `spec.retirement.unusedFor` as it is written.
    pub unused_for: Option<String>,
    pub is_dry_run: bool,
}

/// An error in the spec of a policy. Each message names the field, its value and what to write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidPolicy {
    #[error("the name {0:?} is longer than {NAME_LENGTH} characters: make a policy with a shorter name")]
    Name(String),
    #[error(
        "spec.accountId is {0:?}: write the 12 digits of an AWS account, in quotes, such as \"012345678910\""
    )]
    AccountId(String),
    #[error("spec.region is {0:?}: write the code of an AWS region, such as us-west-2")]
    Region(String),
    #[error("spec.families.include is empty: name the families of the policy; \"*\" is every family")]
    NoFamily,
    #[error("{field}: {message}")]
    Family { field: &'static str, message: String },
    #[error("spec.keep.latest is {0}: write a number from 1 to 1000")]
    Latest(u32),
    #[error("spec.keep.revisions: {0:?} is not a revision: write family:revision, such as cpu-wave:1")]
    Kept(String),
    #[error("{field} is {text:?}: write a duration such as 20s, 90m or 24h")]
    Duration { field: &'static str, text: String },
    #[error("spec.interval is {0:?}: write a duration of at least 1m, such as 24h")]
    Interval(String),
    #[error("spec.maxRevisionsPerRun is {0}: write a number from 1 to 5000")]
    MaxRevisions(u32),
}

/// Parses a policy.
///
/// # Errors
/// Returns [`InvalidPolicy`] if a field is invalid.
pub fn validate(policy: &TaskDefinitionRetentionPolicy) -> Result<ValidatedPolicy, InvalidPolicy> {
    let spec = &policy.spec;
    let name = policy.name_any();
    if name.len() > NAME_LENGTH {
        return Err(InvalidPolicy::Name(name));
    }
    if let Some(account_id) = spec.account_id.as_ref().filter(|it| !is_account(it)) {
        return Err(InvalidPolicy::AccountId(account_id.clone()));
    }
    if let Some(region) = spec.region.as_ref().filter(|it| !is_region(it)) {
        return Err(InvalidPolicy::Region(region.clone()));
    }
    if spec.families.include.is_empty() {
        return Err(InvalidPolicy::NoFamily);
    }
    if !(1..=1000).contains(&spec.keep.latest) {
        return Err(InvalidPolicy::Latest(spec.keep.latest));
    }
    if !(1..=5000).contains(&spec.max_revisions_per_run) {
        return Err(InvalidPolicy::MaxRevisions(spec.max_revisions_per_run));
    }
    let unused_for = spec.retirement.unused_for.clone();
    parse_duration("spec.retirement.unusedFor", unused_for.as_ref())?;
    Ok(ValidatedPolicy {
        account_ref: spec.account_ref.as_ref().map(|account_ref| account_ref.name.clone()),
        account_id: spec.account_id.clone(),
        region: spec.region.clone(),
        include: patterns("spec.families.include", &spec.families.include)?,
        exclude: patterns("spec.families.exclude", &spec.families.exclude)?,
        latest: spec.keep.latest,
        younger_than: parse_duration("spec.keep.youngerThan", spec.keep.younger_than.as_ref())?,
        kept_revisions: kept_revisions(&spec.keep.revisions)?,
        interval: interval(&spec.interval)?,
        is_manual: spec.approval == Approval::Manual,
        max_revisions: usize::try_from(spec.max_revisions_per_run).unwrap_or(usize::MAX),
        history_limit: spec.history_limit.and_then(|limit| usize::try_from(limit).ok()),
        is_suspended: spec.suspend,
        unused_for,
        is_dry_run: spec.retirement.dry_run,
    })
}

fn patterns(field: &'static str, texts: &[String]) -> Result<Vec<FamilyPattern>, InvalidPolicy> {
    let parse = |text: &String| {
        text.parse().map_err(|error: crate::family_pattern::InvalidPattern| InvalidPolicy::Family {
            field,
            message: error.to_string(),
        })
    };
    texts.iter().map(parse).collect()
}

fn kept_revisions(texts: &[String]) -> Result<BTreeSet<Revision>, InvalidPolicy> {
    let parse = |text: &String| match text.parse() {
        Ok(Reference::Revision(revision)) => Ok(revision),
        _ => Err(InvalidPolicy::Kept(text.clone())),
    };
    texts.iter().map(parse).collect()
}

fn parse_duration(
    field: &'static str,
    text: Option<&String>,
) -> Result<Option<SignedDuration>, InvalidPolicy> {
    let parse =
        |text: &String| duration(text).ok_or_else(|| InvalidPolicy::Duration { field, text: text.clone() });
    text.map(parse).transpose()
}

fn interval(text: &str) -> Result<SignedDuration, InvalidPolicy> {
    let interval = duration(text).filter(|interval| *interval >= SHORTEST_INTERVAL);
    interval.ok_or_else(|| InvalidPolicy::Interval(text.to_owned()))
}

impl ValidatedPolicy {
    /// Returns true if the policy applies to a family.
    #[must_use]
    pub fn includes(&self, family: &str) -> bool {
        let matches = |patterns: &[FamilyPattern]| patterns.iter().any(|pattern| pattern.matches(family));
        matches(&self.include) && !matches(&self.exclude)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(change: impl FnOnce(&mut Value)) -> Result<ValidatedPolicy, String> {
        let mut spec = json!({ "families": { "include": ["web-*"] }, "keep": { "latest": 5 } });
        change(&mut spec);
        let policy = TaskDefinitionRetentionPolicy::new("web", serde_json::from_value(spec).expect("a spec"));
        validate(&policy).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        let policy = policy(|_| {}).expect("valid");
        assert!(policy.is_manual && !policy.is_suspended && !policy.is_dry_run);
        assert_eq!((policy.max_revisions, policy.interval), (500, SignedDuration::from_hours(24)));
        assert_eq!((policy.history_limit, policy.younger_than), (None, None));
    }

    #[test]
    fn invalid_field_is_named_with_its_value() {
        let table = [
            ("keep", json!({ "latest": 0 }), "spec.keep.latest is 0"),
            ("keep", json!({ "latest": 1001 }), "spec.keep.latest is 1001"),
            ("keep", json!({ "latest": 1, "youngerThan": "a week" }), "spec.keep.youngerThan is \"a week\""),
            ("keep", json!({ "latest": 1, "revisions": ["web"] }), "spec.keep.revisions: \"web\""),
            ("families", json!({ "include": [] }), "spec.families.include is empty"),
            ("families", json!({ "include": ["web:1"] }), "spec.families.include: \"web:1\""),
            ("families", json!({ "include": ["*"], "exclude": [""] }), "spec.families.exclude: \"\""),
            ("interval", json!("59s"), "spec.interval is \"59s\""),
            ("maxRevisionsPerRun", json!(0), "spec.maxRevisionsPerRun is 0"),
            ("maxRevisionsPerRun", json!(5001), "spec.maxRevisionsPerRun is 5001"),
            ("retirement", json!({ "unusedFor": "1d" }), "spec.retirement.unusedFor is \"1d\""),
        ];
        for (field, value, expected) in table {
            let error = policy(|spec| spec[field] = value).expect_err(field);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn family_is_included_unless_it_is_excluded() {
        let families = json!({ "include": ["web-*", "api"], "exclude": ["web-payments"] });
        let policy = policy(|spec| spec["families"] = families).expect("valid");
        assert!(policy.includes("web-shop") && policy.includes("api"));
        assert!(!policy.includes("web-payments") && !policy.includes("api-v2") && !policy.includes("job"));
    }
}
