//! The credentials of EcsAccounts.

use std::time::Duration;

use serde_json::json;
use testkit::simulated_ecs::{ACCOUNT, Action, Fault};

use super::{Accounts, MEMBER, ROLE};
use crate::{aws_credentials::WebIdentity, support::REGION};

#[tokio::test]
async fn role_that_cannot_be_assumed_is_reported_and_retried() {
    let accounts = Accounts::new().await;
    accounts.role.clear_trust();
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts.wait_reason("web", "AccountNotReady").await;
    assert!(seen.message("web:1").contains("sts:AssumeRole"), "{seen}");
    assert!(seen.condition("Reconciling").is_some(), "not stalled yet: {seen}");
    accounts.wait_account("prod", "AccessDenied").await;
    assert!(accounts.member_calls().is_empty());
    accounts.role.trust(ACCOUNT);
    accounts.world.wait_ready("web").await;
    accounts.wait_account("prod", "Verified").await;
}

#[tokio::test]
async fn external_id_is_sent_and_a_wrong_one_is_refused() {
    let accounts = Accounts::new().await;
    accounts.role.external_id("tenant/42");
    accounts.account("wrong", json!({ "assumeRole": { "roleArn": ROLE, "externalId": "tenant/1" } })).await;
    accounts.account("right", json!({ "assumeRole": { "roleArn": ROLE, "externalId": "tenant/42" } })).await;
    let _controller = accounts.start();
    accounts.declare("wrong", "wrong", &["web:1"], json!({})).await;
    accounts.wait_reason("wrong", "AccountNotReady").await;
    accounts.declare("right", "right", &["web:1"], json!({})).await;
    accounts.world.wait_ready("right").await;
}

#[tokio::test]
async fn credentials_of_another_account_are_never_used() {
    let accounts = Accounts::new().await;
    accounts.role.acts_in("222233334444");
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts.wait_reason("web", "AccountNotReady").await;
    assert!(seen.message("web:1").contains("222233334444"), "{seen}");
    accounts.wait_account("prod", "AccountMismatch").await;
    assert!(accounts.member_calls().is_empty());
    assert!(accounts.world.ecs.account("222233334444").ecs_calls().is_empty());
}

#[tokio::test]
async fn account_reports_within_a_minute_that_its_credentials_are_of_another_one() {
    let accounts = Accounts::new().await;
    accounts.role.session_lifetime(Duration::from_secs(3));
    accounts.account("prod", json!({})).await;
    let _controller = accounts.start();
    accounts.wait_account("prod", "Verified").await;
    accounts.role.acts_in("222233334444");
    accounts.wait_account_for("prod", "AccountMismatch", Duration::from_mins(1)).await;
}

#[tokio::test]
async fn expiring_credentials_are_replaced_midway() {
    let accounts = Accounts::new().await;
    accounts.role.session_lifetime(Duration::from_secs(3));
    accounts.member.register_many("job", 12);
    accounts
        .account("prod", json!({ "pacing": { "deregistrationsPerMinute": 60, "deregistrationBurst": 1 } }))
        .await;
    let revisions: Vec<String> = (1..=8).map(|number| format!("job:{number}")).collect();
    let revisions: Vec<&str> = revisions.iter().map(String::as_str).collect();
    accounts.declare("job", "prod", &revisions, json!({})).await;
    let _controller = accounts.start();
    accounts.world.wait_ready("job").await;
    assert_eq!(accounts.deregistered(), 8);
    assert!(accounts.world.ecs.calls_of(Action::AssumeRole).len() > 1);
}

/// Only `AssumeRole` calls use the controller's own credentials here.
#[tokio::test]
async fn rejected_own_credentials_are_replaced_although_only_roles_are_used() {
    let accounts = Accounts::new().await;
    accounts.role.session_lifetime(Duration::from_secs(3));
    accounts.account("prod", json!({})).await;
    accounts.declare("first", "prod", &["web:1"], json!({})).await;
    let identity = WebIdentity::new();
    let environment = [identity.environment().as_slice(), &[("AMBIENT_CREDENTIALS", "false")]].concat();
    let _controller = accounts.start_with(&environment);
    accounts.world.wait_ready("first").await;

    let own = accounts.world.ecs.calls_of(Action::AssumeRole)[0].access_key.clone();
    accounts.world.ecs.revoke(&own);
    accounts.declare("second", "prod", &["web:2"], json!({})).await;
    accounts.world.wait_ready("second").await;
    assert_eq!(accounts.world.ecs.calls_of(Action::AssumeRoleWithWebIdentity).len(), 2);
}

