//! Validation of an EcsAccount: parses every field once. No I/O.

use std::collections::BTreeSet;

use k8s_openapi::jiff::SignedDuration;
use kube::{ResourceExt, core::Selector};

use crate::{
    api::{EcsAccount, ecs_account::AllowedNamespaces},
    aws::{AssumedRole, permit_queue::Pacing, source::AccountSource},
    duration::duration,
    family_pattern::FamilyPattern,
    task_definition::{is_account, is_region},
};

/// An EcsAccount whose fields are valid.
#[derive(Clone, Debug)]
pub struct ValidatedAccount {
    pub name: String,
    pub source: AccountSource,
    pub allowed_regions: BTreeSet<String>,
    pub namespace_names: BTreeSet<String>,
    /// Selects further namespaces by their labels. `None` if it selects none.
    pub namespace_selector: Option<Selector>,
    pub allowed_families: Vec<FamilyPattern>,
    pub denied_families: Vec<FamilyPattern>,
    pub requires_unused: bool,
    pub minimum_unused_for: Option<SignedDuration>,
    pub is_suspended: bool,
}

/// An error in the spec of an EcsAccount. Each message names the field, its value and what to
/// write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAccount {
    #[error(
        "spec.accountId is {0:?}: write the 12 digits of an AWS account, in quotes, such as \"012345678910\""
    )]
    AccountId(String),
    #[error("{field} is {region:?}: write the code of an AWS region, such as us-west-2")]
    Region { field: &'static str, region: String },
    #[error("spec.region is {0}, which is not in spec.allowedRegions: add it, or change spec.region")]
    RegionNotAllowed(String),
    #[error(
        "spec.assumeRole.roleArn is {0:?}: write the ARN of an IAM role, such as arn:aws:iam::012345678910:role/ecs-retirement"
    )]
    Role(String),
    #[error(
        "spec.assumeRole.roleArn is {role}, a role of another account than spec.accountId, which is {account}: name a role in that account"
    )]
    RoleOfAnotherAccount { role: String, account: String },
    #[error("spec.families.allow is empty: name the families that may be retired; \"*\" is every family")]
    NoFamily,
    #[error("{field}: {message}")]
    Family { field: &'static str, message: String },
    #[error("spec.minimumUnusedFor is {0:?}: write a duration such as 20s, 90m or 24h")]
    MinimumUnusedFor(String),
    #[error(
        "spec.pacing.{0} is 0: write a number of at least 1, or set spec.suspend to stop deregistrations"
    )]
    Pacing(&'static str),
}

/// Parses an EcsAccount. `pacing` applies where the account declares none.
///
/// # Errors
/// Returns [`InvalidAccount`] if a field is invalid. A namespace selector that does not parse is
/// not an error: it selects nothing.
pub fn validate(account: &EcsAccount, pacing: Pacing) -> Result<ValidatedAccount, InvalidAccount> {
    let spec = &account.spec;
    if !is_account(&spec.account_id) {
        return Err(InvalidAccount::AccountId(spec.account_id.clone()));
    }
    let region = |field, region: &String| {
        let invalid = || InvalidAccount::Region { field, region: region.clone() };
        is_region(region).then(|| region.clone()).ok_or_else(invalid)
    };
    let default_region = region("spec.region", &spec.region)?;
    let allowed = spec.allowed_regions.iter().flatten().map(|it| region("spec.allowedRegions", it));
    let mut allowed_regions = allowed.collect::<Result<BTreeSet<_>, _>>()?;
    if spec.allowed_regions.is_none() {
        allowed_regions.insert(default_region.clone());
    } else if !allowed_regions.contains(&default_region) {
        return Err(InvalidAccount::RegionNotAllowed(default_region));
    }
    if spec.families.allow.is_empty() {
        return Err(InvalidAccount::NoFamily);
    }
    let duration =
        |text: &String| duration(text).ok_or_else(|| InvalidAccount::MinimumUnusedFor(text.clone()));
    let minimum_unused_for = spec.minimum_unused_for.as_ref().map(duration).transpose()?;
    let AllowedNamespaces { names, selector } = spec.allowed_namespaces.clone().unwrap_or_default();
    Ok(ValidatedAccount {
        name: account.name_any(),
        source: AccountSource {
            uid: account.uid().unwrap_or_default(),
            generation: account.metadata.generation.unwrap_or_default(),
            account: spec.account_id.clone(),
            region: default_region,
            role: role(account)?,
            pacing: account_pacing(account, pacing)?,
        },
        allowed_regions,
        namespace_names: names.into_iter().collect(),
        namespace_selector: selector.and_then(|selector| selector.try_into().ok()),
        allowed_families: patterns("spec.families.allow", &spec.families.allow)?,
        denied_families: patterns("spec.families.deny", &spec.families.deny)?,
        requires_unused: spec.require_unused || minimum_unused_for.is_some(),
        minimum_unused_for,
        is_suspended: spec.suspend,
    })
}

