//! Installation: with and without Helm, upgrade, removal, and rejection of misspelt values.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use testkit::{
    control_plane::ControlPlane,
    helm,
    namespace::{Namespace, documents, install_crds},
    process::Folder,
    tools,
};

use crate::{
    architecture::{files, root},
    support::{CHART, CRD, DEADLINE, World},
};

/// The values with which the chart is rendered and installed, each with its release name.
const VALUE_SETS: [(&str, &[&str]); 8] = [
    ("defaults", &[]),
    ("everything", &["--values=tests/chart/everything.yaml"]),
    ("watched", &["--set=watchNamespaces={default,kube-system}"]),
    ("pods", &["--set=podMonitor.enabled=true,metrics.port=9090,serviceAccount.create=false"]),
    ("accounts", &["--set=ambientCredentials=false,watchNamespaces={default}"]),
    ("no-accounts", &["--set=ecsAccounts.enabled=false,watchNamespaces={default}"]),
    (
        "no-policies",
        &["--set=retentionPolicies.enabled=false,approval.enforce=true,watchNamespaces={default}"],
    ),
    // Names that YAML would read as numbers.
    ("1234", &["--set-string=fullnameOverride=retirement,nameOverride=56,watchNamespaces={1234}"]),
];

const CRD_NAME: &str = "crd/taskdefinitionretirements.ecs-retirement.dev";
const ACCOUNT_CRD_NAME: &str = "crd/ecsaccounts.ecs-retirement.dev";
const POLICY_CRD_NAME: &str = "crd/taskdefinitionretentionpolicies.ecs-retirement.dev";

/// Renders the release `name` in the namespace of that name.
async fn rendered(name: &str, values: &[&str]) -> Vec<Value> {
    let arguments = [&[name, CHART, "--namespace", name], values].concat();
    helm::template(&arguments).await.expect("the chart renders")
}

fn names<'value>(objects: impl IntoIterator<Item = &'value Value>) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects
        .into_iter()
        .map(|object| text(&object["kind"]) + "/" + &text(&object["metadata"]["name"]))
        .collect()
}

/// Writes `objects` to a file for kubectl. Returns its path.
fn written(folder: &Folder, objects: &[Value]) -> String {
    let path = folder.join("objects.json");
    fs::write(&path, json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())
        .expect("the file can be written");
    path.display().to_string()
}

async fn create_namespace(plane: &ControlPlane, name: &str) {
    plane.kubectl(&["create", "namespace", name]).await.expect("a namespace can be created");
}

async fn install_monitors(plane: &ControlPlane) {
    let monitors =
        fs::read_to_string(tools::monitors().expect("`make tools` has run")).expect("the file can be read");
    install_crds(&plane.client(), &monitors).await.expect("the CRDs of the Prometheus Operator install");
}

#[tokio::test]
async fn helm_lint_is_silent() {
    for (name, values) in VALUE_SETS {
        let arguments = [&["lint", "--strict", "--quiet", CHART], values].concat();
        let output = helm::offline(&arguments).await;
        assert_eq!(output.as_deref().map(str::trim), Ok(""), "{name}");
    }
}

#[tokio::test]
async fn misspelt_value_is_refused_by_name() {
    let misspelt = [
        "replicas=3",
        "image.tga=1",
        "watchNamespace={web}",
        "serviceMonitor.enable=true",
        "podSecurityContext.runAsNonroot=true",
        "securityContext.readOnlyRootFileSystem=true",
        "securityContext.capabilities.dorp={ALL}",
        "resources.limit.memory=1Gi",
        "tolerations[0].efect=NoSchedule",
        "affinity.podAntiAfinity.x=y",
        "serviceMonitor.relabelings[0].targetLable=node",
        "networkPolicy.extraEgress[0].port[0].port=1",
        "crds.kept=false",
        "ecsAccounts.enable=false",
        "retentionPolicies.enable=false",
        "approval.enforced=true",
        "ambientCredential=false",
    ];
    for value in misspelt {
        let refusal = helm::template(&["release", CHART, "--set", value]).await.expect_err(value);
        let path = value.split('=').next().expect("a path");
        let named = path.split(['.', '[', ']']).any(|word| refusal.contains(&format!("'{word}'")));
        assert!(named, "{value}: {refusal}");
    }
    let wrong = [("log.level=loud", "/log/level"), ("replicaCount=two", "/replicaCount")];
    for (value, name) in wrong {
        let refusal = helm::template(&["release", CHART, "--set", value]).await.expect_err(value);
        assert!(refusal.contains(name), "{value}: {refusal}");
    }
}

