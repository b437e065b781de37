//! What an EcsAccount allows, and refusals.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault, Verb},
    process::Process,
    simulated_ecs::{ACCOUNT, Action},
};

use super::{Accounts, MEMBER, REACTION, api_resource};
use crate::support::REGION;

#[tokio::test]
async fn refused_retirement_names_the_rule_and_causes_no_call() {
    let accounts = Accounts::new().await;
    accounts.account("families", json!({ "families": { "allow": ["api"], "deny": ["web"] } })).await;
    accounts.account("namespaces", json!({ "allowedNamespaces": { "names": ["other"] } })).await;
    accounts.account("unused", json!({ "requireUnused": true })).await;
    let _controller = accounts.start();
    let table = [
        ("families", json!({}), "NotAllowed", "family web (spec.families.deny)"),
        ("namespaces", json!({}), "NotAllowed", "(spec.allowedNamespaces)"),
        ("unused", json!({ "inUse": "Retire" }), "NotAllowed", "spec.requireUnused"),
        ("absent", json!({}), "AccountNotFound", "there is no EcsAccount"),
        ("unused", json!({ "region": "eu-west-1" }), "NotAllowed", "region eu-west-1 (spec.allowedRegions)"),
        ("unused", json!({ "accountId": ACCOUNT }), "WrongAccount", MEMBER),
    ];
    for (index, (account, more, reason, text)) in table.into_iter().enumerate() {
        let name = format!("web-{index}");
        accounts.declare(&name, account, &["web:1", "web:2"], more).await;
        let seen = accounts.wait_reason(&name, reason).await;
        assert!(seen.message("web:1").contains(text), "{seen}");
    }
    assert!(accounts.member_calls().is_empty());
    assert!(accounts.world.ecs.account(ACCOUNT).ecs_calls().is_empty());
}

