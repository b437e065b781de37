//! Several accounts, several controllers, and users who try to get around an EcsAccount.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{
    api_proxy::{ApiProxy, Verb},
    simulated_ecs::{ACCOUNT, Action, Status},
};

use super::{Accounts, MEMBER, ROLE};
use crate::support::{
    REGION,
    invariants::{Allowed, calls_that_are_not_allowed},
};

const THIRD: &str = "222233334444";
const FOURTH: &str = "333344445555";

#[tokio::test]
async fn controllers_with_different_names_serve_only_their_own_accounts() {
    let accounts = Accounts::new().await;
    let second = format!("{}-second", accounts.world.namespace.name());
    let role = "arn:aws:iam::111122223333:role/second";
    accounts.world.ecs.role(role).trust(ACCOUNT);
    accounts.account("first", json!({})).await;
    accounts.account("second", json!({ "controllerName": second, "assumeRole": { "roleArn": role } })).await;
    let plane = accounts.world.namespace.control_plane();
    let proxies = [
        ApiProxy::in_front_of(plane).await.expect("a proxy"),
        ApiProxy::in_front_of(plane).await.expect("a proxy"),
    ];
    let kubeconfigs: Vec<String> = proxies.iter().map(|it| it.kubeconfig().display().to_string()).collect();
    let shop = testkit::simulated_ecs::Service::steady("shop", "web:3");
    accounts.member.cluster("prod").put_service(shop);
    accounts.declare("first", "first", &["web:1", "web:3"], json!({})).await;
    accounts.declare("second", "second", &["web:2", "web:3"], json!({})).await;
    let _first = accounts.start_with(&[("KUBECONFIG", &kubeconfigs[0])]);
    let _second = accounts.start_with(&[("KUBECONFIG", &kubeconfigs[1]), ("CONTROLLER_NAME", &second)]);
    for (name, retired) in [("first", "web:1"), ("second", "web:2")] {
        let has = |seen: &crate::support::Seen| {
            seen.reason(retired) == "Retired" && seen.reason("web:3") == "InUse"
        };
        accounts.world.wait(name, "both rows", has).await;
    }
    let writes = |index: usize, name: &str| {
        let is_write = |it: &&testkit::api_proxy::Exchange| {
            it.request.verb == Verb::Patch && it.request.name == name && it.status == Some(200)
        };
        proxies[index].log().iter().filter(is_write).count()
    };
    let of_others = || (writes(1, "first"), writes(0, "second"));
    let before = of_others();
    assert!(before.0 <= 1 && before.1 <= 1, "{before:?}");
    for name in ["first", "second"] {
        accounts.world.request(name, "1").await;
        let is_handled = |seen: &crate::support::Seen| {
            seen.text("lastHandledReconcileAt") == "1" && seen.reasons() == ["Retired", "InUse"]
        };
        accounts.world.wait(name, "a requested reconcile", is_handled).await;
    }
    // Both controllers have seen what was written before these.
    accounts.declare("fence-first", "first", &["web:4"], json!({})).await;
    accounts.declare("fence-second", "second", &["web:5"], json!({})).await;
    accounts.world.wait_ready("fence-first").await;
    accounts.world.wait_ready("fence-second").await;
    assert_eq!(of_others(), before, "the other controller leaves the resource alone");
    let by_role = |role: &str| {
        let calls = accounts.member_calls().into_iter();
        let calls = calls.filter(|call| call.action == Action::DeregisterTaskDefinition);
        let calls = calls.filter(|call| call.role.as_deref() == Some(role));
        calls
            .filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (by_role(ROLE), by_role(role)),
        (vec!["web:1".into(), "web:4".into()], vec!["web:2".into(), "web:5".into()])
    );
}

#[tokio::test]
async fn pending_resource_is_left_to_the_controller_of_its_account() {
    let accounts = Accounts::new().await;
    let second = format!("{}-second", accounts.world.namespace.name());
    let pacing = json!({ "deregistrationsPerMinute": 1, "deregistrationBurst": 1 });
    accounts.account("first", json!({ "pacing": pacing })).await;
    accounts.account("second", json!({ "controllerName": second })).await;
    accounts.declare("queued", "first", &["web:1", "web:2"], json!({})).await;
    let _first = accounts.start();
    let is_queued = |seen: &crate::support::Seen| {
        seen.text("account") == MEMBER && seen.reasons() == ["Pending", "Pending"]
    };
    accounts.world.wait("queued", "the queue for a permit", is_queued).await;
    let plane = accounts.world.namespace.control_plane();
    let proxy = ApiProxy::in_front_of(plane).await.expect("a proxy");
    let kubeconfig = proxy.kubeconfig().display().to_string();
    let _second = accounts.start_with(&[("KUBECONFIG", &kubeconfig), ("CONTROLLER_NAME", &second)]);
    accounts.declare("fence", "second", &["web:1"], json!({})).await;
    accounts.world.wait_ready("fence").await;
    let is_write =
        |it: &testkit::api_proxy::Exchange| it.request.verb == Verb::Patch && it.request.name == "queued";
    assert!(!proxy.log().iter().any(is_write), "the other controller leaves the resource alone");
}

