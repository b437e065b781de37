//! EcsAccounts that change while revisions are being retired.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{
    api_proxy::ApiProxy,
    simulated_ecs::{ACCOUNT, Action, Status},
};

use super::{Accounts, MEMBER, REACTION};
use crate::support::Seen;

/// How long a call may take to arrive whose checks were complete before a change. Shorter than the
/// second between two permits.
const IN_FLIGHT: Duration = Duration::from_millis(900);

/// Declares 40 revisions of `job`, retired at one a second, and waits for the third call.
async fn retire_slowly(accounts: &Accounts) -> testkit::process::Process {
    let pacing = json!({ "deregistrationsPerMinute": 60, "deregistrationBurst": 1 });
    accounts.account("prod", json!({ "pacing": pacing })).await;
    accounts.member.register_many("job", 40);
    for half in [1..=20, 21..=40] {
        let name = format!("job-{}", half.start());
        let revisions: Vec<String> = half.map(|number| format!("job:{number}")).collect();
        let revisions: Vec<&str> = revisions.iter().map(String::as_str).collect();
        accounts.declare(&name, "prod", &revisions, json!({})).await;
    }
    let controller = accounts.start();
    let calls = &accounts.world.ecs;
    calls.wait_for_calls(Action::DeregisterTaskDefinition, 3, Duration::from_secs(20)).await;
    controller
}

/// Waits until every row of both resources is retired or has `reason`. Asserts that no revision of
/// `job` was deregistered after `changed`.
async fn assert_stopped(accounts: &Accounts, reason: &str, changed: Instant) {
    for name in ["job-1", "job-21"] {
        let has = |seen: &Seen| seen.reasons().iter().all(|it| *it == reason || *it == "Retired");
        accounts.world.wait_for(name, reason, REACTION, has).await;
    }
    let is_late = |call: &testkit::simulated_ecs::Call| {
        call.action == Action::DeregisterTaskDefinition
            && call.at > changed + IN_FLIGHT
            && call.task_definition.as_ref().is_some_and(|it| it.contains("job"))
    };
    let late: Vec<_> = accounts.member_calls().into_iter().filter(is_late).collect();
    assert!(late.is_empty(), "{late:#?}");
    assert!(accounts.deregistered() < 20, "most revisions were still waiting");
}

#[tokio::test]
async fn narrowed_families_stop_what_waits() {
    let accounts = Accounts::new().await;
    let _controller = retire_slowly(&accounts).await;
    accounts.patch("prod", json!({ "families": { "allow": ["web"] } })).await;
    let changed = Instant::now();
    assert_stopped(&accounts, "NotAllowed", changed).await;
    // The bucket is not exhausted: an allowed family gets permits.
    accounts.declare("web", "prod", &["web:1", "web:2", "web:3"], json!({})).await;
    accounts.world.wait_ready("web").await;
    assert_stopped(&accounts, "NotAllowed", changed).await;
}

#[tokio::test]
async fn deleted_account_stops_its_resources() {
    let accounts = Accounts::new().await;
    let _controller = retire_slowly(&accounts).await;
    accounts.delete("prod").await;
    let changed = Instant::now();
    assert_stopped(&accounts, "AccountNotFound", changed).await;
    accounts.account("other", json!({})).await;
    accounts.declare("web", "other", &["web:1"], json!({})).await;
    accounts.world.wait_ready("web").await;
    assert_stopped(&accounts, "AccountNotFound", changed).await;
}

