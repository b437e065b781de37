//! Tests of the calls that a reconcile makes to ECS.

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
async fn reconcile_deregisters_while_permits_are_available() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2", "web:3"], json!({ "inUse": "Retire" }));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1", "web:2", "web:3"]);
    assert_eq!(world.reasons("web"), [Reason::Retired; 3]);
    assert_eq!(world.count(ListClusters), 0, "usage is not scanned");
}

#[tokio::test(start_paused = true)]
async fn throttled_deregistration_stops_the_batch_and_delays_other_resources() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.make("other", &["web:3"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).times(1).throttle());
    let delay = world.reconcile("web").await.expect("a reconcile");
    assert!(is_about(5, delay), "{delay:?}");
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"]);
    assert_eq!(world.reasons("web"), [Reason::Throttled, Reason::Pending]);

    world.reconcile("other").await.expect("a reconcile");
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"], "the other resource is delayed as well");
    world.reconcile_until_final("other").await;
    world.reconcile_until_final("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn throttled_description_delays_the_descriptions_of_other_resources() {
    let world = World::with_full_buckets().await;
    for (name, revision) in [("web", "web:1"), ("other", "web:2")] {
        world.make(name, &[revision], json!({ "inUse": "Retire" }));
    }
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).throttle());
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Throttled]);
    world.reconcile("other").await.expect("a reconcile");
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
}

#[tokio::test(start_paused = true)]
async fn outage_of_aws_stops_the_batch() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).times(1).unavailable());
    let delay = world.reconcile("web").await.expect("a reconcile");
    assert!(is_about(2, delay), "{delay:?}");
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"]);
    assert_eq!(world.reasons("web"), [Reason::Unavailable, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn refused_revision_is_queued_only_for_its_first_attempt() {
    let world = World::with_empty_buckets(2);
    world.refill_buckets().await;
    world.make("web", &["web:1", "web:2", "web:3"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).access_denied());
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::AccessDenied, Reason::AccessDenied, Reason::Pending]);
    assert_eq!(world.queue_position("web"), Some(0), "the third has not been tried yet");

    world.until_woken("web").await;
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::AccessDenied; 3]);

    world.refill_buckets().await;
    world.ecs.clear_log();
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.count(DeregisterTaskDefinition), 2, "one for each available permit");
    assert_eq!(world.queue_position("web"), None, "the third waits for its requeue delay");

    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.count(DeregisterTaskDefinition), 2);
    assert_eq!(
        world.queue_position("web"),
        Some(0),
        "without a permit it is unknown whether calls are still refused"
    );
}

#[tokio::test(start_paused = true)]
async fn batch_ends_when_its_time_is_over() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2", "web:3", "web:4"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).delay(Duration::from_secs(1)));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), Some(Duration::ZERO));
    assert_eq!(
        world.called(DeregisterTaskDefinition),
        ["web:1", "web:2", "web:3"],
        "those that started within 2 s"
    );
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired; 4]);
}

