//! Alerts: each fires only when it should, and has a runbook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};
use testkit::{helm, process::Folder, promtool::promtool};

use crate::support::CHART;

const OPERATIONS: &str = include_str!("../docs/operations.md");

/// Where the runbooks are published.
const RUNBOOKS: &str = "--set=prometheusRule.runbookBaseUrl=https://runbooks.example.com/operations";

/// The values of every metric while all is well, one sample per minute.
const HEALTHY: [(&str, &str); 18] = [
    ("ecs_retirement_build_info{pod='a'}", "1x120"),
    ("leader_election_master_status{pod='a'}", "1x120"),
    ("leader_election_master_status{pod='b'}", "0x120"),
    ("rest_client_requests_total{code='200'}", "0+30x120"),
    ("rest_client_requests_total{code='403'}", "2x120"),
    ("controller_runtime_reconcile_errors_total{}", "0x120"),
    ("controller_runtime_reconcile_panics_total{}", "3x120"),
    ("ecs_retirement_aws_calls_total{operation='DescribeTaskDefinition',code='OK'}", "0+10x120"),
    ("ecs_retirement_pacer_rate{account='012345678910',bucket='modify',region='us-west-2'}", "0.5x120"),
    ("ecs_retirement_resources{condition='Stalled'}", "0x120"),
    ("ecs_retirement_revisions{reason='Pending'}", "3x120"),
    (
        "ecs_retirement_usage_scans_total{account='012345678910',region='us-west-2',result='success'}",
        "0+2x120",
    ),
    ("ecs_retirement_oldest_waiting_seconds{}", "60x120"),
    ("workqueue_depth{name='taskdefinitionretirement'}", "5x120"),
    ("controller_runtime_max_concurrent_reconciles{}", "16x120"),
    ("ecs_retirement_policy_pending_approvals{exported_namespace='web',name='web'}", "0x60 2x60"),
    ("ecs_retirement_policy_ready{exported_namespace='web',name='web'}", "1x60 0x10 1x50"),
    ("ecs_retirement_account_ready{account='012345678910',name='prod'}", "1x120"),
];

/// Metrics, each with its samples.
type Series = &'static [(&'static str, &'static str)];

