//! Chart values: each, null included, has an effect or is rejected with a sentence that names it.

use std::{collections::BTreeSet, fs, process::Command};

use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};
use testkit::{helm, namespace::documents, process::Folder};

use crate::support::CHART;

const VALUES: &str = include_str!("../charts/ecs-retirement-controller/values.yaml");
const SCHEMA: &str = include_str!("../charts/ecs-retirement-controller/values.schema.json");

/// Renders every template but the `PodMonitor`, which excludes the `ServiceMonitor`.
const ALL_TEMPLATES: &str = "--set=networkPolicy.enabled=true,prometheusRule.enabled=true,\
    grafanaDashboard.enabled=true,serviceMonitor.enabled=true";

/// Maps in which null removes an entry of the default.
const REMOVABLE: [&str; 2] = ["resources.", "grafanaDashboard.labels."];

/// What Helm prints if a template, and not the chart's author, rejects a value.
const TEMPLATE_ERRORS: [&str; 4] = ["nil pointer", "wrong type", "error calling", "unable to parse"];

async fn render(arguments: &[&str]) -> Result<Vec<Value>, String> {
    helm::template(&[&["release", CHART], arguments].concat()).await
}

pub async fn rendered(arguments: &[&str]) -> Vec<Value> {
    render(arguments).await.unwrap_or_else(|message| panic!("{arguments:?}: {message}"))
}

fn object<'value>(objects: &'value [Value], kind: &str) -> &'value Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind} is rendered"))
}

pub fn pod(objects: &[Value]) -> &Value {
    &object(objects, "Deployment")["spec"]["template"]["spec"]
}

/// Returns the value itself and every value inside it.
fn walk(value: &Value) -> Vec<&Value> {
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    std::iter::once(value).chain(children.into_iter().flat_map(walk)).collect()
}

/// Returns the path of every value in `values`, nested ones and the maps themselves included.
fn paths(values: &Map<String, Value>) -> Vec<Vec<String>> {
    let nested = values.iter().flat_map(|(key, value)| {
        let below = value.as_object().map(paths).unwrap_or_default();
        let below = below.into_iter().map(|path| [vec![key.clone()], path].concat());
        std::iter::once(vec![key.clone()]).chain(below).collect::<Vec<_>>()
    });
    nested.collect()
}

fn default_values() -> Value {
    documents(VALUES).expect("values.yaml is YAML").remove(0)
}

/// Writes a values file that sets `path` to null.
fn null_values(folder: &Folder, path: &[String]) -> String {
    let values = path.iter().rev().fold(Value::Null, |value, key| json!({ key: value }));
    let file = folder.join(&format!("{}.json", path.join(".").replace('/', "_")));
    fs::write(&file, values.to_string()).expect("the folder is writable");
    file.display().to_string()
}

/// Returns what is wrong with the `outcome` of setting `path` to null, if anything is.
fn null_defect(path: &[String], outcome: &Result<Vec<Value>, String>, default: &[Value]) -> Option<String> {
    let name = path.join(".");
    match outcome {
        Ok(objects) if objects == default => None,
        Ok(objects) if REMOVABLE.iter().any(|map| name.starts_with(map)) => {
            let nulls = objects
                .iter()
                .flat_map(walk)
                .any(|value| value.is_null() || value.as_str().is_some_and(|text| text.contains("<nil>")));
            nulls.then(|| format!("{name}: renders null"))
        }
        Ok(_) => Some(format!("{name}: renders something else than the default")),
        Err(message) => {
            let is_named = message.contains(&format!("{name} must not be null: remove it"))
                || (message.contains(&format!("'/{}'", path[..path.len() - 1].join("/")))
                    && message.contains(&format!("'{}'", path[path.len() - 1])));
            let is_named = is_named && !TEMPLATE_ERRORS.iter().any(|error| message.contains(error));
            (!is_named).then(|| format!("{name}: {message}"))
        }
    }
}