#[tokio::test]
async fn accounts_of_one_aws_account_share_its_rate() {
    let accounts = Accounts::new().await;
    accounts.world.ecs.role("arn:aws:iam::111122223333:role/other").trust(ACCOUNT);
    let pacing = json!({ "deregistrationsPerMinute": 60, "deregistrationBurst": 1 });
    accounts.account("first", json!({ "pacing": pacing })).await;
    let other = json!({ "roleArn": "arn:aws:iam::111122223333:role/other" });
    accounts.account("second", json!({ "assumeRole": other })).await;
    accounts.member.register_many("job", 10);
    let _controller = accounts.start();
    // The rate of the second account is higher, until the first one is known.
    accounts.wait_account("first", "Verified").await;
    accounts.declare("first", "first", &["job:1", "job:2", "job:3"], json!({})).await;
    accounts.declare("second", "second", &["job:4", "job:5", "job:6"], json!({})).await;
    accounts.world.wait_ready("first").await;
    accounts.world.wait_ready("second").await;
    let mut calls = accounts.member_calls();
    calls.retain(|call| call.action == Action::DeregisterTaskDefinition);
    // The first call may be delayed, as its connection is a new one.
    let span = calls[calls.len() - 1].at - calls[1].at;
    assert_eq!(calls.len(), 6);
    assert!(span > Duration::from_secs(3), "five at one per second: {span:?}");
    let roles: std::collections::BTreeSet<_> =
        accounts.member_calls().into_iter().filter_map(|call| call.role).collect();
    assert_eq!(roles.len(), 2, "each uses its own role");
}

#[tokio::test]
async fn hanging_account_delays_no_other() {
    let accounts = Accounts::new().await;
    let hanging = "222233334444";
    let role = format!("arn:aws:iam::{hanging}:role/r");
    accounts.world.ecs.role(&role).trust(ACCOUNT);
    accounts.world.ecs.fault(Fault::on(Action::AssumeRole).account(hanging).hang());
    accounts.account("hanging", json!({ "accountId": hanging, "assumeRole": { "roleArn": role } })).await;
    accounts.account("prod", json!({})).await;
    let _controller = accounts.start();
    let hangs = accounts.wait_account("hanging", "Unavailable").await.to_string();
    assert!(
        hangs.contains("waiting for AWS to return the identity"),
        "reported before the call ends: {hangs}"
    );
    for number in 0..20 {
        accounts.declare(&format!("hanging-{number}"), "hanging", &["web:1"], json!({})).await;
    }
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    accounts.world.wait_for("web", "Ready", Duration::from_secs(20), |seen| seen.ready() == "True").await;
    assert_eq!(accounts.deregistered(), 1);
}

#[tokio::test]
async fn recreated_account_with_another_id_gives_old_resources_no_new_meaning() {
    let accounts = Accounts::new().await;
    let other = "222233334444";
    let role = format!("arn:aws:iam::{other}:role/r");
    accounts.world.ecs.role(&role).trust(ACCOUNT);
    accounts.world.ecs.account(other).region(REGION).register_many("web", 2);
    accounts.member.cluster("prod").put_service(testkit::simulated_ecs::Service::steady("shop", "web:1"));
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts.wait_reason("web", "InUse").await;
    assert_eq!(seen.status()["account"], MEMBER, "{seen}");
    accounts.delete("prod").await;
    accounts.wait_reason("web", "AccountNotFound").await;
    accounts.account("prod", json!({ "accountId": other, "assumeRole": { "roleArn": role } })).await;
    accounts.wait_reason("web", "WrongAccount").await;
    assert!(accounts.world.ecs.account(other).ecs_calls().is_empty());
    assert_eq!(accounts.deregistered(), 0);
}
