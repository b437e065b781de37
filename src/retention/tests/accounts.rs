//! EcsAccounts: what a run may read and create, and what a waiting policy reports.

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
async fn waiting_policy_reports_a_denial_and_its_end_without_calls() {
    let world = world(&["web-*"]);
    world.reconcile("web").await;
    assert_eq!(world.reason("web"), "Succeeded");
    let (status, calls) = (world.policy("web")["status"].clone(), world.ecs.calls().len());
    world.set_accounts(&[]);
    let delay = world.reconcile("web").await;
    assert_eq!(world.reason("web"), "AccountNotFound");
    assert!(delay.is_some_and(|delay| delay < Duration::from_mins(1)), "it is stalled in two minutes");
    world.set_accounts(&[account("own", 2, &["*"])]);
    world.reconcile("web").await;
    assert_eq!(world.reason("web"), "Succeeded");
    assert_eq!(world.policy("web")["status"]["lastRunTime"], status["lastRunTime"]);
    assert_eq!(world.ecs.calls().len(), calls);
    let versions = world.api.versions(POLICIES).len();
    world.reconcile("web").await;
    assert_eq!(world.api.versions(POLICIES).len(), versions, "no write without a difference");
}

#[tokio::test(start_paused = true)]
async fn waiting_policy_without_an_account_reports_that_its_account_is_managed_now() {
    let world = World::new();
    world.west.register_many("web", 5);
    world.make("web", &["web"], json!({}));
    world.reconcile("web").await;
    world.set_accounts(&[account("own", 1, &["*"])]);
    world.reconcile("web").await;
    assert_eq!(world.reason("web"), "NotAllowed");
}

/// Replaces the EcsAccounts before the nth list of a family. Returns the families that were listed
/// from then on, and the revisions that are declared after the next reconcile.
async fn change_during_a_run(nth: u32, accounts: Vec<Value>) -> (Vec<String>, Vec<String>) {
    let world = world(&["web-*"]);
    let writer = world.accounts.clone();
    world.ecs.before(Action::ListTaskDefinitions, nth, async move { set_accounts(&writer, &accounts) });
    assert_eq!(world.reconcile("web").await, Some(Duration::ZERO), "it is requeued at once");
    assert!(world.declared().is_empty(), "{:?}", world.declared());
    world.reconcile("web").await;
    let calls = world.ecs.calls_of(Action::ListTaskDefinitions).into_iter().skip(nth as usize);
    (calls.map(|call| format!("{call:?}")).collect(), world.declared())
}

#[tokio::test(start_paused = true)]
async fn run_names_no_family_that_its_account_has_refused_meanwhile() {
    // Each of the two families is listed twice before the plan, and once more before the create.
    for nth in [1, 2, 4, 5] {
        let (listed, declared) = change_during_a_run(nth, vec![account("own", 2, &["web-a"])]).await;
        assert!(!listed.iter().any(|call| call.contains("web-b")), "{nth}: {listed:#?}");
        assert_eq!(declared, ["web-a:1", "web-a:2", "web-a:3"], "{nth}");
    }
}

#[tokio::test(start_paused = true)]
async fn run_ends_when_its_account_is_deleted() {
    for nth in [1, 3, 6] {
        let (listed, declared) = change_during_a_run(nth, Vec::new()).await;
        assert_eq!((listed.len(), declared.len()), (0, 0), "{nth}: {listed:#?}");
    }
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