#[tokio::test]
async fn null_values_use_the_default_or_are_rejected_by_name() {
    let (folder, default) = (Folder::create().expect("a folder"), rendered(&[ALL_TEMPLATES]).await);
    let paths = paths(default_values().as_object().expect("values are a map"));
    assert!(paths.len() > 50, "{paths:?}");
    // The flag overrides a null for these maps as a whole; without it they render less.
    let is_enabled = |path: &[String]| path.len() == 1 && ALL_TEMPLATES.contains(&format!("{}.", path[0]));
    let small = rendered(&[]).await;
    let checks = paths.iter().map(async |path| {
        let values = format!("--values={}", null_values(&folder, path));
        if is_enabled(path) {
            null_defect(path, &render(&[&values]).await, &small)
        } else {
            null_defect(path, &render(&[&values, ALL_TEMPLATES]).await, &default)
        }
    });
    let defects: Vec<Option<String>> = stream::iter(checks).buffered(2).collect().await;
    let defects: Vec<String> = defects.into_iter().flatten().collect();
    assert!(defects.is_empty(), "{defects:#?}");
}

/// Creates a chart with this one as a subchart and with `values` in values.yaml. Returns its path.
fn parent_chart(folder: &Folder, values: &Value) -> String {
    let parent = folder.join("parent");
    fs::create_dir_all(parent.join("charts")).expect("the folder is writable");
    let copied = Command::new("cp").arg("-r").arg(CHART).arg(parent.join("charts")).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let chart = json!({
        "apiVersion": "v2", "name": "parent", "version": "0.1.0",
        "dependencies": [{ "name": "ecs-retirement-controller", "version": "0.1.0" }],
    });
    fs::write(parent.join("Chart.yaml"), chart.to_string()).expect("the folder is writable");
    fs::write(parent.join("values.yaml"), values.to_string()).expect("the folder is writable");
    parent.display().to_string()
}

#[tokio::test]
async fn null_values_of_a_parent_chart_use_the_default_or_are_rejected_by_name() {
    let default = rendered(&[]).await;
    for key in ["replicaCount", "image", "metrics", "commonLabels", "global", "crds", "serviceAccount"] {
        let folder = Folder::create().expect("a folder");
        let values =
            json!({ "ecs-retirement-controller": { key: null }, "global": { "imageRegistry": null } });
        let parent = parent_chart(&folder, &values);
        let outcome = helm::template(&["release", &parent]).await;
        assert_eq!(null_defect(&[key.to_owned()], &outcome, &default), None, "values.yaml of the parent");
        let null = format!("--set-json=ecs-retirement-controller.{key}=null");
        let outcome = helm::template(&["release", &parent, &null]).await;
        assert_eq!(null_defect(&[key.to_owned()], &outcome, &default), None, "values of the user");
    }
}

#[tokio::test]
async fn global_registry_and_pull_secrets_apply_to_every_pod() {
    let values = json!({
        "global": {
            "imageRegistry": "mirror.example.com:5000/cache",
            "imagePullSecrets": ["mirror", { "name": "own" }],
        },
        "ecs-retirement-controller": { "image": { "pullSecrets": [{ "name": "own" }, "other"] } },
    });
    let folder = Folder::create().expect("a folder");
    let objects = helm::template(&["release", &parent_chart(&folder, &values)]).await.expect("it renders");
    let specs: Vec<&Value> =
        objects.iter().flat_map(walk).filter(|spec| spec["containers"].is_array()).collect();
    assert!(!specs.is_empty());
    for spec in specs {
        for container in spec["containers"].as_array().expect("containers") {
            assert_eq!(container["image"], "mirror.example.com:5000/cache/ecs-retirement-controller:0.1.0");
        }
        let secrets = json!([{ "name": "own" }, { "name": "other" }, { "name": "mirror" }]);
        assert_eq!(spec["imagePullSecrets"], secrets);
    }
}

#[tokio::test]
async fn global_registry_replaces_the_registry_of_the_repository() {
    for (repository, image) in [
        ("ecs-retirement-controller", "mirror.example.com/ecs-retirement-controller:0.1.0"),
        ("team/controller", "mirror.example.com/team/controller:0.1.0"),
        ("registry.example.com/team/controller", "mirror.example.com/team/controller:0.1.0"),
        ("localhost/controller", "mirror.example.com/controller:0.1.0"),
        ("registry:5000/controller", "mirror.example.com/controller:0.1.0"),
    ] {
        let values = format!("--set=global.imageRegistry=mirror.example.com,image.repository={repository}");
        assert_eq!(pod(&rendered(&[&values]).await)["containers"][0]["image"], image);
    }
}

