//! What passes do at ECS, call by call.

use std::{future::pending, sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::json;
use testkit::simulated_ecs::{
    Action::{DeregisterTaskDefinition, DescribeTaskDefinition, ListClusters},
    Fault, Service, Status,
};
use tokio::time::{Instant, sleep};

use crate::{
    api::Reason,
    retirement::tests::{Between, GET, World, is_about},
};

#[tokio::test(start_paused = true)]
async fn a_pass_deregisters_what_there_are_turns_for() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2", "web:3"], json!({ "inUse": "Retire" }));
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1", "web:2", "web:3"]);
    assert_eq!(world.reasons("web"), [Reason::Retired; 3]);
    assert_eq!(world.count(ListClusters), 0, "nobody asked who uses them");
}

#[tokio::test(start_paused = true)]
async fn after_a_throttle_a_pass_makes_no_more_calls_and_all_step_back() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.make("other", &["web:3"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).times(1).throttle());
    let delay = world.reconcile("web").await.expect("a pass");
    assert!(is_about(5, delay), "{delay:?}");
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
    assert_eq!(world.reasons("web"), [Reason::Throttled, Reason::Pending]);

    world.reconcile("other").await.expect("a pass");
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"], "the other one has to wait as well");
    world.settle("other").await;
    world.settle("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_throttled_makes_all_look_more_slowly() {
    let world = World::rested().await;
    for (name, revision) in [("web", "web:1"), ("other", "web:2")] {
        world.make(name, &[revision], json!({ "inUse": "Retire" }));
    }
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).throttle());
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::Throttled]);
    world.reconcile("other").await.expect("a pass");
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
}

#[tokio::test(start_paused = true)]
async fn while_aws_does_not_answer_a_pass_makes_no_more_calls() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).times(1).unavailable());
    let delay = world.reconcile("web").await.expect("a pass");
    assert!(is_about(2, delay), "{delay:?}");
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
    assert_eq!(world.reasons("web"), [Reason::Unavailable, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_takes_a_place_in_the_line_only_the_first_time() {
    let world = World::begin(2);
    world.rest().await;
    world.make("web", &["web:1", "web:2", "web:3"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).access_denied());
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::AccessDenied, Reason::AccessDenied, Reason::Pending]);
    assert_eq!(world.place("web"), Some(0), "the third has not been tried yet");

    world.until_woken("web").await;
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.reasons("web"), [Reason::AccessDenied; 3]);

    world.rest().await;
    world.ecs.clear_log();
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.count(DeregisterTaskDefinition), 2, "for as many as there are deregistrations");
    assert_eq!(world.place("web"), None, "the third waits for its pause");

    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.count(DeregisterTaskDefinition), 2);
    assert_eq!(world.place("web"), Some(0), "without a permit nothing is known to be refused still");
}

