//! The AWS account and the EcsAccount of a policy.

use serde_json::json;
use tokio::time::sleep;

use super::*;

/// Returns a world with the EcsAccount `prod` and the policy `web`, which refers to it.
fn world(families: &[&str]) -> World {
    let world = World::new();
    for family in ["web-a", "web-b"] {
        world.west.register_many(family, 5);
    }
    world.set_accounts(&[account("own", 1, &["*"])]);
    world.make("web", families, json!({ "accountRef": { "name": "prod" }, "approval": "Automatic" }));
    world
}

#[tokio::test(start_paused = true)]
async fn policy_that_has_never_run_is_left_to_the_controller_that_reported_it() {
    let world = world(&["web-*"]);
    world.set_accounts(&[account("other", 1, &["*"])]);
    world.reconcile("web").await;
    assert_eq!(world.reason("web"), "AccountNotFound");
    let denied = json!([{
        "type": "Ready", "status": "False", "reason": "AccessDenied", "message": "",
        "lastTransitionTime": "2026-11-26T15:30:12Z",
    }]);
    world.set_status(POLICIES, "web", &json!({ "conditions": denied }));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.reconcile("web").await, None);
    assert_eq!(world.reason("web"), "AccessDenied");
}

#[tokio::test(start_paused = true)]
async fn account_id_that_contradicts_the_recorded_account_stalls_the_policy() {
    let world = World::new();
    world.west.register_many("web", 5);
    world.make("web", &["web"], json!({ "keep": { "latest": 5 } }));
    world.reconcile("web").await;
    let change = |spec: &mut Value| {
        spec["accountId"] = json!("111122223333");
        spec["keep"]["latest"] = json!(2);
    };
    world.edit("web", change, &json!({}));
    sleep(Duration::from_secs(2)).await;
    world.reconcile("web").await;
    assert_eq!(world.reason("web"), "WrongAccount");
    assert!(world.declared().is_empty());
}