#[tokio::test]
async fn values_that_would_be_ignored_or_fail_later_are_rejected_with_a_sentence() {
    for (values, sentence) in [
        ("rbac.aggregateClusterRoles=true", "set rbac.aggregateToView and rbac.aggregateToEdit instead"),
        ("rbac.aggregateClusterRoles=false", "set rbac.aggregateToView and rbac.aggregateToEdit instead"),
        ("serviceAccount.create=false,serviceAccount.annotations.a=b", "needs serviceAccount.create=true"),
        ("ambientCredentials=false,ecsAccounts.enabled=false", "together leave no credentials"),
        ("ecsAccounts.enabled=false,controllerName=west", "controllerName needs ecsAccounts.enabled=true"),
        ("approval.enforce=yes", "/approval/enforce"),
        ("metrics.port=8081", "metrics.port and healthProbe.port are both 8081: choose two ports"),
        ("metrics.enabled=false,serviceMonitor.enabled=true", "serviceMonitor.enabled needs metrics.enabled"),
        ("metrics.enabled=false,podMonitor.enabled=true", "podMonitor.enabled needs metrics.enabled"),
        ("metrics.enabled=false,prometheusRule.enabled=true", "prometheusRule.enabled needs metrics.enabled"),
        (
            "prometheusRule.enabled=true,prometheusRule.disabled={EcsRetirementStuck}",
            "choose from EcsRetirementAbsent,",
        ),
        ("extraEnv[0].name=POD_NAME", "extraEnv must not contain POD_NAME"),
        ("extraEnv[0].name=AWS_REGION,aws.region=us-west-2", "aws.region and AWS_REGION"),
        (r"podLabels.app\.kubernetes\.io/name=a", "podLabels must not contain app.kubernetes.io/name"),
        (r"commonLabels.helm\.sh/chart=a", "commonLabels must not contain helm.sh/chart"),
        (r"prometheusRule.labels.app\.kubernetes\.io/version=a", "prometheusRule.labels must not contain"),
        ("prometheusRule.runbookBaseUrl=docs/operations.md", "/prometheusRule/runbookBaseUrl"),
        ("global.imageRegistry=https://mirror.example.com", "/global/imageRegistry"),
    ] {
        let message = render(&["--set", values]).await.expect_err(values);
        assert!(message.contains(sentence), "{values}: {message}");
    }
}

#[tokio::test]
async fn extra_arguments_and_variables_cannot_repeat_a_flag_that_the_chart_sets() {
    let everything =
        ["--values=tests/chart/everything.yaml", "--set=extraArgs=null,watchNamespaces={default}"];
    let mut objects = rendered(&everything).await;
    objects.extend(rendered(&["--set=ecsAccounts.enabled=false,retentionPolicies.enabled=false"]).await);
    let deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
    let containers = deployments.map(|deployment| &deployment["spec"]["template"]["spec"]["containers"][0]);
    let arguments = containers.flat_map(|container| container["args"].as_array().expect("arguments"));
    let flags: BTreeSet<&str> =
        arguments.filter_map(|flag| flag.as_str()?.split_once('=')).map(|(flag, _)| flag).collect();
    assert!(flags.len() > 13, "{flags:?}");
    for flag in flags {
        let variable = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        for (values, sentence) in [
            (format!("extraArgs={{{flag}=x}}"), format!("extraArgs must not contain {flag}: set ")),
            (format!("extraArgs={{{flag},x}}"), format!("extraArgs must not contain {flag}: set ")),
            (format!("extraEnv[0].name={variable}"), format!("extraEnv must not contain {variable}: set ")),
        ] {
            let message = render(&["--set", &values]).await.expect_err(flag);
            assert!(message.contains(&sentence), "{message}");
        }
    }
}

#[tokio::test]
async fn alert_labels_replace_the_severity_which_is_warning_by_default() {
    for (labels, severity) in [("team=platform", "warning"), ("severity=info", "info")] {
        let values = format!("--set=prometheusRule.enabled=true,prometheusRule.alertLabels.{labels}");
        let objects = rendered(&[&values]).await;
        let rules = object(&objects, "PrometheusRule")["spec"]["groups"][0]["rules"].as_array();
        for rule in rules.expect("rules") {
            assert_eq!(rule["labels"]["severity"], severity, "{rule}");
        }
    }
}