/// For each alert, metrics with which it fires, and metrics with which it almost fires.
const CASES: [(&str, Series, Series); 16] = [
    (
        "EcsRetirementAbsent",
        &[("ecs_retirement_build_info{pod='a'}", "1x60 _x60")],
        &[("ecs_retirement_build_info{pod='a'}", "1x60 _x12 1x48")],
    ),
    (
        "EcsRetirementNoLeader",
        &[("leader_election_master_status{pod='a'}", "1x60 0x60")],
        &[("leader_election_master_status{pod='a'}", "1x60 0x3 1x57")],
    ),
    (
        "EcsRetirementForbidden",
        &[("rest_client_requests_total{code='403'}", "0+1x120")],
        &[("rest_client_requests_total{code='403'}", "0x60 40x60")],
    ),
    (
        "EcsRetirementReconcileErrors",
        &[("controller_runtime_reconcile_errors_total{}", "0+6x120")],
        &[("controller_runtime_reconcile_errors_total{}", "0+2x120")],
    ),
    (
        "EcsRetirementPanic",
        &[("controller_runtime_reconcile_panics_total{}", "0x60 1x60")],
        &[("controller_runtime_reconcile_panics_total{}", "1x120")],
    ),
    (
        "EcsRetirementAccessDenied",
        &[(
            "ecs_retirement_aws_calls_total{operation='DeregisterTaskDefinition',code='AccessDeniedException'}",
            "0x9 1x10 2x10 3x10 4x10 5x70",
        )],
        &[(
            "ecs_retirement_aws_calls_total{operation='DeregisterTaskDefinition',code='AccessDeniedException'}",
            "0x60 1x60",
        )],
    ),
    (
        "EcsRetirementAccessDenied",
        &[(
            // The attempts of the exponential backoff after refused credentials.
            "ecs_retirement_aws_calls_total{operation='AssumeRoleWithWebIdentity',code='AccessDenied'}",
            "_x3 4x1 5x2 6x4 7x9 8x9 9x9 10x9 11x70",
        )],
        &[("ecs_retirement_aws_calls_total{operation='LoadCredentials',code='NoCredentials'}", "0x60 1x60")],
    ),
    (
        "EcsRetirementAwsUnreachable",
        &[("ecs_retirement_aws_calls_total{operation='GetCallerIdentity',code='NoAnswer'}", "0+12x120")],
        &[("ecs_retirement_aws_calls_total{operation='GetCallerIdentity',code='NoAnswer'}", "0+8x120")],
    ),
    (
        "EcsRetirementThrottled",
        &[(
            "ecs_retirement_pacer_rate{account='012345678910',bucket='modify',region='us-west-2'}",
            "0.5x30 0.25x90",
        )],
        &[(
            "ecs_retirement_pacer_rate{account='012345678910',bucket='modify',region='us-west-2'}",
            "0.5x30 0.125x10 0.25x10 0.5x70",
        )],
    ),
    (
        "EcsRetirementUsageUnknown",
        &[
            (
                "ecs_retirement_usage_scans_total{account='012345678910',region='us-west-2',result='success'}",
                "9x120",
            ),
            (
                "ecs_retirement_usage_scans_total{account='012345678910',region='us-west-2',result='error'}",
                "0+1x120",
            ),
        ],
        &[(
            "ecs_retirement_usage_scans_total{account='012345678910',region='us-west-2',result='incomplete'}",
            "0+1x120",
        )],
    ),
    (
        "EcsRetirementStalled",
        &[("ecs_retirement_resources{condition='Stalled'}", "0x60 1x60")],
        &[("ecs_retirement_resources{condition='Stalled'}", "0x60 1x10 0x50")],
    ),
    (
        "EcsRetirementSlow",
        &[("ecs_retirement_oldest_waiting_seconds{}", "20000+60x120")],
        &[
            ("ecs_retirement_oldest_waiting_seconds{}", "20000+60x120"),
            ("ecs_retirement_revisions{reason='Pending'}", "0x120"),
            ("ecs_retirement_revisions{reason='InUse'}", "3x120"),
        ],
    ),
    (
        "EcsRetirementBacklog",
        &[("controller_runtime_active_workers{}", "16x120")],
        &[("controller_runtime_active_workers{}", "15x120")],
    ),
    (
        "EcsRetirementApprovalPending",
        // The leader changes after some days.
        &[(
            "ecs_retirement_policy_pending_approvals{exported_namespace='web',name='web'}",
            "1x1000 _x2 2x1050",
        )],
        &[("ecs_retirement_policy_pending_approvals{exported_namespace='web',name='web'}", "1x2000 0x52")],
    ),
    (
        "EcsRetirementPolicyNotReady",
        &[("ecs_retirement_policy_ready{exported_namespace='web',name='web'}", "1x60 0x60")],
        &[("ecs_retirement_policy_ready{exported_namespace='web',name='web'}", "1x60 0x25 1x35")],
    ),
    (
        "EcsRetirementAccountNotReady",
        &[("ecs_retirement_account_ready{account='012345678910',name='prod'}", "1x60 0x60")],
        &[("ecs_retirement_account_ready{account='012345678910',name='prod'}", "1x60 0x15 1x45")],
    ),
];

/// The alert that fires after days. Its samples are 5 minutes apart, and end after 7 days and 3
/// hours.
const SLOW: &str = "EcsRetirementApprovalPending";

/// Returns the objects of a release with all alerts and the dashboard.
pub async fn objects() -> Vec<Value> {
    let on = "--set=prometheusRule.enabled=true,serviceMonitor.enabled=true,grafanaDashboard.enabled=true";
    let arguments = ["retirement", CHART, "--namespace", "ecs-retirement", on, RUNBOOKS];
    helm::template(&arguments).await.expect("the chart renders")
}

pub fn object_of_kind<'value>(objects: &'value [Value], kind: &str) -> &'value Value {
    objects.iter().find(|object| object["kind"] == kind).expect("the chart renders the kind")
}

