//! Tests of the observation of revisions that ECS does not have.

use serde_json::json;
use testkit::simulated_ecs::{
    Action::{DeregisterTaskDefinition, DescribeTaskDefinition, ListTaskDefinitions},
    Fault, Status,
};

use crate::{api::Reason, retirement::tests::World};

/// Reconciles the absent `web:3` of nine revisions, of which all with a higher number have
/// `status`. `None`: they do not exist.
async fn absent_below(status: Option<Status>) -> World {
    let world = World::with_full_buckets().await;
    for number in 4..=9 {
        let revision = format!("web:{number}");
        match status {
            Some(status) => world.west.set_status(&revision, status),
            None => world.west.remove(&revision),
        }
    }
    world.west.remove("web:3");
    world.make("web", &["web:3"], json!({ "inUse": "Retire" }));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None, "either reason is final");
    world
}

#[tokio::test(start_paused = true)]
async fn absent_revision_below_the_newest_of_its_family_is_deleted() {
    for (status, lists) in [(Status::Active, 1), (Status::Inactive, 2), (Status::DeleteInProgress, 3)] {
        let world = absent_below(Some(status)).await;
        let row = world.row("web", "web:3");
        assert_eq!((row.reason, row.status, row.message), (Reason::Deleted, None, None), "{status:?}");
        assert_eq!(world.count(ListTaskDefinitions), lists, "{status:?}");
        assert_eq!(world.count(DeregisterTaskDefinition), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn absent_revision_above_the_newest_of_its_family_is_not_found() {
    let world = absent_below(None).await;
    assert_eq!(world.reasons("web"), [Reason::NotFound]);
    assert_eq!(world.count(ListTaskDefinitions), 3, "none in any status");
}

#[tokio::test(start_paused = true)]
async fn absent_revision_is_not_found_if_the_list_is_refused() {
    for refusal in [
        Fault::on(ListTaskDefinitions).access_denied(),
        Fault::on(ListTaskDefinitions).error("InvalidParameterException", "No."),
    ] {
        let world = World::with_full_buckets().await;
        world.ecs.fault(refusal);
        world.west.remove("web:3");
        world.make("web", &["web:3"], json!({ "inUse": "Retire" }));
        assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
        let row = world.row("web", "web:3");
        let message = row.message.unwrap_or_default();
        assert_eq!(row.reason, Reason::NotFound);
        assert!(message.contains("ecs:ListTaskDefinitions, which shows whether it was deleted"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn absent_revision_is_retried_after_a_transient_failure_of_the_list() {
    for (fault, reason) in [
        (Fault::on(ListTaskDefinitions).times(1).throttle(), Reason::Throttled),
        (Fault::on(ListTaskDefinitions).times(1).unavailable(), Reason::Unavailable),
        (Fault::on(ListTaskDefinitions).times(1).server_error(), Reason::Unavailable),
        (
            Fault::on(ListTaskDefinitions).times(1).error("ExpiredTokenException", "Old."),
            Reason::AccessDenied,
        ),
    ] {
        let world = World::with_full_buckets().await;
        world.ecs.fault(fault);
        world.west.remove("web:3");
        world.make("web", &["web:3"], json!({ "inUse": "Retire" }));
        world.reconcile("web").await.expect("a reconcile");
        assert_eq!(world.reasons("web"), [reason]);
        world.reconcile_until_final("web").await;
        assert_eq!(world.reasons("web"), [Reason::Deleted]);
    }
}

#[tokio::test(start_paused = true)]
async fn deleted_revisions_of_one_family_share_one_list_call_in_a_batch() {
    let world = World::with_full_buckets().await;
    let revisions = ["web:1", "web:2", "web:3", "web:4"];
    for revision in revisions {
        world.west.remove(revision);
    }
    world.make("web", &revisions, json!({ "inUse": "Retire" }));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Deleted; 4]);
    assert_eq!((world.count(DescribeTaskDefinition), world.count(ListTaskDefinitions)), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn revision_registered_between_description_and_list_is_not_reported_as_deleted() {
    let world = World::with_full_buckets().await;
    let west = world.west.clone();
    world.ecs.before(ListTaskDefinitions, 1, async move {
        west.register_many("web", 2).to_string();
    });
    world.make("web", &["web:10"], json!({ "suspend": true }));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Suspended]);
    assert_eq!(world.west.status("web:10"), Some(Status::Active));
}

#[tokio::test(start_paused = true)]
async fn revision_deleted_during_its_deregistration_is_reported_as_deleted() {
    let world = World::with_full_buckets().await;
    let west = world.west.clone();
    world.ecs.before(DeregisterTaskDefinition, 1, async move { west.remove("web:3") });
    world.make("web", &["web:3"], json!({ "inUse": "Retire" }));
    world.reconcile("web").await.expect("a reconcile");
    assert_eq!(world.reasons("web"), [Reason::Deleted]);
}