/// Includes the kinds of the Prometheus Operator, whose CRDs are installed first.
#[tokio::test]
async fn every_field_of_every_object_is_known_to_the_api_server() {
    let plane = ControlPlane::shared().await;
    install_monitors(plane).await;
    let folder = Folder::create().expect("a folder");
    for (name, values) in VALUE_SETS {
        create_namespace(plane, name).await;
        let objects = written(&folder, &rendered(name, values).await);
        let dry_run =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f"];
        let outcome = plane.kubectl(&[&dry_run[..], &[&objects]].concat()).await;
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn enabling_everything_renders_every_template_and_only_one_monitor() {
    let kinds = |objects: &[Value]| -> BTreeSet<String> {
        objects.iter().map(|object| object["kind"].as_str().expect("a kind").to_owned()).collect()
    };
    let on = kinds(&rendered("everything", &["--values=tests/chart/everything.yaml"]).await);
    let off = kinds(&rendered("defaults", &[]).await);
    let added: Vec<_> = on.difference(&off).map(String::as_str).collect();
    let policy = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    let expected =
        [&["ConfigMap", "NetworkPolicy", "PrometheusRule", "ServiceMonitor"][..], &policy].concat();
    assert_eq!(added, expected);
    let refusal =
        helm::template(&["release", CHART, "--set=serviceMonitor.enabled=true,podMonitor.enabled=true"]);
    assert!(refusal.await.expect_err("two monitors would scrape twice").contains("choose one"));
}

#[tokio::test]
async fn pods_are_admitted_if_the_restricted_standard_is_enforced() {
    let namespace = Namespace::fresh().await;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    let kubectl = async |arguments: &[&str]| namespace.kubectl(arguments).await;
    kubectl(&["label", "namespace", namespace.name(), label]).await.expect("it can be labelled");
    let folder = Folder::create().expect("a folder");
    for (name, values) in VALUE_SETS {
        let objects = rendered(name, values).await;
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        let create = ["create", "--dry-run=server", "-f"];
        let admitted = kubectl(&[&create[..], &[&written(&folder, &[pod.clone()])]].concat()).await;
        assert!(admitted.is_ok(), "{name}: {admitted:?}");

        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        let refused = kubectl(&[&create[..], &[&written(&folder, &[pod])]].concat()).await;
        assert!(refused.expect_err("the standard is enforced").contains("restricted"), "{name}");
    }
}

#[tokio::test]
async fn releases_side_by_side_share_no_name_outside_their_namespaces() {
    let is_shared = |object: &&Value| object["metadata"]["namespace"].is_null();
    let first = rendered("first", &[]).await;
    let second = helm::template(&["first", CHART, "--namespace=second", "--set=crds.enabled=false"]);
    let second = second.await.expect("the chart renders");
    let (first, second) = (names(first.iter().filter(is_shared)), names(second.iter().filter(is_shared)));
    let crds = files(&root().join("crds")).len();
    assert_eq!(first.len(), second.len() + crds, "only the CRDs are shared: {first:?}");
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
}

#[tokio::test]
async fn releases_side_by_side_share_no_name_in_a_namespace() {
    let values = ["--set=crds.enabled=false,watchNamespaces={default,web}"];
    let arguments = |release| [&["first", CHART, release], &values[..]].concat();
    let in_namespaces = async |release| {
        let objects = helm::template(&arguments(release)).await.expect("the chart renders");
        let shared = objects
            .iter()
            .filter(|object| ["default", "web"].iter().any(|it| object["metadata"]["namespace"] == *it));
        names(shared)
    };
    let (first, second) = (in_namespaces("--namespace=one").await, in_namespaces("--namespace=two").await);
    assert_eq!(first.len(), 4, "a Role for retirements, another for the events of EcsAccounts: {first:?}");
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
}

/// Installs all value sets side by side in one cluster, then uninstalls each.
#[tokio::test]
async fn helm_installs_every_set_of_values_and_uninstall_keeps_the_crd() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    install_monitors(&plane).await;
    for (name, values) in VALUE_SETS {
        let crds = if name == "defaults" { "--set=crds.enabled=true" } else { "--set=crds.enabled=false" };
        let install = ["install", name, CHART, "--namespace", name, "--create-namespace", crds];
        let notes = helm::on(&plane, &[&install, values].concat()).await;
        let notes = notes.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert!(notes.contains("rollout status"), "the notes name the next command: {notes}");
    }
    for (name, _) in VALUE_SETS {
        helm::on(&plane, &["uninstall", name, "--namespace", name]).await.expect("it can be removed");
    }
    let kinds = "deploy,sa,svc,cm,pdb,netpol,role,rolebinding,clusterrole,clusterrolebinding,\
        servicemonitor,podmonitor,prometheusrule,\
        validatingadmissionpolicy,validatingadmissionpolicybinding";
    let ours = ["-A", "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name"];
    let left = plane.kubectl(&[&["get", kinds], &ours[..]].concat()).await;
    assert_eq!(left.as_deref(), Ok(""));
    plane.kubectl(&["get", CRD_NAME, ACCOUNT_CRD_NAME, POLICY_CRD_NAME]).await.expect("the CRDs are kept");
}

/// Creates a copy of the chart as of an older release, whose CRD has no `spec.suspend`.
fn old_chart(folder: &Folder) -> String {
    let copy = folder.join("chart");
    let copied = std::process::Command::new("cp").arg("-r").arg(CHART).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let crd = copy.join("files/crds/ecs-retirement.dev_taskdefinitionretirements.yaml");
    let mut old = documents(CRD).expect("YAML").remove(0);
    let spec = old.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties");
    spec.and_then(Value::as_object_mut)
        .and_then(|spec| spec.remove("suspend"))
        .expect("the CRD has spec.suspend");
    fs::write(crd, old.to_string()).expect("the file can be written");
    copy.display().to_string()
}

#[tokio::test]
async fn upgrade_installs_the_new_crd_and_keeps_all_resources() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    let folder = Folder::create().expect("a folder");
    let helm = async |arguments: &[&str]| {
        let outcome = helm::on(&plane, &[arguments, &["--namespace=ecs-retirement"]].concat()).await;
        outcome.unwrap_or_else(|refusal| panic!("{arguments:?}: {refusal}"))
    };
    helm(&["install", "release", &old_chart(&folder), "--create-namespace"]).await;
    let wait = ["wait", "--for=condition=Established", CRD_NAME];
    plane.kubectl(&wait).await.expect("the CRD is served");
    let world = World::on(&plane, "").await;
    let suspended = json!({ "revisions": ["web:1"], "suspend": true });
    world.apply("web", suspended.clone()).await.expect_err("the old CRD does not know it");
    world.apply("web", json!({ "revisions": ["web:1"], "dryRun": true })).await.expect("admitted");
    let before = world.seen("web").await;

    helm(&["upgrade", "release", CHART]).await;
    let began = tokio::time::Instant::now();
    while let Err(refusal) = world.apply("other", suspended.clone()).await {
        assert!(began.elapsed() < DEADLINE, "the CRD is not upgraded: {refusal}");
    }
    assert_eq!(world.seen("web").await.0.metadata.uid, before.0.metadata.uid);

    helm(&["uninstall", "release"]).await;
    assert_eq!(world.seen("web").await.0.metadata.uid, before.0.metadata.uid, "resources are kept");
    helm(&["install", "release", CHART]).await;
    assert_eq!(world.seen("web").await.0.metadata.uid, before.0.metadata.uid, "and adopted again");

    helm(&["upgrade", "release", CHART, "--set=crds.keep=false"]).await;
    helm(&["uninstall", "release"]).await;
    plane
        .kubectl(&["wait", "--for=delete", CRD_NAME])
        .await
        .expect("the CRD is deleted if crds.keep is false");
}

#[tokio::test]
async fn install_yaml_applies_in_one_step_and_equals_the_kustomize_base() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    let applied = plane.kubectl(&["apply", "-f", "dist/install.yaml"]).await.expect("it is applied");
    assert!(applied.lines().all(|line| line.ends_with(" created")), "{applied}");
    for same in [["-f", "dist/install.yaml"], ["-k", "config"]] {
        let difference = plane.kubectl(&[&["diff"], &same[..]].concat()).await;
        assert_eq!(difference.as_deref(), Ok(""), "{same:?}");
    }
}
