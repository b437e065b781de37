//! Tests of when reconciles start, wait and end.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::{Value, json};
use testkit::simulated_ecs::{
    Action::{DeregisterTaskDefinition, DescribeTaskDefinition, GetCallerIdentity},
    Fault,
};
use tokio::time::sleep;

use super::*;
use crate::controller::delay::after_error;
use crate::retirement::tests::{APPLY, Between, CONCURRENCY, GET, World, is_about};

fn is_half_a_second(pause: Option<Duration>) -> bool {
    pause.is_some_and(|pause| (500..=600).contains(&pause.as_millis()))
}

/// Reconciles a resource until it is queued for a permit to deregister.
async fn queue(world: &World, name: &str) {
    world.reconcile(name).await.expect("a reconcile");
    assert_eq!(world.queue_position(name), None, "it is queued for a permit to read first");
    world.until_woken(name).await;
    world.reconcile(name).await.expect("a reconcile");
    assert!(world.queue_position(name).is_some());
}

#[tokio::test(start_paused = true)]
async fn inactive_process_does_nothing() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.is_active.store(false, SeqCst);
    assert_eq!(world.reconcile("web").await.expect("nothing"), None);
    assert!(world.requests().is_empty() && world.ecs.calls().is_empty());
    world.is_active.store(true, SeqCst);
    world.reconcile_until_final("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn final_resource_causes_no_request_and_no_aws_call() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let (first, writes) = (world.object("web"), world.writes("web"));
    world.reconcile_until_final("web").await;
    assert_eq!(world.writes("web"), writes + 2, "one before and one after the deregistration");
    world.requests();
    world.ecs.clear_log();
    assert_eq!(world.reconcile("web").await.expect("nothing"), None);
    assert!(world.requests().is_empty());

    // A stale cached version causes one read. A process that has just started does not call STS for
    // it.
    let finished = world.object("web");
    let restarted = World::with_full_buckets().await;
    restarted.put(&finished);
    assert_eq!(restarted.reconcile_object(first).await.expect("nothing"), None);
    assert_eq!(restarted.requests(), [GET]);
    assert!(world.ecs.calls().is_empty() && restarted.ecs.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn deleted_resource_leaves_the_wait_queue() {
    let world = World::with_empty_buckets(1);
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.make("other", &["web:2"], json!({ "inUse": "Retire" }));
    queue(&world, "web").await;
    queue(&world, "other").await;
    assert_eq!((world.queue_position("web"), world.queue_position("other")), (Some(0), Some(1)));
    let gone = world.object("web");
    World::change(&world.api, "web", "deleted");
    assert_eq!(world.reconcile_object(gone).await.expect("nothing"), None);
    assert_eq!(world.queue_position("other"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn unreadable_resource_leaves_the_wait_queue() {
    let world = World::with_empty_buckets(1);
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    queue(&world, "web").await;
    let mut unreadable = world.object("web");
    unreadable["spec"]["revisions"] = json!("web:1");
    assert_eq!(world.reconcile_object(unreadable).await.expect("a report"), None);
    assert_eq!(world.queue_position("web"), None);
}

#[tokio::test(start_paused = true)]
async fn recreated_resource_is_not_mistaken_for_the_earlier_one() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let gone = world.object("web");
    World::change(&world.api, "web", "recreated");
    assert_eq!(world.reconcile_object(gone).await.expect("nothing"), None);
    assert!(world.ecs.calls().is_empty());
    assert_eq!(world.object("web")["status"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn requeue_delay_is_shorter_after_a_conflict_than_after_an_error() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    for (request, code, shortest) in [(APPLY, 409, 200), (APPLY, 500, 5000), (GET, 409, 5000)] {
        world.before(request, 1, Between::Refuse(code));
        let error = world.reconcile("web").await.expect_err("refused");
        let pause = after_error(&error, "uid").as_millis();
        assert!((shortest..=shortest * 6 / 5).contains(&pause), "{request} {code}: {pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn first_status_does_not_wait_for_slow_aws_calls() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let soon = |generation: i64| {
        let world = &world;
        async move {
            sleep(Duration::from_millis(200)).await;
            assert_eq!(world.status("web").observed_generation, Some(generation));
        }
    };
    world.ecs.fault(Fault::on(GetCallerIdentity).times(1).delay(Duration::from_secs(3)));
    let (reconciled, ()) = tokio::join!(world.reconcile("web"), soon(1));
    reconciled.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Retired]);

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).delay(Duration::from_secs(3)));
    let (reconciled, ()) = tokio::join!(world.reconcile("web"), soon(2));
    reconciled.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn resource_gets_its_first_status_and_waits_while_no_concurrency_permit_is_free() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    let permits = world.context.aws_concurrency.acquire_many(CONCURRENCY).await.expect("free permits");
    let pause = world.reconcile("web").await.expect("a reconcile");
    assert!(is_half_a_second(pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Pending]);
    world.requests();
    let pause = world.reconcile("web").await.expect("a reconcile");
    assert!(is_half_a_second(pause), "{pause:?}");
    assert!(world.requests().is_empty());

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Pending; 2]);
    assert_eq!(world.count(DescribeTaskDefinition), 0);

    drop(permits);
    world.reconcile_until_final("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn resource_with_a_rate_limit_permit_does_not_wait_for_a_concurrency_permit() {
    let world = World::with_empty_buckets(1);
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    queue(&world, "web").await;
    world.until_woken("web").await;
    let _permits = world.context.aws_concurrency.acquire_many(CONCURRENCY).await.expect("free permits");
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn pending_rows_are_written_by_the_next_reconcile() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "web:2"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DeregisterTaskDefinition).nth(2).throttle());
    world.before(APPLY, 2, Between::Refuse(500));
    world.reconcile("web").await.expect_err("not written");
    assert_eq!((world.writes("web"), world.reasons("web")), (1, vec![Reason::Pending; 2]));
    let id = world.ecs.calls_of(DeregisterTaskDefinition)[0].request_id.clone();
    world.refill_buckets().await;
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.called(DeregisterTaskDefinition), ["web:1", "web:2", "web:2"]);
    assert_eq!((world.writes("web"), world.reasons("web")), (2, vec![Reason::Retired; 2]));
    assert_eq!(world.row("web", "web:1").request_id, Some(id));
}

#[tokio::test(start_paused = true)]
async fn open_circuit_breaker_allows_requests_only_for_a_changed_spec() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(DescribeTaskDefinition).times(1).unavailable());
    let pause = world.reconcile("web").await.expect("a reconcile");
    assert!(is_about(2, pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Unavailable]);
    world.requests();
    let pause = world.reconcile("web").await.expect("a reconcile");
    assert!(is_about(2, pause), "{pause:?}");
    assert!(world.requests().is_empty());

    world.edit("web", &json!({ "revisions": ["web:1", "web:2"], "inUse": "Retire" }));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.status("web").observed_generation, Some(2));
    assert_eq!(world.count(DescribeTaskDefinition), 1);

    sleep(Duration::from_secs(2)).await;
    world.reconcile_until_final("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired; 2]);
}

#[tokio::test(start_paused = true)]
async fn unknown_identity_is_retried_soon() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.ecs.fault(Fault::on(GetCallerIdentity).times(1).unavailable());
    let pause = world.reconcile("web").await.expect("a reconcile");
    assert!(is_about(2, pause), "{pause:?}");
    assert_eq!(world.reasons("web"), [Reason::Unavailable]);
    sleep(pause.unwrap_or_default()).await;
    world.reconcile_until_final("web").await;
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}