#[tokio::test]
async fn pods_set_no_user_or_group_that_openshift_would_refuse() {
    let objects = rendered(&[]).await;
    for field in ["runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "seLinuxOptions"] {
        for context in objects.iter().flat_map(walk).map(|value| &value["securityContext"]) {
            assert!(context[field].is_null(), "{field}: {context}");
        }
    }
    assert_eq!(pod(&objects)["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod(&objects)["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
}

#[tokio::test]
async fn network_policy_allows_dns_on_the_service_port_and_on_the_pod_port() {
    let objects = rendered(&["--set=networkPolicy.enabled=true"]).await;
    let egress = object(&objects, "NetworkPolicy")["spec"]["egress"].as_array().expect("egress rules");
    for (port, protocol) in [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")] {
        let wanted = json!({ "port": port, "protocol": protocol });
        let allows = |rule: &Value| {
            rule["to"].is_null() && rule["ports"].as_array().is_some_and(|ports| ports.contains(&wanted))
        };
        assert!(egress.iter().any(allows), "{wanted}: {egress:?}");
    }
}

#[tokio::test]
async fn write_access_is_aggregated_only_on_request() {
    for (values, expected) in [
        ("--set=rbac.create=true", &["get", "list", "watch"][..]),
        ("--set=rbac.aggregateToView=false", &[]),
        (
            "--set=rbac.aggregateToView=false,rbac.aggregateToEdit=true",
            &["create", "delete", "deletecollection", "patch", "update"],
        ),
    ] {
        let objects = rendered(&[values]).await;
        let is_aggregated = |object: &&Value| {
            let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
            labels.into_iter().any(|(label, _)| label.contains("/aggregate-to-"))
        };
        let roles = objects.iter().filter(is_aggregated);
        let verbs: BTreeSet<&str> = roles
            .flat_map(|role| role["rules"].as_array().into_iter().flatten())
            .flat_map(|rule| rule["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str))
            .collect();
        assert_eq!(verbs, expected.iter().copied().collect(), "{values}");
    }
}

#[tokio::test]
async fn names_that_look_like_numbers_stay_strings() {
    let values = "--set-string=fullnameOverride=34,nameOverride=56,serviceAccount.name=78,\
        priorityClassName=9,watchNamespaces={10},serviceMonitor.namespace=11,\
        podMonitor.namespace=12,prometheusRule.namespace=13";
    for templates in [ALL_TEMPLATES, "--set=podMonitor.enabled=true"] {
        let arguments = ["1234", CHART, "--namespace=5678", "--set=crds.enabled=false", templates, values];
        let objects = helm::template(&arguments).await.expect("it renders");
        for value in objects.iter().flat_map(walk) {
            for field in ["name", "namespace", "serviceAccountName", "priorityClassName"] {
                assert!(value[field].is_null() || value[field].is_string(), "{field}: {value}");
            }
            for field in ["labels", "matchLabels", "matchNames", "resourceNames"] {
                let are_strings = walk(&value[field]).into_iter().skip(1).all(Value::is_string);
                assert!(are_strings, "{field}: {value}");
            }
        }
    }
}

#[tokio::test]
async fn service_account_annotations_are_evaluated_as_templates() {
    let account = r#"--set-json=global={"account":"012345678910"}"#;
    let annotation = r#"--set-json=serviceAccount.annotations={"role":"{{ .Values.global.account }}"}"#;
    let objects = rendered(&[account, annotation]).await;
    assert_eq!(object(&objects, "ServiceAccount")["metadata"]["annotations"]["role"], "012345678910");
}

/// Returns the schema of the value at `path`; that of the map for an entry of a map with free keys.
fn schema_of<'schema>(schema: &'schema Value, path: &[String]) -> Option<&'schema Value> {
    path.iter().try_fold(schema, |schema, key| match schema["properties"].get(key) {
        Some(property) => Some(property),
        None => schema["additionalProperties"].is_object().then_some(schema),
    })
}

#[test]
fn every_value_is_in_the_schema_with_a_description() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let values = default_values();
    let values = values.as_object().expect("values are a map");
    for path in paths(values) {
        let description = schema_of(&schema, &path).and_then(|schema| schema["description"].as_str());
        assert!(description.is_some_and(|text| text.ends_with('.')), "{path:?}: {description:?}");
    }
    let known = schema["properties"].as_object().expect("properties").keys();
    let unlisted: Vec<&String> = known.filter(|key| !values.contains_key(*key)).collect();
    assert_eq!(unlisted, ["enabled"], "each value of the schema has a default and a comment in values.yaml");
}
