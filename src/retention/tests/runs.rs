//! Runs: what they propose, narrow and record, and how they end.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::json;
use testkit::simulated_ecs::Fault;
use tokio::time::sleep;

use super::*;

#[tokio::test(start_paused = true)]
async fn run_proposes_the_families_after_those_that_are_declared_already() {
    let world = World::new();
    for family in ["web-a", "web-b"] {
        world.west.register_many(family, 5);
    }
    let more = json!({ "approval": "Automatic", "maxRevisionsPerRun": 3, "interval": "1m" });
    world.make("web", &["web-*"], more);
    world.reconcile("web").await;
    assert_eq!(world.declared(), ["web-a:1", "web-a:2", "web-a:3"]);
    sleep(Duration::from_mins(1)).await;
    world.reconcile("web").await;
    let all = ["web-a:1", "web-a:2", "web-a:3", "web-b:1", "web-b:2", "web-b:3"];
    assert_eq!(world.declared(), all);
}

#[tokio::test(start_paused = true)]
async fn raised_number_of_kept_revisions_is_written_with_the_generation() {
    let world = World::new();
    world.west.register_many("web", 9);
    world.make("web", &["web"], json!({}));
    world.reconcile("web").await;
    world.edit("web", |spec| spec["keep"]["latest"] = json!(4), &json!({}));
    sleep(Duration::from_secs(2)).await;
    world.reconcile("web").await;
    let retirement = &world.retirements()[0];
    assert_eq!(retirement["spec"]["keepLatest"], 4, "{retirement}");
    assert_eq!(retirement["metadata"]["annotations"]["ecs-retirement.dev/policy-generation"], "2");
    assert_eq!(world.declared(), ["web:1", "web:2", "web:3", "web:4", "web:5"]);
}

#[tokio::test(start_paused = true)]
async fn finished_retirement_becomes_a_record_although_the_policy_cannot_run() {
    for reason in ["InvalidSpec", "AccountNotFound", "AccessDenied"] {
        let world = World::new();
        world.west.register_many("web", 9);
        world.make("web", &["web"], json!({ "approval": "Automatic" }));
        world.reconcile("web").await;
        let name = world.retirements()[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        world.retire(&name);
        match reason {
            "InvalidSpec" => world.edit("web", |spec| spec["interval"] = json!("1s"), &json!({})),
            "AccountNotFound" => {
                world.edit("web", |spec| spec["accountRef"] = json!({ "name": "prod" }), &json!({}));
            }
            _ => {
                world.ecs.fault(Fault::on(Action::ListTaskDefinitions).times(9).access_denied());
                world.edit("web", |spec| spec["maxRevisionsPerRun"] = json!(400), &json!({}));
            }
        }
        sleep(Duration::from_secs(2)).await;
        world.reconcile("web").await;
        assert_eq!(world.reason("web"), reason);
        let retirement = &world.retirements()[0];
        assert_eq!(retirement["metadata"]["ownerReferences"], json!([]), "{reason}: {retirement}");
    }
}

#[tokio::test(start_paused = true)]
async fn run_writes_nothing_once_leadership_is_lost() {
    let world = World::new();
    world.west.register_many("web", 9);
    world.make("web", &["web"], json!({ "approval": "Automatic" }));
    world.reconcile("web").await;
    world.edit("web", |spec| spec["keep"]["latest"] = json!(4), &json!({}));
    sleep(Duration::from_secs(2)).await;
    let is_active = world.is_active.clone();
    // The last page that the plan needs.
    world.ecs.before(Action::ListTaskDefinitions, 2, async move { is_active.store(false, SeqCst) });
    let before = world.retirements();
    assert_eq!(world.reconcile("web").await, None);
    assert_eq!(world.retirements(), before);
    world.is_active.store(true, SeqCst);
    world.reconcile("web").await;
    assert_eq!(world.retirements()[0]["spec"]["keepLatest"], 4, "the next leader resumes the run");
}

#[tokio::test(start_paused = true)]
async fn request_that_comes_with_a_change_is_handled_within_a_minute() {
    let world = World::new();
    world.west.register_many("web", 9);
    world.make("web", &["web"], json!({ "maxRevisionsPerRun": 3 }));
    world.reconcile("web").await;
    let requested = json!({ REQUESTED: "now" });
    world.edit("web", |spec| spec["maxRevisionsPerRun"] = json!(4), &requested);
    sleep(Duration::from_secs(5)).await;
    world.reconcile("web").await;
    let handled = || world.policy("web")["status"]["lastHandledReconcileAt"].clone();
    assert_eq!((world.declared().len(), handled()), (3, Value::Null), "a retirement awaits approval");
    sleep(Duration::from_mins(1)).await;
    world.reconcile("web").await;
    assert_eq!((world.declared().len(), handled()), (7, json!("now")));
}
