//! Deleted revisions are distinguished from those that never existed, even without a record.

use testkit::simulated_ecs::{Action, Fault, Status};

use crate::support::World;

const LIST: Action = Action::ListTaskDefinitions;

/// Returns a world with nine revisions of `web`, of which the third was deleted.
async fn world_with_a_deleted_revision() -> World<'static> {
    let world = World::new().await;
    world.west.register_many("web", 9);
    world.west.set_status("web:3", Status::Inactive);
    world.west.remove("web:3");
    world
}

#[tokio::test]
async fn deleted_revision_is_final_and_ready_and_a_higher_number_is_not_found() {
    let world = world_with_a_deleted_revision().await;
    world.west.register_many("web-api", 30);
    world.declare("deleted", &["web:3"]).await;
    world.declare("mistyped", &["web:10"]).await;
    world.declare("unknown", &["we:1"]).await;
    let _controller = world.start();
    let seen = world.wait_ready("deleted").await;
    assert_eq!((seen.reason("web:3"), seen.text("progress")), ("Deleted", "1/1"), "{seen}");
    assert!(seen.row("web:3")["status"].is_null(), "{seen}");
    for (name, revision) in [("mistyped", "web:10"), ("unknown", "we:1")] {
        assert_eq!(world.wait_until_blocked(name).await.reason(revision), "NotFound");
    }
    assert_eq!(world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 0);

    world.wait_until_all_is_seen().await;
    let calls = world.ecs.calls_of(LIST).len();
    world.wait_until_all_is_seen().await;
    assert_eq!(world.ecs.calls_of(LIST).len(), calls, "each result is final");
}

#[tokio::test]
async fn deleted_revision_is_not_found_without_the_list_permission_and_the_action_is_named() {
    let world = world_with_a_deleted_revision().await;
    world.ecs.fault(Fault::on(LIST).access_denied());
    world.declare("web", &["web:3", "web:1"]).await;
    let _controller = world.start();
    let seen = world.wait_until_blocked("web").await;
    assert_eq!((seen.reason("web:3"), seen.reason("web:1")), ("NotFound", "Retired"), "{seen}");
    assert!(seen.message("web:3").contains("ecs:ListTaskDefinitions"), "{seen}");

    world.ecs.clear_faults();
    world.request("web", "now").await;
    assert_eq!(world.wait_ready("web").await.reason("web:3"), "Deleted");
}
