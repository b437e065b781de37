//! I8: deregistrations with an EcsAccount are what it allows, by an uncached read right before the
//! call, and use its credentials.

use std::time::Duration;

use serde_json::Value;
use testkit::simulated_ecs::ACCOUNT;

use super::{
    journal::Journal,
    kinds::{ACCOUNTS, NAMESPACE, NAMESPACES},
    users::REGION,
    world::World,
};
use crate::support::invariants::{
    Caller, Deregistered, FreshReads, Operation, Process, deregistrations, short,
};

/// The role of the ambient credentials.
const AMBIENT_ROLE: &str = "arn:aws:iam::012345678910:role/controller";

/// Returns the current EcsAccount of a retirement.
pub fn account_of(world: &World, retirement: &Value) -> Option<Value> {
    let name = retirement["spec"]["accountRef"]["name"].as_str()?;
    world.api.objects(ACCOUNTS).into_iter().find(|it| it["metadata"]["name"] == name)
}

/// Returns true if an EcsAccount allows a retirement to deregister a revision, its suspension
/// apart. The labels of the namespace are those of now.
pub fn allows(world: &World, account: &Value, retirement: &Value, revision: &str) -> bool {
    let namespaces = world.api.objects(NAMESPACES);
    let labels = namespaces.iter().map(|it| it["metadata"]["labels"].clone());
    labels.into_iter().any(|labels| allows_with(account, &labels, retirement, revision))
}

/// Returns true if an EcsAccount allows it in a namespace with these labels.
fn allows_with(account: &Value, labels: &Value, retirement: &Value, revision: &str) -> bool {
    let (spec, declared) = (&account["spec"], &retirement["spec"]);
    let namespaces = &spec["allowedNamespaces"];
    let is_named = namespaces["names"].as_array().is_some_and(|it| it.iter().any(|it| it == NAMESPACE));
    let required = namespaces["selector"]["matchLabels"].as_object();
    let is_selected = required.is_some_and(|it| it.iter().all(|(key, value)| labels[key] == *value));
    let family = revision.rsplit_once(':').map_or(revision, |(family, _)| family);
    let is_in_region = declared["region"].is_null() || declared["region"] == REGION;
    let is_unused = spec["requireUnused"] != true || declared["inUse"] != "Retire";
    (is_named || is_selected) && is_in_region && is_unused && allows_family(spec, family)
}

fn allows_family(spec: &Value, family: &str) -> bool {
    let matches = |list: &str| {
        let mut patterns = spec["families"][list].as_array().into_iter().flatten().filter_map(Value::as_str);
        patterns.any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => family.starts_with(prefix),
            None => family == pattern,
        })
    };
    matches("allow") && !matches("deny")
}

/// Returns the deregistrations that no EcsAccount allowed, and the calls that none ever allows.
pub fn violations(world: &World, journal: &Journal) -> Vec<String> {
    let refused = deregistrations(&journal.entries)
        .filter(|(index, by, call)| !is_allowed(world, journal, *index, *by, call))
        .map(|(index, by, call)| {
            let at = journal.entries[index].at;
            format!("I8: {by:?} deregistered {} at {at:?} without an EcsAccount that allows it", call.arn)
        });
    refused.chain(never_allowed(world, journal)).collect()
}

/// Returns true if one of the resources that declare the revision may use the credentials of the
/// call: the EcsAccount was read after the resource, and that read allows it.
fn is_allowed(world: &World, journal: &Journal, index: usize, by: Process, call: &Deregistered) -> bool {
    // Invalid credentials change nothing.
    let Some(caller) = &call.caller else { return true };
    let reads = FreshReads::of(&journal.entries, index, by, &call.arn);
    reads.declaring.iter().any(|(since, retirement)| {
        let Some(name) = retirement["spec"]["accountRef"]["name"].as_str() else {
            return caller.account == ACCOUNT && caller.role.as_deref() == Some(AMBIENT_ROLE);
        };
        reads.of_other(ACCOUNTS, name, *since).any(|account| {
            is_of(account, caller)
                && account["spec"]["suspend"] != true
                && was_allowed(world, account, retirement, (*since, journal.entries[index].at), &call.arn)
        })
    })
}

/// Returns true if the credentials are those of an EcsAccount.
fn is_of(account: &Value, caller: &Caller) -> bool {
    let spec = &account["spec"];
    spec["accountId"] == *caller.account
        && spec["assumeRole"]["roleArn"].as_str() == caller.role.as_deref()
        && caller.region == REGION
}

/// Returns true if an EcsAccount allowed it with the labels that the namespace had at some time in
/// a period.
fn was_allowed(
    world: &World,
    account: &Value,
    retirement: &Value,
    (from, until): (Duration, Duration),
    arn: &str,
) -> bool {
    world.labels_between(from, until).iter().any(|it| allows_with(account, it, retirement, short(arn)))
}

/// Returns the calls for a family that no version of an EcsAccount with these credentials allows.
fn never_allowed(world: &World, journal: &Journal) -> Vec<String> {
    let versions = world.api.versions(ACCOUNTS);
    let named = journal.entries.iter().filter_map(|entry| match &entry.operation {
        Operation::Described { arn, caller, .. }
        | Operation::Deregistered(Deregistered { arn, caller, .. }) => Some((arn, caller.as_ref()?)),
        _ => None,
    });
    let is_refused = |(arn, caller): &(&String, &Caller)| {
        let family = short(arn).rsplit_once(':').map_or(short(arn), |(family, _)| family);
        let allows = |account: &Value| is_of(account, caller) && allows_family(&account["spec"], family);
        caller.role.as_deref() != Some(AMBIENT_ROLE) && !versions.iter().any(|it| allows(&it.object))
    };
    named
        .filter(is_refused)
        .map(|(arn, caller)| format!("I8: {arn} is never allowed to {caller:?}"))
        .collect()
}
