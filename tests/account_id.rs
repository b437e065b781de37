//! `spec.accountId` and `--allowed-account-ids`: no calls with credentials of another account.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Status};

use crate::support::{Seen, World, stop};

const OTHER: &str = "999999999999";

fn declared_for(account_id: &str, revisions: &[&str]) -> Value {
    json!({ "accountId": account_id, "revisions": revisions })
}

/// Waits until every row is `WrongAccount`, and asserts that only `GetCallerIdentity` was called.
async fn wait_wrong_account(world: &World<'_>, name: &str, accounts: [&str; 2]) -> Seen {
    let seen = world.wait_until_blocked(name).await;
    let rows = seen.status()["revisions"].as_array().expect("rows");
    for row in rows {
        assert_eq!(row["reason"], "WrongAccount", "{seen}");
        let message = row["message"].as_str().unwrap_or_default();
        assert!(accounts.iter().all(|account| message.contains(account)), "{seen}");
    }
    assert_eq!(seen.ready_reason(), "WrongAccount");
    let calls = world.ecs.calls();
    assert!(calls.iter().all(|call| call.action == Action::GetCallerIdentity), "{calls:#?}");
    seen
}

#[tokio::test]
async fn revisions_of_another_account_id_cause_no_ecs_calls_until_the_credentials_match() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    let other = world.ecs.region(OTHER, "us-west-2");
    other.register_many("web", 2);
    let spec = declared_for(OTHER, &["web:1", &other.arn("web:2")]);
    world.apply("web", spec).await.expect("admitted");
    let mut controller = world.start();
    let seen = wait_wrong_account(&world, "web", [OTHER, ACCOUNT]).await;
    assert_eq!(seen.text("account"), OTHER, "short forms name revisions of that account");
    assert_eq!(world.west.status("web:1"), Some(Status::Active));

    stop(&mut controller).await;
    world.ecs.set_account(ACCESS_KEY, OTHER);
    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.text("progress"), "2/2");
    assert_eq!(seen.row("web:2")["arn"], other.arn("web:2").as_str(), "{seen}");
    assert_eq!(world.west.status("web:1"), Some(Status::Active));
}

#[tokio::test]
async fn revision_arn_of_another_account_than_the_account_id_is_rejected_alone() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    let foreign = "arn:aws:ecs:us-west-2:999999999999:task-definition/web:1";
    world.apply("web", declared_for(ACCOUNT, &["web:2", foreign])).await.expect("admitted");
    let _controller = world.start();
    let seen = world.wait_until_blocked("web").await;
    assert_eq!((seen.reason("web:2"), seen.reason(foreign)), ("Retired", "WrongAccount"), "{seen}");
}

#[tokio::test]
async fn account_id_set_later_must_be_the_recorded_account() {
    let world = World::new().await;
    world.west.register_many("web", 3);
    for name in ["right", "wrong"] {
        world.declare(name, &["web:1"]).await;
    }
    let _controller = world.start();
    for name in ["right", "wrong"] {
        assert_eq!(world.wait_ready(name).await.text("account"), ACCOUNT);
    }
    world.apply("right", declared_for(ACCOUNT, &["web:1", "web:2"])).await.expect("admitted");
    world.wait_ready("right").await;

    world.apply("wrong", declared_for(OTHER, &["web:1", "web:3"])).await.expect("admitted");
    let seen = world.wait_until_blocked("wrong").await;
    assert_eq!(seen.reason("web:3"), "WrongAccount", "{seen}");
    assert!(seen.message("web:3").contains(OTHER) && seen.message("web:3").contains(ACCOUNT), "{seen}");
    assert_eq!(seen.reason("web:1"), "Retired", "the recorded row is kept");
    assert_eq!(seen.text("account"), ACCOUNT);
    assert_eq!(world.west.status("web:3"), Some(Status::Active));
}

#[tokio::test]
async fn account_id_cannot_be_changed_once_it_is_set() {
    let world = World::new().await;
    world.apply("web", declared_for(ACCOUNT, &["web:1"])).await.expect("admitted");
    for account_id in [json!(OTHER), Value::Null] {
        let patch = Patch::Merge(json!({ "spec": { "accountId": account_id } }));
        let refusal = world.api().patch("web", &PatchParams::default(), &patch).await;
        let refusal = refusal.expect_err("it is immutable").to_string();
        assert!(refusal.contains("spec.accountId cannot be changed once it is set"), "{refusal}");
    }
}

#[tokio::test]
async fn unquoted_account_id_is_refused_with_the_name_of_the_field() {
    let world = World::new().await;
    let spec = json!({ "accountId": 123_456_789_012_u64, "revisions": ["web:1"] });
    let refusal = world.apply("web", spec).await.expect_err("it is a number");
    assert!(refusal.contains("spec.accountId"), "{refusal}");
}

#[tokio::test]
async fn credentials_of_an_account_that_is_not_allowed_make_no_ecs_calls() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.declare("short", &["web:1"]).await;
    world.declare("arns", &[&world.west.arn("web:2")]).await;
    let mut controller = world.start_as(&["run", "--allowed-account-ids=111111111111,999999999999"], &[]);
    for name in ["short", "arns"] {
        let seen = wait_wrong_account(&world, name, [ACCOUNT, "--allowed-account-ids"]).await;
        assert!(seen.status()["account"].is_null(), "nothing was resolved: {seen}");
    }

    stop(&mut controller).await;
    let _controller = world.start_with(&[("ALLOWED_ACCOUNT_IDS", "999999999999,012345678910")]);
    for name in ["short", "arns"] {
        assert_eq!(world.wait_ready(name).await.text("account"), ACCOUNT);
    }
}

#[tokio::test]
async fn invalid_allowed_account_ids_end_the_process_with_the_name_of_the_flag() {
    let world = World::new().await;
    for value in ["1234", "012345678910,", "012345678910 ,999999999999", "prod", ""] {
        let argument = format!("--allowed-account-ids={value}");
        let mut controller = world.start_as(&["run", &argument], &[]);
        let status = controller.wait(crate::support::DEADLINE).await.expect("the process exits");
        assert!(!status.success());
        let log = controller.log();
        assert!(log.contains("--allowed-account-ids") && log.contains("12 digits"), "{log}");
    }
}