#[tokio::test]
async fn allowed_and_refused_revisions_are_reported_side_by_side() {
    let accounts = Accounts::new().await;
    accounts.member.register("api");
    accounts.account("prod", json!({ "families": { "allow": ["web"] } })).await;
    accounts.declare("mixed", "prod", &["web:1", "api:1"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts
        .world
        .wait("mixed", "both", |seen| {
            seen.reason("web:1") == "Retired" && seen.reason("api:1") == "NotAllowed"
        })
        .await;
    assert!(seen.condition("Stalled").is_some(), "{seen}");
    assert!(
        accounts
            .member_calls()
            .iter()
            .all(|call| { call.task_definition.as_ref().is_none_or(|revision| !revision.contains("api")) })
    );
}

#[tokio::test]
async fn retirement_without_account_is_refused_if_an_account_is_for_the_ambient_one() {
    let accounts = Accounts::new().await;
    accounts.world.west.register_many("web", 2);
    let _controller = accounts.start();
    accounts.world.declare("free", &["web:1"]).await;
    accounts.world.wait_ready("free").await;

    accounts.account("ambient", json!({ "accountId": ACCOUNT, "assumeRole": null })).await;
    accounts.wait_account("ambient", "Verified").await;
    accounts.world.declare("refused", &["web:2"]).await;
    let seen = accounts.wait_reason("refused", "NotAllowed").await;
    assert!(seen.message("web:2").contains("name an EcsAccount in spec.accountRef"), "{seen}");
    accounts.declare("allowed", "ambient", &["web:2"], json!({})).await;
    accounts.world.wait_ready("allowed").await;
    assert_eq!(accounts.world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 2);
}

#[tokio::test]
async fn account_created_for_the_ambient_one_after_the_plan_prevents_the_call() {
    let accounts = Accounts::new().await;
    accounts.world.west.register("web");
    let (api, mut spec) = (accounts.api(), accounts.spec());
    (spec["accountId"], spec["assumeRole"]) = (json!(ACCOUNT), Value::Null);
    let mut account = DynamicObject::new(&accounts.name("ambient"), &api_resource());
    account.data = json!({ "spec": spec });
    accounts.world.ecs.before(Action::DescribeTaskDefinition, 1, async move {
        let name = account.name_any();
        api.create(&PostParams::default(), &account).await.expect("it is created");
        let is_verified = |account: &DynamicObject| account.data["status"]["callerArn"].is_string();
        while !is_verified(&api.get(&name).await.expect("it is there")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    accounts
        .world
        .apply("web", json!({ "revisions": ["web:1"], "inUse": "Retire" }))
        .await
        .expect("admitted");
    let _controller = accounts.start();
    accounts.wait_reason("web", "NotAllowed").await;
    assert_eq!(accounts.world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 0);
}

/// Starts a controller whose requests to list `resource` fail with `effect`, `times` times.
async fn start_with_failing_list(
    accounts: &Accounts,
    resource: &str,
    effect: Effect,
    times: u32,
) -> (ApiProxy, Process) {
    let plane = accounts.world.namespace.control_plane();
    let proxy = ApiProxy::in_front_of(plane).await.expect("a proxy");
    proxy.fault(Fault::request(Verb::List, resource, 1, effect).times(times));
    let kubeconfig = proxy.kubeconfig().display().to_string();
    let controller = accounts.start_with(&[("KUBECONFIG", &kubeconfig)]);
    (proxy, controller)
}

#[tokio::test]
async fn start_during_an_outage_of_the_api_server_refuses_nothing() {
    let accounts = Accounts::new().await;
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let (proxy, _controller) =
        start_with_failing_list(&accounts, "ecsaccounts", Effect::Refuse(500), 2).await;
    accounts.world.wait_ready("web").await;
    assert_eq!(proxy.faults_applied(), 2);
    let events: Api<Event> = accounts.world.namespace.api();
    let events = events.list(&ListParams::default()).await.expect("events can be listed");
    let reasons: Vec<_> = events.into_iter().filter_map(|event| event.reason).collect();
    assert!(reasons.iter().all(|reason| reason == "Retired"), "{reasons:?}");
}

#[tokio::test]
async fn namespaces_that_cannot_be_listed_are_reported() {
    let accounts = Accounts::new().await;
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let (_proxy, _controller) =
        start_with_failing_list(&accounts, "namespaces", Effect::Refuse(403), u32::MAX).await;
    let seen = accounts.wait_reason("web", "AccountNotReady").await;
    assert!(seen.message("web:1").contains("namespaces cannot be listed"), "{seen}");
    assert_eq!(accounts.member_calls().len(), 0);
}

#[tokio::test]
async fn ambient_credentials_can_be_turned_off() {
    let accounts = Accounts::new().await;
    accounts.world.west.register("web");
    accounts.account("prod", json!({})).await;
    let _controller = accounts.start_with(&[("AMBIENT_CREDENTIALS", "false")]);
    accounts.world.declare("ambient", &["web:1"]).await;
    let seen = accounts.wait_reason("ambient", "AccountNotFound").await;
    assert!(seen.message("web:1").contains("name an EcsAccount in spec.accountRef"), "{seen}");
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    accounts.world.wait_ready("web").await;
    assert!(accounts.world.ecs.account(ACCOUNT).ecs_calls().is_empty());
}

#[tokio::test]
async fn change_of_an_account_takes_effect_on_its_resources() {
    let accounts = Accounts::new().await;
    let _controller = accounts.start();
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    accounts.wait_reason("web", "AccountNotFound").await;
    accounts.account("prod", json!({ "allowedNamespaces": {} })).await;
    let within = |reason: &'static str| {
        let accounts = &accounts;
        async move {
            let has = |seen: &crate::support::Seen| seen.reason("web:1") == reason;
            accounts.world.wait_for("web", reason, REACTION, has).await;
        }
    };
    within("NotAllowed").await;
    let names = json!([accounts.world.namespace.name()]);
    accounts.patch("prod", json!({ "suspend": true, "allowedNamespaces": { "names": names } })).await;
    within("Suspended").await;
    assert_eq!(accounts.deregistered(), 0);
    accounts.patch("prod", json!({ "suspend": false })).await;
    within("Retired").await;
    assert_eq!(accounts.deregistered(), 1);
}

#[tokio::test]
async fn label_of_a_namespace_takes_effect_within_ten_seconds() {
    let accounts = Accounts::new().await;
    let team = accounts.world.namespace.name().to_owned();
    let selector = json!({ "selector": { "matchLabels": { "team": team } } });
    accounts.account("prod", json!({ "allowedNamespaces": selector })).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    accounts.wait_reason("web", "NotAllowed").await;
    let label = format!("kubectl label namespace {team} team={team}");
    assert!(accounts.world.shell(&label).await.0);
    accounts.world.wait_for("web", "Retired", REACTION, |seen| seen.reason("web:1") == "Retired").await;
}

#[tokio::test]
async fn minimum_unused_for_applies_to_every_resource() {
    let accounts = Accounts::new().await;
    accounts.member.cluster("prod");
    accounts.account("prod", json!({ "minimumUnusedFor": "1h" })).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts.wait_reason("web", "CoolingDown").await;
    assert_eq!(seen.status()["region"], REGION, "{seen}");
    assert_eq!(accounts.deregistered(), 0);
}