#[tokio::test(start_paused = true)]
async fn a_pass_leaves_its_worker_to_others_when_its_time_is_over() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2", "web:3", "web:4"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).delay(Duration::from_secs(1)));
    assert_eq!(world.reconcile("web").await.expect("a pass"), Some(Duration::ZERO));
    assert_eq!(
        world.called(DeregisterTaskDefinition),
        ["web:1", "web:2", "web:3"],
        "2 s, and what began then"
    );
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_must_stop_ends_what_it_has_begun_and_no_more() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    let is_active = world.is_active.clone();
    world.ecs.before(DeregisterTaskDefinition, 1, async move { is_active.store(false, SeqCst) });
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1", "web:1"], "before and after");
    assert_eq!(world.reasons("web"), [Reason::Retired, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_answer_to_a_deregistration_and_its_record() {
    let world = World::rested().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    let (is_active, shutdown) = (world.is_active.clone(), world.shutdown.clone());
    world.ecs.before(DeregisterTaskDefinition, 1, async move {
        is_active.store(false, SeqCst);
        shutdown.send_replace(true);
        sleep(Duration::from_secs(3)).await;
    });
    let work = async {
        world.reconcile("web").await.expect("the status is written");
        pending::<()>().await;
    };
    world.context.shutdown.run(work).await;
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"], "only before the call");
    assert_eq!(world.reasons("web"), [Reason::Retired, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn reads_are_abandoned_at_shutdown() {
    for request in [1, 2] {
        let world = World::rested().await;
        world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
        world.shutdown.send_replace(true);
        world.before(GET, request, Between::Delay(Duration::from_secs(5)));
        let began = Instant::now();
        world.context.shutdown.run(async { drop(world.reconcile("web").await) }).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(world.count(DeregisterTaskDefinition), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_lost_the_lead_while_it_looked_deregisters_nothing() {
    let world = World::rested().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let is_active = world.is_active.clone();
    world.before(GET, 2, Between::Do(Box::new(move || is_active.store(false, SeqCst))));
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.count(DescribeTaskDefinition), 1);
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_declared_right_before_the_call_is_not_deregistered() {
    for changes in ["suspended", "deleted", "made again"] {
        let world = World::rested().await;
        world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
        let api = world.api.clone();
        let change = move || World::change(&api, "web", changes);
        world.before(GET, 2, Between::Do(Box::new(change)));
        world.reconcile("web").await.ok();
        assert_eq!(world.count(DescribeTaskDefinition), 1, "{changes}");
        assert_eq!(world.count(DeregisterTaskDefinition), 0, "{changes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_in_use_waits_without_a_call_until_nobody_uses_it() {
    let world = World::rested().await;
    world.west.cluster("prod").put_service(Service::steady("shop", "web:1"));
    world.make("web", &["web:1"], json!({}));
    assert_eq!(
        world.reconcile("web").await.expect("a pass"),
        Some(Duration::from_mins(10)),
        "it is told before"
    );
    assert_eq!((world.count(DescribeTaskDefinition), world.reasons("web")), (1, vec![Reason::Pending]));

    world.until_woken("web").await;
    world.reconcile("web").await.expect("a pass");
    let row = world.row("web", "web:1");
    assert_eq!((row.reason, row.status.as_deref()), (Reason::InUse, Some("ACTIVE")));
    assert_eq!(row.used_by, ["service/prod/shop"]);
    assert_eq!(world.count(DescribeTaskDefinition), 2);

    assert_eq!(world.reconcile("web").await.expect("a pass"), Some(Duration::from_mins(10)));
    assert_eq!(world.count(DescribeTaskDefinition), 2, "it was ACTIVE, and is in use");

    world.west.cluster("prod").remove_service("shop");
    world.until_woken("web").await;
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn while_a_scan_is_under_way_nobody_looks_who_would_have_to_look_again() {
    let world = World::rested().await;
    world.ecs.fault(Fault::on(ListClusters).delay(Duration::from_secs(3)));
    world.make("web", &["web:1"], json!({}));
    world.make("other", &["web:2"], json!({}));
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.reconcile("other").await.expect("a pass"), Some(Duration::from_mins(10)));
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
    world.until_woken("other").await;
    world.reconcile("other").await.expect("a pass");
    assert_eq!(world.reasons("other"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_who_uses_what_is_retired_already() {
    let world = World::rested().await;
    world.west.set_status("web:1", Status::Inactive);
    world.make("web", &["web:1"], json!({}));
    assert_eq!(world.reconcile("web").await.expect("a pass"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
    world.rest().await;
    assert_eq!(world.count(ListClusters), 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_resource_has_retired_is_looked_at_without_waiting_for_the_end_of_its_use() {
    let world = World::rested().await;
    world.west.cluster("prod").put_service(Service::steady("shop", "web:1"));
    world.make("patient", &["web:1"], json!({}));
    world.reconcile("patient").await.expect("a pass");
    world.until_woken("patient").await;
    world.reconcile("patient").await.expect("a pass");
    assert_eq!(world.reasons("patient"), [Reason::InUse]);

    world.make("hasty", &["web:1"], json!({ "inUse": "Retire" }));
    world.reconcile("hasty").await.expect("a pass");
    assert_eq!(world.woken(), ["patient"]);
    assert_eq!(world.reconcile("patient").await.expect("a pass"), None);
    assert_eq!(world.reasons("patient"), [Reason::Retired]);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_begun_to_use_a_revision_right_before_the_call_keeps_it() {
    let world = World::rested().await;
    let cluster = world.west.cluster("prod");
    cluster.put_service(Service::steady("shop", "web:2"));
    world.make("other", &["web:2"], json!({}));
    world.reconcile("other").await.expect("a pass");
    world.until_woken("other").await;
    world.reconcile("other").await.expect("a pass");
    assert_eq!(world.reasons("other"), [Reason::InUse], "and so there are scans");

    // By the scan of 50 s ago nobody uses it; the next one comes while the resource is read for the
    // last time.
    tokio::time::sleep(Duration::from_secs(50)).await;
    world.make("web", &["web:1"], json!({}));
    world.before(GET, 2, Between::Delay(Duration::from_secs(9)));
    cluster.put_service(Service::steady("late", "web:1"));
    world.reconcile("web").await.expect("a pass");
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
    let row = world.row("web", "web:1");
    assert_eq!((row.reason, row.used_by), (Reason::InUse, vec!["service/prod/late".to_owned()]));
}
