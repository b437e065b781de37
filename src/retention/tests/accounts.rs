//! The AWS account and the EcsAccount of a policy.

use serde_json::json;
use tokio::time::sleep;

use super::*;

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
