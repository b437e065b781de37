//! What a run may choose: guards of EcsAccounts, other policies, large families and history.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};
use testkit::simulated_ecs::{ACCOUNT, Action, Status};

use super::Policies;
use crate::support::{
    ACCOUNT_CRD, REGION, Seen, Verdict,
    invariants::{Allowed, calls_that_are_not_allowed, deregistrations_of_kept},
};

/// Returns the condition of a policy.
fn condition<'a>(policy: &'a Value, type_: &str) -> Option<&'a Value> {
    policy["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == type_)
}

/// Applies an EcsAccount of the controller's own account, named and served as the namespace.
async fn account(policies: &Policies, controller: &str, families: Value) -> String {
    let namespace = &policies.world.namespace;
    namespace.install_crds(ACCOUNT_CRD).await.expect("the CRD installs");
    let name = format!("{}-own", namespace.name());
    let manifest = json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "EcsAccount",
        "metadata": { "name": name },
        "spec": {
            "controllerName": controller, "accountId": ACCOUNT, "region": REGION,
            "allowedNamespaces": { "names": [namespace.name()] }, "families": families,
        },
    });
    namespace.apply(manifest).await.expect("the EcsAccount is admitted");
    name
}

/// Asserts I7 for the family `web` with `count` revisions.
fn assert_kept(policies: &Policies, keep_latest: usize, count: i32) {
    let is_active =
        |number: &i32| policies.world.west.status(&format!("web:{number}")) == Some(Status::Active);
    let active: Vec<i32> = (1..=count).filter(is_active).collect();
    let violations = deregistrations_of_kept(&policies.world.ecs.calls(), keep_latest, &active);
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test]
async fn family_of_100_000_revisions_takes_at_most_40_reads() {
    let policies = Policies::new().await;
    let first = Timestamp::now() - SignedDuration::from_hours(100_000);
    policies.world.west.register_many_at("web", 100_000, first, SignedDuration::from_hours(1));
    // Only the oldest 101 are old enough, so that the search takes all of its steps.
    let keep = json!({ "youngerThan": "99900h" });
    policies.apply("web", &["web"], 5, json!({ "keep": keep })).await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    let is_read = |call: &testkit::simulated_ecs::Call| {
        matches!(
            call.action,
            Action::DescribeTaskDefinition | Action::ListTaskDefinitions | Action::ListTaskDefinitionFamilies
        )
    };
    let declared = policies.declared().await;
    assert_eq!(declared.len(), 101, "those that are at least as old");
    let describes = |call: &testkit::simulated_ecs::Call| {
        // The new retirement describes what it declares.
        let revision = call.task_definition.as_ref().and_then(|it| it.rsplit('/').next());
        call.action == Action::DescribeTaskDefinition
            && revision.is_some_and(|it| declared.iter().any(|declared| declared == it))
    };
    let reads =
        policies.world.ecs.calls().into_iter().filter(|call| is_read(call) && !describes(call)).count();
    assert!(reads <= 40, "{reads} reads");
}

