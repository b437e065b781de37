//! What an EcsAccount allows. No I/O.

use std::collections::BTreeMap;

use kube::core::SelectorExt;

use crate::account::validate::ValidatedAccount;

/// What a resource wants to do with an EcsAccount.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub namespace: &'a str,
    /// The labels of the namespace; `None` if they are not known.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    pub region: &'a str,
    /// True if revisions may be deregistered while they are in use.
    pub retires_in_use: bool,
    /// The family of a revision; `None` to check all other rules.
    pub family: Option<&'a str>,
}

/// The rule that refuses a request. The message names the rule and who can change it, and nothing
/// that other namespaces are allowed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "EcsAccount {account} does not allow namespace {namespace} (spec.allowedNamespaces): ask the administrator of the cluster to allow it"
    )]
    Namespace { account: String, namespace: String },
    #[error(
        "EcsAccount {account} does not allow region {region} (spec.allowedRegions): ask the administrator of the cluster to allow it, or name another region"
    )]
    Region { account: String, region: String },
    #[error(
        "EcsAccount {account} requires revisions to be unused (spec.requireUnused, spec.minimumUnusedFor): write inUse: Wait, or ask the administrator of the cluster"
    )]
    InUse { account: String },
    #[error(
        "EcsAccount {account} does not allow family {family} (spec.families.{list}): remove the revision, or ask the administrator of the cluster to allow it"
    )]
    Family { account: String, family: String, list: &'static str },
}

/// Decides whether `account` allows a request.
///
/// # Errors
/// Returns the first rule that refuses it.
pub fn allow(account: &ValidatedAccount, request: &Request<'_>) -> Result<(), Refusal> {
    let name = || account.name.clone();
    if !allows_namespace(account, request) {
        return Err(Refusal::Namespace { account: name(), namespace: request.namespace.to_owned() });
    }
    if !account.allowed_regions.contains(request.region) {
        return Err(Refusal::Region { account: name(), region: request.region.to_owned() });
    }
    if account.requires_unused && request.retires_in_use {
        return Err(Refusal::InUse { account: name() });
    }
    let Some(family) = request.family else { return Ok(()) };
    let refuse = |list| Err(Refusal::Family { account: name(), family: family.to_owned(), list });
    if account.denied_families.iter().any(|pattern| pattern.matches(family)) {
        return refuse("deny");
    }
    if !account.allowed_families.iter().any(|pattern| pattern.matches(family)) {
        return refuse("allow");
    }
    Ok(())
}

/// Returns true if a namespace is allowed by its labels alone, so that the labels have to be read.
#[must_use]
pub fn depends_on_labels(account: &ValidatedAccount, namespace: &str) -> bool {
    !account.namespace_names.contains(namespace)
}

fn allows_namespace(account: &ValidatedAccount, request: &Request<'_>) -> bool {
    let selects = || {
        let (selector, labels) = account.namespace_selector.as_ref().zip(request.namespace_labels)?;
        Some(selector.matches(labels))
    };
    account.namespace_names.contains(request.namespace) || selects().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{account::validate::validate, api::EcsAccount, aws::permit_queue::Pacing};

    fn account(change: impl FnOnce(&mut Value)) -> ValidatedAccount {
        let mut spec = json!({
            "accountId": "012345678910",
            "region": "us-west-2",
            "families": { "allow": ["web-*"], "deny": ["web-payments"] },
            "allowedNamespaces": { "names": ["platform"] },
        });
        change(&mut spec);
        let account = EcsAccount::new("prod", serde_json::from_value(spec).expect("a spec"));
        validate(&account, Pacing { per_second: 0.5, burst: 10 }).expect("valid")
    }

    const REQUEST: Request<'_> = Request {
        namespace: "platform",
        namespace_labels: None,
        region: "us-west-2",
        retires_in_use: false,
        family: Some("web-api"),
    };

    #[test]
    fn each_rule_refuses_and_is_named() {
        let refused = |account: &ValidatedAccount, request: Request<'_>| {
            allow(account, &request).expect_err("refused").to_string()
        };
        let prod = account(|_| {});
        assert_eq!(allow(&prod, &REQUEST), Ok(()));
        let namespace = refused(&prod, Request { namespace: "other", ..REQUEST });
        assert!(namespace.contains("namespace other (spec.allowedNamespaces)"), "{namespace}");
        let region = refused(&prod, Request { region: "eu-west-1", ..REQUEST });
        assert!(region.contains("region eu-west-1 (spec.allowedRegions)"), "{region}");
        let denied = refused(&prod, Request { family: Some("web-payments"), ..REQUEST });
        assert!(denied.contains("family web-payments (spec.families.deny)"), "{denied}");
        let unlisted = refused(&prod, Request { family: Some("api"), ..REQUEST });
        assert!(unlisted.contains("family api (spec.families.allow)"), "{unlisted}");
        assert!(!unlisted.contains("web"), "the patterns are not disclosed: {unlisted}");
        let in_use = Request { retires_in_use: true, ..REQUEST };
        assert_eq!(allow(&prod, &in_use), Ok(()));
        for field in ["requireUnused", "minimumUnusedFor"] {
            let value = if field == "requireUnused" { json!(true) } else { json!("1h") };
            let strict = account(|spec| spec[field] = value);
            assert!(refused(&strict, in_use).contains("requires revisions to be unused"));
        }
    }

    #[test]
    fn namespaces_are_the_union_of_names_and_selector_and_none_by_default() {
        let labels = BTreeMap::from([("team".to_owned(), "platform".to_owned())]);
        let allows = |namespaces: Value, namespace, namespace_labels| {
            let account = account(|spec| spec["allowedNamespaces"] = namespaces);
            allow(&account, &Request { namespace, namespace_labels, ..REQUEST }).is_ok()
        };
        let selector = json!({ "names": ["a"], "selector": { "matchLabels": { "team": "platform" } } });
        assert!(allows(selector.clone(), "a", None));
        assert!(allows(selector.clone(), "b", Some(&labels)));
        assert!(!allows(selector.clone(), "b", Some(&BTreeMap::new())));
        assert!(!allows(selector, "b", None), "the labels are not known");
        assert!(allows(json!({ "selector": {} }), "b", Some(&BTreeMap::new())), "every namespace");
        assert!(!allows(json!({ "selector": {} }), "b", None));
        for empty in [Value::Null, json!({}), json!({ "names": [] })] {
            assert!(!allows(empty, "platform", Some(&labels)));
        }
        let broken = json!({ "selector": { "matchExpressions": [{ "key": "team", "operator": "Like" }] } });
        assert!(!allows(broken, "platform", Some(&labels)));
    }

    proptest! {
        #[test]
        fn family_is_allowed_only_if_allow_matches_and_deny_does_not(
            allowed in "[ab*]{1,3}", denied in prop::option::of("[ab*]{1,3}"), family in "[ab]{1,3}",
        ) {
            let deny: Vec<&String> = denied.iter().collect();
            let account = account(|spec| spec["families"] = json!({ "allow": [allowed], "deny": deny }));
            let matches = |text: &String| {
                text.parse::<crate::family_pattern::FamilyPattern>().expect("valid").matches(&family)
            };
            let expected = matches(&allowed) && !denied.as_ref().is_some_and(matches);
            prop_assert_eq!(allow(&account, &Request { family: Some(&family), ..REQUEST }).is_ok(), expected);
        }
    }
}