#[tokio::test(start_paused = true)]
async fn inactive_process_completes_the_current_deregistration_and_starts_no_other() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    let is_active = world.is_active.clone();
    world.ecs.before(DeregisterTaskDefinition, 1, async move { is_active.store(false, SeqCst) });
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(
        world.called(DescribeTaskDefinition),
        ["web:1", "web:2", "web:1"],
        "the batch before, and web:1 after its deregistration"
    );
    assert_eq!(world.reasons("web"), [Reason::Retired, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_response_to_a_deregistration_and_its_status_write() {
    let world = World::with_full_buckets().await;
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
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1", "web:2"], "only before the deregistration");
    assert_eq!(world.reasons("web"), [Reason::Retired, Reason::Pending]);
}

#[tokio::test(start_paused = true)]
async fn reads_are_abandoned_at_shutdown() {
    for request in [1, 2] {
        let world = World::with_full_buckets().await;
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
async fn deregister_is_skipped_if_leadership_was_lost_meanwhile() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let is_active = world.is_active.clone();
    world.before(GET, 2, Between::Do(Box::new(move || is_active.store(false, SeqCst))));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.count(DescribeTaskDefinition), 1);
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
}

#[tokio::test(start_paused = true)]
async fn deregister_is_skipped_if_the_resource_was_suspended_deleted_or_recreated_meanwhile() {
    for becomes in ["suspended", "deleted", "recreated"] {
        let world = World::with_full_buckets().await;
        world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
        let api = world.api.clone();
        let change = move || World::change(&api, "web", becomes);
        world.before(GET, 2, Between::Do(Box::new(change)));
        world.reconcile("web").await.ok();
        assert_eq!(world.count(DescribeTaskDefinition), 1, "{becomes}");
        assert_eq!(world.count(DeregisterTaskDefinition), 0, "{becomes}");
    }
}

#[tokio::test(start_paused = true)]
async fn revision_in_use_waits_without_calls_until_it_is_unused() {
    let world = World::with_full_buckets().await;
    world.west.cluster("prod").put_service(Service::steady("shop", "web:1"));
    world.make("web", &["web:1"], json!({}));
    assert_eq!(
        world.reconcile("web").await.expect("a reconcile"),
        Some(Duration::from_mins(10)),
        "a fallback: the usage scan wakes it earlier"
    );
    assert_eq!((world.count(DescribeTaskDefinition), world.reasons("web")), (1, vec![Reason::Pending]));

    world.until_woken("web").await;
    world.reconcile("web").await.expect("a reconcile");
    let row = world.row("web", "web:1");
    assert_eq!((row.reason, row.status.as_deref()), (Reason::InUse, Some("ACTIVE")));
    assert_eq!(row.used_by, ["service/prod/shop"]);
    assert_eq!(world.count(DescribeTaskDefinition), 2);

    assert_eq!(world.reconcile("web").await.expect("a reconcile"), Some(Duration::from_mins(10)));
    assert_eq!(world.count(DescribeTaskDefinition), 2, "it is known to be ACTIVE and in use");

    world.west.cluster("prod").remove_service("shop");
    world.until_woken("web").await;
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn description_is_skipped_while_the_first_usage_scan_is_pending() {
    let world = World::with_full_buckets().await;
    world.ecs.fault(Fault::on(ListClusters).delay(Duration::from_secs(3)));
    world.make("web", &["web:1"], json!({}));
    world.make("other", &["web:2"], json!({}));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reconcile("other").await.expect("a reconcile"), Some(Duration::from_mins(10)));
    assert_eq!(world.called(DescribeTaskDefinition), ["web:1"]);
    world.until_woken("other").await;
    world.reconcile("other").await.expect("a reconcile");
    assert_eq!(world.reasons("other"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn usage_of_retired_revisions_is_not_scanned() {
    let world = World::with_full_buckets().await;
    world.west.set_status("web:1", Status::Inactive);
    world.make("web", &["web:1"], json!({}));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
    world.refill_buckets().await;
    assert_eq!(world.count(ListClusters), 0);
}

#[tokio::test(start_paused = true)]
async fn revision_retired_by_another_resource_is_described_before_its_usage_ends() {
    let world = World::with_full_buckets().await;
    world.west.cluster("prod").put_service(Service::steady("shop", "web:1"));
    world.make("waiting", &["web:1"], json!({}));
    world.reconcile("waiting").await.expect("a reconcile");
    world.until_woken("waiting").await;
    world.reconcile("waiting").await.expect("a reconcile");
    assert_eq!(world.reasons("waiting"), [Reason::InUse]);

    world.make("immediate", &["web:1"], json!({ "inUse": "Retire" }));
    world.reconcile("immediate").await.expect("a reconcile");
    assert_eq!(world.woken(), ["waiting"]);
    assert_eq!(world.reconcile("waiting").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("waiting"), [Reason::Retired]);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1"]);
}

#[tokio::test(start_paused = true)]
async fn deregister_is_skipped_if_the_revision_came_into_use_meanwhile() {
    let world = World::with_full_buckets().await;
    let cluster = world.west.cluster("prod");
    cluster.put_service(Service::steady("shop", "web:2"));
    world.make("other", &["web:2"], json!({}));
    world.reconcile("other").await.expect("a reconcile");
    world.until_woken("other").await;
    world.reconcile("other").await.expect("a reconcile");
    assert_eq!(world.reasons("other"), [Reason::InUse], "usage is scanned for this resource");

    // The revision is unused by the scan of 50 s ago. The next scan ends during the last read of
    // the resource.
    tokio::time::sleep(Duration::from_secs(50)).await;
    world.make("web", &["web:1"], json!({}));
    world.before(GET, 2, Between::Delay(Duration::from_secs(9)));
    cluster.put_service(Service::steady("late", "web:1"));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.count(DeregisterTaskDefinition), 0);
    let row = world.row("web", "web:1");
    assert_eq!((row.reason, row.used_by), (Reason::InUse, vec!["service/prod/late".to_owned()]));
}