#[tokio::test]
async fn three_accounts_are_served_side_by_side_each_at_its_rate() {
    let accounts = Accounts::new().await;
    let table = [(MEMBER, 30_u32, 3_u32), (THIRD, 60, 5), (FOURTH, 120, 9)];
    for (id, per_minute, count) in table {
        let role = format!("arn:aws:iam::{id}:role/ecs-retirement");
        accounts.world.ecs.role(&role).trust(ACCOUNT);
        accounts.world.ecs.account(id).region(REGION).register_many("job", 20);
        let pacing = json!({ "deregistrationsPerMinute": per_minute, "deregistrationBurst": 1 });
        let spec = json!({ "accountId": id, "assumeRole": { "roleArn": role }, "pacing": pacing });
        accounts.account(id, spec).await;
        let revisions: Vec<String> = (1..=count).map(|number| format!("job:{number}")).collect();
        let revisions: Vec<&str> = revisions.iter().map(String::as_str).collect();
        accounts.declare(&format!("job-{id}"), id, &revisions, json!({})).await;
    }
    let _controller = accounts.start();
    let mut spans = Vec::new();
    for (id, per_minute, count) in table {
        accounts.world.wait_ready(&format!("job-{id}")).await;
        let mut calls = accounts.world.ecs.account(id).ecs_calls();
        calls.retain(|call| call.action == Action::DeregisterTaskDefinition);
        assert_eq!(calls.len(), usize::try_from(count).expect("a small number"));
        let (first, last) = (calls[0].at, calls[calls.len() - 1].at);
        let interval = Duration::from_mins(1) / per_minute;
        // The first call may be delayed, as its connection is a new one.
        let (span, expected) = (last - calls[1].at, interval * (count - 2));
        let tolerance = Duration::from_millis(900);
        assert!(span + tolerance >= expected, "{id} exceeds its rate: {span:?} < {expected:?}");
        // One after another would take as long as all three together.
        let (span, expected) = (last - first, interval * (count - 1));
        assert!(span <= 3 * expected, "{id} is delayed: {span:?} > {expected:?}");
        spans.push((first, last));
    }
    let last_start = spans.iter().map(|(first, _)| *first).max();
    let first_end = spans.iter().map(|(_, last)| *last).min();
    assert!(last_start < first_end, "side by side: {spans:?}");
}

/// The accounts of the tests of ways around: `prod` allows only the families `web*` to this
/// namespace; `ambient` and `third` do not allow the namespace.
async fn guarded() -> Accounts {
    let accounts = Accounts::new().await;
    let unlisted = json!({ "names": ["other"] });
    let third = format!("arn:aws:iam::{THIRD}:role/r");
    accounts.world.ecs.role(&third).trust(ACCOUNT);
    accounts
        .account(
            "prod",
            json!({ "families": { "allow": ["web*"], "deny": ["web-payments"] }, "requireUnused": true }),
        )
        .await;
    accounts
        .account(
            "ambient",
            json!({ "accountId": ACCOUNT, "assumeRole": null, "allowedNamespaces": unlisted }),
        )
        .await;
    let spec =
        json!({ "accountId": THIRD, "assumeRole": { "roleArn": third }, "allowedNamespaces": unlisted });
    accounts.account("third", spec).await;
    for account in [ACCOUNT, MEMBER, THIRD] {
        for region in [REGION, "eu-west-1"] {
            for family in ["web", "api", "web-payments"] {
                accounts.world.ecs.region(account, region).register_many(family, 3);
            }
        }
    }
    accounts
}

/// Asserts that only revisions of `web` in `prod` were named in calls, and that nothing changed.
fn assert_untouched(accounts: &Accounts) {
    let allowed = [Allowed { account: MEMBER, region: REGION, families: &["web"] }];
    let refused = calls_that_are_not_allowed(&accounts.world.ecs.calls(), &allowed);
    assert!(refused.is_empty(), "{refused:#?}");
    for region in [REGION, "eu-west-1"] {
        for family in ["api", "web-payments"] {
            let revision = format!("{family}:1");
            assert_eq!(accounts.world.ecs.region(MEMBER, region).status(&revision), Some(Status::Active));
        }
    }
}