fn patterns(field: &'static str, texts: &[String]) -> Result<Vec<FamilyPattern>, InvalidAccount> {
    let parse = |text: &String| {
        text.parse().map_err(|error: crate::family_pattern::InvalidPattern| InvalidAccount::Family {
            field,
            message: error.to_string(),
        })
    };
    texts.iter().map(parse).collect()
}

fn role(account: &EcsAccount) -> Result<Option<AssumedRole>, InvalidAccount> {
    let Some(role) = &account.spec.assume_role else { return Ok(None) };
    let parts: Vec<&str> = role.role_arn.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, "iam", "", of, name] if is_account(of) && name.starts_with("role/") => {
            if *of != account.spec.account_id {
                let (role, account) = (role.role_arn.clone(), account.spec.account_id.clone());
                return Err(InvalidAccount::RoleOfAnotherAccount { role, account });
            }
        }
        _ => return Err(InvalidAccount::Role(role.role_arn.clone())),
    }
    Ok(Some(AssumedRole { arn: role.role_arn.clone(), external_id: role.external_id.clone() }))
}

fn account_pacing(account: &EcsAccount, default: Pacing) -> Result<Option<Pacing>, InvalidAccount> {
    let Some(declared) = account.spec.pacing else { return Ok(None) };
    let per_second = match declared.deregistrations_per_minute {
        Some(0) => return Err(InvalidAccount::Pacing("deregistrationsPerMinute")),
        Some(per_minute) => f64::from(per_minute) / 60.0,
        None => default.per_second,
    };
    let burst = match declared.deregistration_burst {
        Some(0) => return Err(InvalidAccount::Pacing("deregistrationBurst")),
        burst => burst.unwrap_or(default.burst),
    };
    Ok(Some(Pacing { per_second, burst }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PACING: Pacing = Pacing { per_second: 0.5, burst: 10 };

    fn spec(change: impl FnOnce(&mut Value)) -> Result<ValidatedAccount, String> {
        let mut spec = json!({
            "accountId": "012345678910", "region": "us-west-2", "families": { "allow": ["web-*"] },
        });
        change(&mut spec);
        let account = EcsAccount::new("prod", serde_json::from_value(spec).expect("a spec"));
        validate(&account, PACING).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_allow_one_region_and_no_namespace() {
        let account = spec(|_| {}).expect("valid");
        assert_eq!(account.allowed_regions, BTreeSet::from(["us-west-2".to_owned()]));
        assert!(account.namespace_names.is_empty() && account.namespace_selector.is_none());
        assert!(!account.requires_unused && account.source.role.is_none() && account.source.pacing.is_none());
    }

    #[test]
    fn invalid_field_is_named_with_its_value() {
        let role = |arn: &str| json!({ "roleArn": arn });
        let table: [(&str, Value, &str); 9] = [
            ("accountId", json!("123"), "spec.accountId is \"123\""),
            ("region", json!("Oregon"), "spec.region is \"Oregon\""),
            ("allowedRegions", json!(["eu-west-1"]), "spec.region is us-west-2, which is not in"),
            ("allowedRegions", json!(["us-west-2", "x"]), "spec.allowedRegions is \"x\""),
            ("assumeRole", role("arn:aws:iam::999999999999:role/r"), "a role of another account"),
            ("assumeRole", role("arn:aws:iam::012345678910:user/u"), "write the ARN of an IAM role"),
            ("families", json!({ "allow": [] }), "spec.families.allow is empty"),
            ("families", json!({ "allow": ["*"], "deny": ["a?"] }), "spec.families.deny: \"a?\""),
            ("minimumUnusedFor", json!("soon"), "spec.minimumUnusedFor is \"soon\""),
        ];
        for (field, value, expected) in table {
            let error = spec(|spec| spec[field] = value).expect_err(field);
            assert!(error.contains(expected), "{error}");
        }
        let zero = json!({ "deregistrationBurst": 0 });
        assert!(spec(|spec| spec["pacing"] = zero).expect_err("zero").contains("deregistrationBurst is 0"));
    }

    #[test]
    fn minimum_unused_for_implies_require_unused() {
        assert!(spec(|spec| spec["minimumUnusedFor"] = json!("1h")).expect("valid").requires_unused);
    }

    #[test]
    fn pacing_is_per_minute_and_defaults_to_that_of_the_process() {
        let pacing = |value| spec(|spec| spec["pacing"] = value).expect("valid").source.pacing;
        assert_eq!(
            pacing(json!({ "deregistrationsPerMinute": 6 })),
            Some(Pacing { per_second: 0.1, burst: 10 })
        );
        assert_eq!(pacing(json!({ "deregistrationBurst": 3 })), Some(Pacing { per_second: 0.5, burst: 3 }));
    }

    #[test]
    fn selector_that_does_not_parse_selects_nothing() {
        let selector = |value| {
            let account = spec(|spec| spec["allowedNamespaces"] = json!({ "selector": value }));
            account.expect("valid").namespace_selector.is_some()
        };
        assert!(selector(json!({})));
        assert!(!selector(json!({ "matchExpressions": [{ "key": "team", "operator": "Like" }] })));
    }
}