#[tokio::test]
async fn policies_over_one_family_deregister_each_revision_once() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 20);
    let more = json!({ "approval": "Automatic", "interval": "1m" });
    policies.apply("first", &["web"], 5, more.clone()).await;
    policies.apply("second", &["we*"], 8, more).await;
    let _controller = policies.world.start();
    for name in ["first", "second"] {
        policies.wait(name, "Succeeded").await;
    }
    for retirement in policies.retirements().await {
        let name = retirement.name_any();
        let is_ready = |seen: &Seen| seen.is_current() && seen.ready() == "True";
        policies.world.wait_for(&name, "Ready=True", Duration::from_mins(2), is_ready).await;
    }
    let mut called: Vec<String> = policies
        .world
        .ecs
        .calls_of(Action::DeregisterTaskDefinition)
        .into_iter()
        .filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned()))
        .collect();
    called.sort();
    let mut expected: Vec<String> = (1..=15).map(|number| format!("web:{number}")).collect();
    expected.sort();
    assert_eq!(called, expected, "one call per revision");
    assert_kept(&policies, 5, 20);
    let kept = (16..=20).all(|it| policies.world.west.status(&format!("web:{it}")) == Some(Status::Active));
    assert!(kept);
    let began = std::time::Instant::now();
    for (name, other) in [("first", "second"), ("second", "first")] {
        let policy = loop {
            let policy = policies.seen(name).await;
            if condition(&policy, "Overlapping").is_some() || began.elapsed() > Duration::from_secs(90) {
                break policy;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let overlapping = condition(&policy, "Overlapping").unwrap_or_else(|| panic!("{policy}"));
        assert!(overlapping["message"].as_str().is_some_and(|it| it.contains(other)), "{policy}");
    }
}

#[tokio::test]
async fn families_that_an_account_does_not_allow_are_never_proposed() {
    let policies = Policies::new().await;
    for family in ["web-shop", "web-payments", "api"] {
        policies.world.west.register_many(family, 6);
    }
    let own = policies.world.namespace.name();
    let families = json!({ "allow": ["web-*"], "deny": ["web-payments"] });
    let account = account(&policies, own, families).await;
    policies.apply("all", &["*"], 2, json!({ "accountRef": { "name": account } })).await;
    policies.apply("named", &["api", "web-payments"], 2, json!({ "accountRef": { "name": account } })).await;
    policies.apply("none", &["*"], 2, json!({})).await;
    let _controller = policies.world.start_with(&[("CONTROLLER_NAME", own)]);
    policies.wait("all", "AwaitingApproval").await;
    policies.wait("named", "NoFamilies").await;
    let refused = policies.wait("none", "NotAllowed").await;
    assert!(condition(&refused, "Stalled").is_some(), "{refused}");
    for (name, verdict, health) in [
        ("all", Verdict::Current, "Healthy"),
        ("named", Verdict::Current, "Healthy"),
        ("none", Verdict::Failed, "Degraded"),
    ] {
        let seen = Seen(policies.api().get(name).await.expect("a policy"));
        assert_eq!((seen.verdict(), seen.health().as_str()), (verdict, health), "{name}: {seen}");
    }
    let expected: Vec<String> = (1..=4).map(|number| format!("web-shop:{number}")).collect();
    assert_eq!(policies.declared().await, expected);
    let allowed = [Allowed { account: ACCOUNT, region: REGION, families: &["web-shop"] }];
    let refused = calls_that_are_not_allowed(&policies.world.ecs.calls(), &allowed);
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn waiting_policy_reports_a_changed_account_within_10_s() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 6);
    let own = policies.world.namespace.name();
    account(&policies, own, json!({ "allow": ["*"] })).await;
    let name = format!("{own}-own");
    policies.apply("web", &["web"], 2, json!({ "accountRef": { "name": name } })).await;
    let _controller = policies.world.start_with(&[("CONTROLLER_NAME", own)]);
    policies.wait("web", "AwaitingApproval").await;
    let api = kube::api::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "ecs-retirement.dev",
        "v1alpha1",
        "EcsAccount",
    ));
    let accounts: kube::Api<kube::api::DynamicObject> =
        kube::Api::all_with(policies.world.namespace.client(), &api);
    for (names, reason) in [(json!([]), "NotAllowed"), (json!([own]), "AwaitingApproval")] {
        let allowed = json!({ "spec": { "allowedNamespaces": { "names": names } } });
        let (patch, parameters) = (kube::api::Patch::Merge(allowed), kube::api::PatchParams::default());
        accounts.patch(&name, &parameters, &patch).await.expect("it is patched");
        let changed = std::time::Instant::now();
        policies.wait("web", reason).await;
        assert!(changed.elapsed() < Duration::from_secs(10), "{reason} after {:?}", changed.elapsed());
    }
}

#[tokio::test]
async fn policy_of_another_controller_is_left_alone() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 6);
    let own = policies.world.namespace.name();
    let account = account(&policies, own, json!({ "allow": ["*"] })).await;
    let proxy = testkit::api_proxy::ApiProxy::in_front_of(policies.world.namespace.control_plane()).await;
    let proxy = proxy.expect("a proxy");
    let kubeconfig = proxy.kubeconfig().display().to_string();
    policies.apply("web", &["web"], 2, json!({ "accountRef": { "name": account } })).await;
    let _other = policies.world.start_with(&[("CONTROLLER_NAME", "other"), ("KUBECONFIG", &kubeconfig)]);
    policies.wait("web", "AccountNotFound").await;
    let _controller = policies.world.start_with(&[("CONTROLLER_NAME", own)]);
    policies.wait("web", "AwaitingApproval").await;
    let writes = || {
        let log = proxy.log().into_iter();
        log.filter(|it| it.request.verb.is_write() && it.request.name == "web" && it.status == Some(200))
            .count()
    };
    let before = writes();
    for latest in [3, 4, 5] {
        policies.patch("web", json!({ "spec": { "keep": { "latest": latest } } })).await;
        policies.wait("web", "AwaitingApproval").await;
    }
    assert_eq!(policies.declared().await, ["web:1"]);
    assert_eq!(writes(), before, "the other controller writes nothing");
}

