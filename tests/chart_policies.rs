//! Chart values for retention policies and approval: flags, permissions and the admission policy.

use serde_json::{Value, json};
use testkit::helm;

use crate::{
    chart_values::{pod, rendered},
    support::{CHART, World},
};

/// Applies a policy in the namespace of the world. Waits until the controller of a release has
/// proposed what it does not keep.
pub async fn assert_policy_is_served(world: &World<'_>) {
    world.west.register_many("cron", 3);
    world.west.cluster("prod");
    let policy = json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "TaskDefinitionRetentionPolicy",
        "metadata": { "name": "cron" },
        "spec": { "families": { "include": ["cron"] }, "keep": { "latest": 1 } },
    });
    world.namespace.apply(policy).await.expect("it is valid");
    let proposed = "kubectl wait --for=jsonpath='{.status.pendingApproval}'=1 tdrp/cron --timeout=20s && \
         kubectl get tdr --selector=ecs-retirement.dev/policy=cron --output=jsonpath='{..revisions[0]}'";
    let (is_done, output) = world.shell(proposed).await;
    assert!(is_done && output.contains("cron:1"), "{output}");
    let removed = "kubectl delete tdrp cron && kubectl delete tdr --selector=ecs-retirement.dev/policy=cron";
    let (is_done, output) = world.shell(removed).await;
    assert!(is_done, "{output}");
}

fn arguments(objects: &[Value]) -> Vec<&str> {
    let arguments = pod(objects)["containers"][0]["args"].as_array().expect("arguments");
    arguments.iter().filter_map(Value::as_str).collect()
}

/// Returns the verbs that the controller has on retirements.
fn verbs(objects: &[Value]) -> Vec<&str> {
    let name = "default:release-ecs-retirement-controller";
    let role =
        objects.iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == name);
    let rules = role.expect("a role")["rules"].as_array().expect("rules");
    let rules = rules.iter().filter(|rule| rule["resources"] == json!(["taskdefinitionretirements"]));
    rules.flat_map(|rule| rule["verbs"].as_array().into_iter().flatten()).filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn controller_writes_retirements_only_if_it_serves_policies() {
    for (values, flag, expected) in [
        ("rbac.create=true", false, &["get", "list", "watch", "create", "patch", "delete"][..]),
        ("retentionPolicies.enabled=false", true, &["get", "list", "watch"]),
        ("retentionPolicies.enabled=false,approval.enforce=true", true, &["get", "list", "watch"]),
        ("approval.enforce=true", false, &["get", "list", "watch", "create", "patch", "delete", "approve"]),
    ] {
        let objects = rendered(&["--set", values]).await;
        let flags = arguments(&objects);
        let has_flag = flags.contains(&"--retention-policies=false");
        assert_eq!(has_flag, flag, "{values}: {flags:?}");
        assert_eq!(verbs(&objects), expected, "{values}");
    }
}

#[tokio::test]
async fn approval_is_enforced_on_request_and_only_in_watched_namespaces() {
    let binding = async |values: &str| {
        let objects = rendered(&["--set", values]).await;
        objects.into_iter().find(|object| object["kind"] == "ValidatingAdmissionPolicyBinding")
    };
    assert_eq!(binding("rbac.create=true").await, None);
    let everywhere = binding("approval.enforce=true").await.expect("a binding");
    assert_eq!(everywhere["spec"]["matchResources"], Value::Null);
    assert_eq!(everywhere["spec"]["validationActions"], json!(["Deny"]));
    let watched = binding("approval.enforce=true,watchNamespaces={web,api}").await.expect("a binding");
    let expression = &watched["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(expression["values"], json!(["web", "api"]));
}

#[tokio::test]
async fn approval_is_refused_on_a_cluster_that_cannot_enforce_it() {
    let render = async |version| {
        helm::template(&["release", CHART, "--set=approval.enforce=true", "--kube-version", version]).await
    };
    let refusal = render("1.29.3").await.expect_err("too old");
    assert!(refusal.contains("approval.enforce needs Kubernetes 1.30 or later"), "{refusal}");
    render("1.30.0").await.expect("it renders");
}
