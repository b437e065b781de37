//! Queries of alerts and of the dashboard: each metric, label and value exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use testkit::process::free_port;

use crate::{
    alerts::{alerts, object_of_kind, objects, text},
    support::{POLICY_CRD, World, page, wait_for_page},
};

/// The labels of each metric with the values they have, as `/metrics` writes them.
type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Returns the metrics of a controller that has retired a revision, and that serves an `EcsAccount`
/// and a policy.
async fn metrics() -> Metrics {
    let world = World::new().await;
    world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let name = world.namespace.name();
    let kind = |kind: &str, spec: Value| {
        let version = "ecs-retirement.dev/v1alpha1";
        json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec })
    };
    let account = json!({
        "controllerName": name, "accountId": "111122223333", "region": "us-west-2",
        "families": { "allow": ["web"] },
    });
    let policy = json!({ "families": { "include": ["web"] }, "keep": { "latest": 1 } });
    for object in [kind("EcsAccount", account), kind("TaskDefinitionRetentionPolicy", policy)] {
        world.namespace.apply(object).await.expect("it is valid");
    }
    let address = format!("127.0.0.1:{}", free_port().expect("a port"));
    let _controller = world.start_with(&[("METRICS_BIND_ADDRESS", &address), ("CONTROLLER_NAME", name)]);
    world.wait_ready("web").await;
    wait_for_page(&format!("{address}/metrics"), "ecs_retirement_policy_last_run_age_seconds{").await;
    let (_, page) = page(&format!("{address}/metrics")).await.expect("metrics are served");
    let mut metrics = Metrics::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = metrics.entry(name.to_owned()).or_default();
        for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').expect("a label");
            known.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    metrics
}

/// Asserts that `query` selects metrics, labels and values that exist.
fn assert_answerable(query: &str, metrics: &Metrics) {
    let mut selectors = 0;
    for (before, rest) in query.match_indices('{').map(|(at, _)| query.split_at(at)) {
        let name = before
            .rsplit(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .next()
            .unwrap_or_default();
        let labels = metrics.get(name).unwrap_or_else(|| panic!("no metric {name}: {query}"));
        selectors += 1;
        let matchers = rest[1..].split('}').next().unwrap_or_default();
        for matcher in matchers.split(',').map(str::trim) {
            let (label, value) = matcher.split_once(['=', '!']).expect("a matcher");
            if ["namespace", "job"].contains(&label) {
                continue;
            }
            let values = labels.get(label).unwrap_or_else(|| panic!("{name} has no label {label}: {query}"));
            let value = value.trim_matches(['=', '~', '"']);
            // The values of these labels describe errors, and none occurred.
            if label != "code" && label != "result" {
                assert!(
                    value.split('|').all(|value| values.contains(value)),
                    "{label} is never {value}: {values:?}"
                );
            }
        }
    }
    assert!(selectors > 0, "{query}");
    let families =
        ["ecs_retirement_", "controller_runtime_", "workqueue_", "rest_client_", "leader_election_"];
    let mentions: usize = families.iter().map(|family| query.matches(family).count()).sum();
    assert_eq!(mentions, selectors, "each metric is selected by release: {query}");
    for labels in query.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
        // Prometheus renames a label that its target has too.
        let of_target = ["namespace", "job", "exported_namespace"];
        for label in labels.split(", ").filter(|label| !of_target.contains(label)) {
            assert!(
                metrics.values().any(|labels| labels.contains_key(label)),
                "nothing has a label {label}: {query}"
            );
        }
    }
}

#[tokio::test]
async fn alerts_and_dashboard_query_existing_metrics() {
    let (metrics, objects) = (metrics().await, objects().await);
    for alert in alerts(&objects) {
        assert_answerable(text(alert, "expr"), &metrics);
    }
    let dashboard = text(&object_of_kind(&objects, "ConfigMap")["data"], "ecs-retirement-controller.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = queries.map(|target| text(target, "expr")).collect();
    assert!(queries.len() >= panels.len(), "{panels:#?}");
    for query in &queries {
        assert_answerable(query, &metrics);
    }
    let shown = queries.join("\n");
    for name in metrics.keys().filter(|name| name.starts_with("ecs_retirement_") && !name.ends_with("_sum")) {
        let is_shown = shown.contains(name.trim_end_matches("_count"));
        assert!(is_shown, "no panel shows {name}");
    }
}