#[tokio::test]
async fn policy_narrows_a_retirement_of_which_half_is_retired() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 22);
    policies.apply("web", &["web"], 2, json!({ "approval": "Automatic" })).await;
    let pacing = [("DEREGISTRATIONS_PER_SECOND", "2"), ("DEREGISTRATION_BURST", "1")];
    let _controller = policies.world.start_with(&pacing);
    let ecs = &policies.world.ecs;
    ecs.wait_for_calls(Action::DeregisterTaskDefinition, 8, Duration::from_secs(30)).await;
    policies
        .patch("web", json!({ "spec": { "keep": { "latest": 2, "revisions": ["web:19", "web:20"] } } }))
        .await;
    policies.wait("web", "Succeeded").await;
    let expected: Vec<String> = (1..=18).map(|number| format!("web:{number}")).collect();
    assert_eq!(policies.declared().await, expected, "what is retired stays in the record");
    let name = policies.retirements().await[0].name_any();
    policies.world.wait_for(&name, "Ready", Duration::from_mins(1), |seen| seen.ready() == "True").await;
    let calls = ecs.calls_of(Action::DeregisterTaskDefinition);
    let called: BTreeSet<_> = calls.iter().filter_map(|call| call.task_definition.clone()).collect();
    assert_eq!((calls.len(), called.len()), (18, 18));
    assert_kept(&policies, 2, 22);
    assert_eq!(policies.world.west.status("web:20"), Some(Status::Active));
}

#[tokio::test]
async fn history_limit_deletes_the_oldest_records_only() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 12);
    let more = json!({ "approval": "Automatic", "maxRevisionsPerRun": 2, "historyLimit": 2 });
    policies.apply("web", &["web"], 11, more).await;
    policies.world.west.register("api");
    policies.world.declare("foreign", &["api:1"]).await;
    let _controller = policies.world.start();
    let mut names = Vec::new();
    for latest in (7..=10).rev() {
        policies.wait("web", "Succeeded").await;
        let own = policies.retirements().await.into_iter().map(|it| it.name_any());
        let new: Vec<String> = own.filter(|it| it.starts_with("web-") && !names.contains(it)).collect();
        for name in new {
            policies.world.wait_ready(&name).await;
            let is_record = |seen: &Seen| seen.0.owner_references().is_empty();
            policies.world.wait(&name, "record", is_record).await;
            names.push(name);
        }
        policies.patch("web", json!({ "spec": { "keep": { "latest": latest } } })).await;
    }
    policies.wait("web", "Succeeded").await;
    assert!(names.len() >= 3, "{names:?}");
    let left: Vec<String> = policies.retirements().await.into_iter().map(|it| it.name_any()).collect();
    assert!(left.contains(&"foreign".to_owned()), "{left:?}");
    assert!(!left.contains(&names[0]), "the oldest record is deleted: {left:?}");
    assert!(left.contains(&names[names.len() - 1]), "the newest record stays: {left:?}");
}

#[tokio::test]
async fn kept_revisions_are_read_once_a_minute() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 5);
    let all: Vec<String> = (1..=5).map(|number| format!("web:{number}")).collect();
    let spec = json!({ "revisions": all, "keepLatest": 5, "inUse": "Retire" });
    policies.world.apply("web", spec).await.expect("the resource is admitted");
    let _controller = policies.world.start();
    let are_kept = |seen: &Seen| seen.reasons() == ["Kept"; 5];
    policies.world.wait("web", "five kept revisions", are_kept).await;
    let lists = || policies.world.ecs.calls_of(Action::ListTaskDefinitions).len();
    let before = lists();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(lists() <= before + 1, "{} lists in 5 s", lists() - before);
}