/// Changes the EcsAccount before the first call of `action` is carried out. `change` is the changed
/// part of its spec; null deletes it. Asserts that nothing is deregistered. No usage scan delays
/// the call.
async fn change_before(action: Action, change: Value, reason: &str) {
    let accounts = Accounts::new().await;
    accounts.account("prod", json!({})).await;
    let (api, name) = (accounts.api(), accounts.name("prod"));
    accounts.world.ecs.before(action, 1, async move {
        if change.is_null() {
            api.delete(&name, &kube::api::DeleteParams::default()).await.expect("it is deleted");
        } else {
            let patch = kube::api::Patch::Merge(json!({ "spec": change }));
            api.patch(&name, &kube::api::PatchParams::default(), &patch).await.expect("it is patched");
        }
    });
    accounts.declare("web", "prod", &["web:1", "web:2"], json!({ "keepLatest": 1, "inUse": "Retire" })).await;
    let _controller = accounts.start();
    accounts.wait_reason("web", reason).await;
    assert!(accounts.member_calls().iter().any(|call| call.action == action), "{action:?} was called");
    assert_eq!(accounts.deregistered(), 0, "changed before {action:?}: {reason}");
}

#[tokio::test]
async fn account_changed_after_the_plan_prevents_the_call() {
    let changes = [
        (json!({ "families": { "allow": ["web"], "deny": ["web"] } }), "NotAllowed"),
        (json!({ "allowedNamespaces": null }), "NotAllowed"),
        (json!({ "suspend": true }), "Suspended"),
        (Value::Null, "AccountNotFound"),
    ];
    for (change, reason) in changes {
        change_before(Action::DescribeTaskDefinition, change, reason).await;
    }
}

#[tokio::test]
async fn account_changed_during_the_list_of_newer_revisions_prevents_the_call() {
    let deny = json!({ "families": { "allow": ["web"], "deny": ["web"] } });
    change_before(Action::ListTaskDefinitions, deny, "NotAllowed").await;
    change_before(Action::ListTaskDefinitions, Value::Null, "AccountNotFound").await;
}

#[tokio::test]
async fn account_changed_during_a_usage_scan_prevents_the_call() {
    let accounts = Accounts::new().await;
    accounts.member.cluster("prod");
    accounts.account("prod", json!({})).await;
    let (api, name) = (accounts.api(), accounts.name("prod"));
    accounts.world.ecs.before(Action::ListClusters, 1, async move {
        let patch = kube::api::Patch::Merge(json!({ "spec": { "allowedNamespaces": null } }));
        api.patch(&name, &kube::api::PatchParams::default(), &patch).await.expect("it is patched");
    });
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    accounts.wait_reason("web", "NotAllowed").await;
    assert_eq!(accounts.deregistered(), 0);
    assert_eq!(accounts.member.status("web:1"), Some(Status::Active));
}

#[tokio::test]
async fn unrelated_account_costs_no_request_for_final_resources() {
    let accounts = Accounts::new().await;
    let proxy = ApiProxy::in_front_of(accounts.world.namespace.control_plane()).await.expect("a proxy");
    let kubeconfig = proxy.kubeconfig().display().to_string();
    accounts.account("prod", json!({})).await;
    accounts.account("other", json!({ "accountId": ACCOUNT, "assumeRole": null })).await;
    let names: Vec<String> = (0..60).map(|number| format!("final-{number}")).collect();
    for name in &names {
        accounts.declare(name, "prod", &["web:1"], json!({})).await;
    }
    let _controller = accounts.start_with(&[("KUBECONFIG", &kubeconfig)]);
    for name in &names {
        accounts.world.wait_ready(name).await;
    }
    accounts.world.west.register_many("fence", 3);
    let requests = || proxy.log().into_iter().filter(|it| it.request.name.starts_with("final-")).count();
    // The last reconciles may still be running.
    let mut before = requests();
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = requests();
        if now == before {
            break;
        }
        before = now;
    }
    let calls = accounts.member_calls().len();
    for number in 1..=3 {
        accounts.patch("other", json!({ "suspend": number == 2 })).await;
        let (name, revision) = (format!("fence-{number}"), format!("fence:{number}"));
        accounts.declare(&name, "other", &[&revision], json!({})).await;
        let reason = if number == 2 { "Suspended" } else { "Retired" };
        accounts.world.wait(&name, reason, |seen| seen.reasons() == [reason]).await;
    }
    assert_eq!(requests(), before, "no read and no write");
    assert_eq!(accounts.member_calls().len(), calls, "no call in account {MEMBER}");
}