#[tokio::test]
async fn no_field_reaches_an_account_or_family_that_is_not_allowed() {
    let accounts = guarded().await;
    let _controller = accounts.start();
    let prod = json!({ "name": accounts.name("prod") });
    let third = json!({ "name": accounts.name("third") });
    let ambient = json!({ "name": accounts.name("ambient") });
    let arn = |account: &str, region: &str, revision: &str| {
        format!("arn:aws:ecs:{region}:{account}:task-definition/{revision}")
    };
    let table: Vec<(Value, &str)> = vec![
        (json!({ "revisions": ["web:1"], "accountRef": third }), "NotAllowed"),
        (json!({ "revisions": ["web:1"], "accountRef": ambient }), "NotAllowed"),
        (json!({ "revisions": ["web:1"] }), "NotAllowed"),
        (json!({ "revisions": ["web:1"], "accountId": ACCOUNT }), "NotAllowed"),
        (json!({ "revisions": [arn(ACCOUNT, REGION, "web:1")] }), "NotAllowed"),
        (json!({ "revisions": ["web:1"], "accountId": THIRD }), "WrongAccount"),
        (json!({ "revisions": ["web:1"], "accountRef": prod, "accountId": THIRD }), "WrongAccount"),
        (json!({ "revisions": [arn(THIRD, REGION, "web:1")], "accountRef": prod }), "WrongAccount"),
        (json!({ "revisions": [arn(ACCOUNT, REGION, "web:1")], "accountRef": prod }), "WrongAccount"),
        (json!({ "revisions": [arn(MEMBER, "eu-west-1", "web:1")], "accountRef": prod }), "WrongRegion"),
        (json!({ "revisions": ["web:1"], "accountRef": prod, "region": "eu-west-1" }), "NotAllowed"),
        (json!({ "revisions": ["api:1", "web-payments:1"], "accountRef": prod }), "NotAllowed"),
        (json!({ "revisions": [arn(MEMBER, REGION, "api:1")], "accountRef": prod }), "NotAllowed"),
        (json!({ "revisions": ["web:1"], "accountRef": prod, "inUse": "Retire" }), "NotAllowed"),
        (json!({ "revisions": ["WEB:1", "Web:1"], "accountRef": prod }), "NotAllowed"),
    ];
    for (index, (spec, reason)) in table.into_iter().enumerate() {
        let name = format!("attempt-{index}");
        accounts.world.apply(&name, spec.clone()).await.unwrap_or_else(|error| panic!("{spec}: {error}"));
        accounts.wait_reason(&name, reason).await;
    }
    assert_untouched(&accounts);
}

#[tokio::test]
async fn account_ref_cannot_be_removed_or_replaced() {
    let accounts = guarded().await;
    let _controller = accounts.start();
    accounts.declare("web", "prod", &["api:1"], json!({})).await;
    accounts.wait_reason("web", "NotAllowed").await;
    for account_ref in [Value::Null, json!({ "name": accounts.name("third") }), json!({ "name": "" })] {
        let patch = Patch::Merge(json!({ "spec": { "accountRef": account_ref } }));
        let patched = accounts.world.api().patch("web", &PatchParams::default(), &patch).await;
        assert!(patched.is_err(), "{account_ref} is refused at admission");
    }
    // A resource of the same name without the reference has no access to the ambient account.
    accounts.world.delete("web").await;
    accounts.world.declare("web", &["api:1"]).await;
    let seen = accounts.wait_reason("web", "NotAllowed").await;
    assert!(seen.message("api:1").contains("spec.accountRef"), "{seen}");
    assert_untouched(&accounts);
}

#[tokio::test]
async fn metadata_gives_no_access() {
    let accounts = guarded().await;
    let _controller = accounts.start();
    let owner = |uid: &str| {
        json!([{
            "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetentionPolicy",
            "name": "web", "uid": uid, "controller": true,
        }])
    };
    let uid = "6b0f7c3e-0d2f-4c0e-9c39-1f0d6a1b2c3d";
    let third = accounts.name("third");
    let metadata = [
        json!({ "name": third, "labels": { "team": "platform", "ecs-retirement.dev/account": third } }),
        json!({ "name": "web-20261126-153012-0", "ownerReferences": owner(uid),
            "labels": { "ecs-retirement.dev/policy": "web", "ecs-retirement.dev/policy-uid": uid },
            "annotations": { "ecs-retirement.dev/policy-generation": "1" } }),
        json!({ "name": "requested", "annotations": { "ecs-retirement.dev/requestedAt": "1",
            "ecs-retirement.dev/accountRef": third, "ecs-retirement.dev/account": THIRD } }),
    ];
    for metadata in metadata {
        for (account, reason) in [("third", "NotAllowed"), ("prod", "NotAllowed")] {
            let mut metadata = metadata.clone();
            let name = format!("{}-{account}", metadata["name"].as_str().expect("a name"));
            metadata["name"] = name.clone().into();
            let manifest = json!({
                "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement",
                "metadata": metadata,
                "spec": { "revisions": ["api:1"], "accountRef": { "name": accounts.name(account) } },
            });
            accounts.world.namespace.apply(manifest).await.expect("the resource is admitted");
            accounts.wait_reason(&name, reason).await;
        }
    }
    assert_untouched(&accounts);
}