pub fn alerts(objects: &[Value]) -> Vec<&Value> {
    let groups = object_of_kind(objects, "PrometheusRule")["spec"]["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect()
}

pub fn text<'value>(value: &'value Value, field: &str) -> &'value str {
    value[field].as_str().unwrap_or_default()
}

/// Returns a promtool unit test: within two hours, or the last two of the slow alert, only
/// `expected` fires.
fn unit_test(name: &str, changed: &[(&str, &str)], expected: &[&str]) -> Value {
    let (interval, samples) = if name.starts_with(SLOW) { (5, 171 * 12) } else { (1, 120) };
    let mut series = BTreeMap::from(HEALTHY);
    series.extend(changed.iter().copied());
    let series: Vec<Value> = series
        .into_iter()
        .map(|(series, values)| {
            let release = "{namespace='ecs-retirement',job='retirement',";
            // The last value continues until the end.
            let values = values.replace("x120", &format!("x{samples}"));
            json!({ "series": series.replace('{', release), "values": values })
        })
        .collect();
    let firing: Vec<Value> = expected
        .iter()
        .map(|alert| json!({ "labels": format!("{{alertname='{alert}'}}"), "value": 1 }))
        .collect();
    json!({
        "name": name,
        "interval": format!("{interval}m"),
        "input_series": series,
        "promql_expr_test": [{
            "expr": "group by (alertname) (max_over_time(ALERTS{alertstate='firing'}[3h]))",
            "eval_time": format!("{}m", interval * samples),
            "exp_samples": firing,
        }],
    })
}

#[tokio::test]
async fn alert_fires_when_it_should_and_stays_silent_just_below_its_threshold() {
    let objects = objects().await;
    let folder = Folder::create().expect("a folder");
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        fs::write(&path, value.to_string()).expect("the file can be written");
        path.display().to_string()
    };
    let rules = write("rules.json", &object_of_kind(&objects, "PrometheusRule")["spec"]);
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", &rules]).await.expect("the rules are valid");

    let known: BTreeSet<&str> = alerts(&objects).into_iter().map(|alert| text(alert, "alert")).collect();
    assert_eq!(known, CASES.iter().map(|(alert, ..)| *alert).collect(), "each has a case");
    let cases = CASES.iter().flat_map(|(alert, fires, nearly)| {
        [
            unit_test(&format!("{alert} fires"), fires, &[alert]),
            unit_test(&format!("{alert} stays silent"), nearly, &[]),
        ]
    });
    let mut tests: Vec<Value> = cases.collect();
    tests.push(unit_test("all is well", &[], &[]));
    let (slow, fast): (Vec<Value>, Vec<Value>) =
        tests.into_iter().partition(|test| text(test, "name").starts_with(SLOW));
    for (name, interval, tests) in [("fast.json", "1m", fast), ("slow.json", "5m", slow)] {
        let tests = json!({ "rule_files": [rules], "evaluation_interval": interval, "tests": tests });
        promtool(&["test", "rules", &write(name, &tests)]).await.unwrap_or_else(|output| panic!("{output}"));
    }
}

#[tokio::test]
async fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let objects = objects().await;
    let alerts = alerts(&objects);
    for alert in &alerts {
        let (name, annotations) = (text(alert, "alert"), &alert["annotations"]);
        assert!(
            !text(annotations, "summary").is_empty() && !text(annotations, "description").is_empty(),
            "{name}"
        );
        let url = format!("https://runbooks.example.com/operations#{}", name.to_lowercase());
        assert_eq!(text(annotations, "runbook_url"), url);
        let runbook =
            OPERATIONS.split(&format!("\n### {name}\n")).nth(1).expect("a section in docs/operations.md");
        let runbook = runbook.split("\n#").next().unwrap_or_default();
        for part in ["**Means:**", "**Check:**", "**Do:**"] {
            assert!(runbook.contains(part), "{name}: {part}");
        }
    }
    assert_eq!(OPERATIONS.matches("\n### EcsRetirement").count(), alerts.len(), "a runbook has no alert");
}
