//! Chart values for `EcsAccounts`: flags of the controller, and permissions that only it gets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::simulated_ecs::ACCOUNT;

use crate::{
    chart_values::{pod, rendered},
    support::World,
};

/// Creates an `EcsAccount` for the controller of the release, and waits for its status and event.
pub async fn assert_account_is_served(world: &World<'_>, release: &str) {
    let role = "arn:aws:iam::111122223333:role/ecs-retirement";
    world.ecs.role(role).trust(ACCOUNT);
    let account = json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "EcsAccount",
        "metadata": { "name": release },
        "spec": {
            "controllerName": release, "accountId": "111122223333", "region": "us-west-2",
            "assumeRole": { "roleArn": role }, "families": { "allow": ["*"] },
        },
    });
    world.namespace.apply(account).await.expect("it is valid");
    let wait = format!("kubectl wait --for=condition=Ready ecsa/{release} --timeout=20s");
    let events =
        "kubectl get events.events.k8s.io --namespace=default --output=jsonpath='{..regarding.name}'";
    let event = format!("until {events} | grep -qw {release}; do sleep 0.1; done");
    for command in [wait, event] {
        let (is_done, output) = world.shell(&command).await;
        assert!(is_done, "{command}: {output}");
    }
}

/// Returns true if a rule of the role is for `resource` or its status.
fn has_rule_for(role: &Value, resource: &str) -> bool {
    let rules = role["rules"].as_array().into_iter().flatten();
    let resources = rules.flat_map(|rule| rule["resources"].as_array().into_iter().flatten());
    resources.filter_map(Value::as_str).any(|name| name.split('/').next() == Some(resource))
}

#[tokio::test]
async fn only_the_controller_gets_permissions_on_ecs_accounts() {
    let service_account = json!([
        { "kind": "ServiceAccount", "name": "release-ecs-retirement-controller", "namespace": "default" },
    ]);
    for values in ["rbac.aggregateToEdit=true", "rbac.aggregateToEdit=true,watchNamespaces={web}"] {
        let objects = rendered(&["--set", values]).await;
        let roles: Vec<&Value> = objects
            .iter()
            .filter(|role| has_rule_for(role, "ecsaccounts") || has_rule_for(role, "namespaces"))
            .collect();
        let [role] = roles[..] else { panic!("{values}: {roles:?}") };
        assert_eq!(role["kind"], "ClusterRole", "{values}");
        assert!(!role["metadata"]["labels"].to_string().contains("aggregate"), "{role}");
        let bindings: Vec<&Value> = objects
            .iter()
            .filter(|binding| {
                binding["roleRef"]["name"] == role["metadata"]["name"]
                    && binding["roleRef"]["kind"] == "ClusterRole"
            })
            .collect();
        let [binding] = bindings[..] else { panic!("{values}: {bindings:?}") };
        assert_eq!(binding["kind"], "ClusterRoleBinding");
        assert_eq!(binding["subjects"], service_account);
    }
}

#[tokio::test]
async fn controller_that_serves_no_ecs_accounts_has_no_cluster_role_with_watch_namespaces() {
    let values = "--set=ecsAccounts.enabled=false,watchNamespaces={web},rbac.aggregateToView=false";
    let objects = rendered(&[values]).await;
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert!(kinds.contains("Role"), "{kinds:?}");
    assert!(!kinds.contains("ClusterRole") && !kinds.contains("ClusterRoleBinding"), "{kinds:?}");
}

#[tokio::test]
async fn account_values_become_flags_and_their_defaults_do_not() {
    for (values, expected) in [
        ("rbac.create=true", None),
        ("ambientCredentials=false", Some("--ambient-credentials=false")),
        ("ecsAccounts.enabled=false", Some("--ecs-accounts=false")),
        ("controllerName=retirement: west", Some("--controller-name=retirement: west")),
    ] {
        let objects = rendered(&["--set", values]).await;
        let flags: Vec<&str> = pod(&objects)["containers"][0]["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let ours = ["--ambient-credentials", "--ecs-accounts", "--controller-name"];
        let flags: Vec<&str> =
            flags.into_iter().filter(|flag| ours.iter().any(|name| flag.starts_with(name))).collect();
        assert_eq!(flags, expected.into_iter().collect::<Vec<_>>(), "{values}");
    }
}
