//! How passes begin, wait and end.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::{Value, json};
use testkit::simulated_ecs::{
    Action::{DeregisterTaskDefinition, DescribeTaskDefinition, GetCallerIdentity},
    Fault,
};
use tokio::time::sleep;

use super::*;
use crate::retirement::tests::{APPLY, Between, GET, SLOTS, World, is_about};

fn is_half_a_second(pause: Option<Duration>) -> bool {
    pause.is_some_and(|pause| (500..=600).contains(&pause.as_millis()))
}

/// Makes passes until the resource stands in line for a turn to deregister.
async fn queue(world: &World, name: &str) {
    world.reconcile(name).await.expect("a pass");
    assert_eq!(world.place(name), None, "a turn to look comes first");
    world.until_woken(name).await;
    world.reconcile(name).await.expect("a pass");
    assert!(world.place(name).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_may_not_act_does_nothing() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.is_active.store(false, SeqCst);
    assert_eq!(world.reconcile("web").await.expect("nothing"), None);
    assert!(world.requests().is_empty() && world.ecs.calls().is_empty());
    world.is_active.store(true, SeqCst);
    world.settle("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn a_settled_resource_costs_no_request_and_no_call() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let (first, writes) = (world.object("web"), world.writes("web"));
    world.settle("web").await;
    assert_eq!(world.writes("web"), writes + 2, "what is to be done, and what was");
    world.requests();
    world.ecs.clear_log();
    assert_eq!(world.reconcile("web").await.expect("nothing"), None);
    assert!(world.requests().is_empty());

    // An older view of it costs a look at it, and a process that has just begun does not even ask
    // who it is in AWS.
    let settled = world.object("web");
    let restarted = World::rested().await;
    restarted.put(&settled);
    assert_eq!(restarted.pass_over(first).await.expect("nothing"), None);
    assert_eq!(restarted.requests(), [GET]);
    assert!(world.ecs.calls().is_empty() && restarted.ecs.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_gone_leaves_its_place_in_the_line() {
    let world = World::begin(1);
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.make("other", &["web:2"], json!({ "inUse": "Retire" }));
    queue(&world, "web").await;
    queue(&world, "other").await;
    assert_eq!((world.place("web"), world.place("other")), (Some(0), Some(1)));
    let gone = world.object("web");
    World::change(&world.api, "web", "deleted");
    assert_eq!(world.pass_over(gone).await.expect("nothing"), None);
    assert_eq!(world.place("other"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_resource_made_again_under_its_name_is_not_the_one_it_was() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let gone = world.object("web");
    World::change(&world.api, "web", "made again");
    assert_eq!(world.pass_over(gone).await.expect("nothing"), None);
    assert!(world.ecs.calls().is_empty());
    assert_eq!(world.object("web")["status"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_a_resource_is_tried_again_soon_and_after_an_error_later() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    for (request, code, shortest) in [(APPLY, 409, 200), (APPLY, 500, 5000), (GET, 409, 5000)] {
        world.before(request, 1, Between::Refuse(code));
        let error = world.reconcile("web").await.expect_err("refused");
        let pause = retry_after(&error, "uid").as_millis();
        assert!((shortest..=shortest * 6 / 5).contains(&pause), "{request} {code}: {pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_aws_takes_a_resource_soon_says_what_it_is_about() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let soon = |generation: i64| {
        let world = &world;
        async move {
            sleep(Duration::from_millis(200)).await;
            assert_eq!(world.status("web").observed_generation, Some(generation));
        }
    };
    world.ecs.fault(Fault::on(GetCallerIdentity).times(1).delay(Duration::from_secs(3)));
    let (passed, ()) = tokio::join!(world.reconcile("web"), soon(1));
    passed.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::Retired]);

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).delay(Duration::from_secs(3)));
    let (passed, ()) = tokio::join!(world.reconcile("web"), soon(2));
    passed.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn while_all_slots_are_taken_a_resource_says_what_it_is_about_and_waits() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let taken = world.context.slots.acquire_many(SLOTS).await.expect("all are free");
    let pause = world.reconcile("web").await.expect("a pass");
    assert!(is_half_a_second(pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Pending]);
    world.requests();
    let pause = world.reconcile("web").await.expect("a pass");
    assert!(is_half_a_second(pause), "{pause:?}");
    assert!(world.requests().is_empty());

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::Pending; 2]);
    assert_eq!(world.count(DescribeTaskDefinition), 0);

    drop(taken);
    world.settle("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_resource_whose_turn_has_come_waits_for_no_slot() {
    let world = World::begin(1);
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    queue(&world, "web").await;
    world.until_woken("web").await;
    let _taken = world.context.slots.acquire_many(SLOTS).await.expect("all are free");
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_with_what_the_next_pass_learns() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).nth(2).throttle());
    world.before(APPLY, 2, Between::Refuse(500));
    world.reconcile("web").await.expect_err("not written");
    assert_eq!((world.writes("web"), world.reasons("web")), (1, vec![Reason::Pending; 2]));
    let id = world.ecs.calls_of(DeregisterTaskDefinition)[0].request_id.clone();
    world.rest().await;
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1", "web:2", "web:2"]);
    assert_eq!((world.writes("web"), world.reasons("web")), (2, vec![Reason::Retired; 2]));
    assert_eq!(world.row("web", "web:1").request_id, Some(id));
}

#[tokio::test(start_paused = true)]
async fn while_aws_is_out_of_reach_only_what_is_asked_anew_costs_a_request() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).unavailable());
    let pause = world.reconcile("web").await.expect("a pass");
    assert!(is_about(2, pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Unavailable]);
    world.requests();
    let pause = world.reconcile("web").await.expect("a pass");
    assert!(is_about(2, pause), "{pause:?}");
    assert!(world.requests().is_empty());

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.status("web").observed_generation, Some(2));
    assert_eq!(world.count(DescribeTaskDefinition), 1);

    sleep(Duration::from_secs(2)).await;
    world.settle("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_knows_who_the_credentials_belong_to_it_is_asked_again_soon() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(GetCallerIdentity).times(1).unavailable());
    let pause = world.reconcile("web").await.expect("a pass");
    assert!(is_about(2, pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Unavailable]);
    sleep(pause.unwrap_or_default()).await;
    world.settle("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}
