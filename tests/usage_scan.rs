//! Usage scans of incomplete ECS data: unresolved references are unknown usage, which waits.

use serde_json::json;
use testkit::simulated_ecs::{Action, Fault, Service, Status, Task, Vanished};

use crate::{
    in_use::NOTICED,
    support::{Seen, World},
};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Waits until the row of a revision has `reason`. Fails if the resource is stalled before.
async fn wait_unstalled(world: &World<'_>, name: &str, revision: &str, reason: &str) -> Seen {
    world
        .wait_for(name, reason, NOTICED, |seen| {
            assert!(seen.condition("Stalled").is_none(), "{seen}");
            seen.is_current() && seen.reason(revision) == reason
        })
        .await
}

/// Returns the deregistered revisions, in order.
fn deregistered(world: &World<'_>) -> Vec<String> {
    let calls = world.ecs.calls_of(DEREGISTER).into_iter().filter_map(|call| call.task_definition);
    calls.map(|arn| arn.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn usage_scan_finds_the_users_that_the_description_of_a_service_does_not_show() {
    let world = World::new().await;
    world.west.register_many("web", 6);
    let prod = world.west.cluster("prod");
    let old = Service::steady("old", "other:2").replacing_all_of("web:1");
    prod.put_service(old.with_successes_older_than_90_days());
    prod.put_service(Service::express("express", "web:2"));
    prod.put_service(Service::express("canary", "other:2").replacing_all_of("web:3"));
    prod.put_service(Service::external("external", "web:4").desired_count(0));
    prod.put_service(Service::steady("green", "other:2").replacing_all_of("web:5").strategy("BLUE_GREEN"));
    prod.put_task(Task::deleted("over", "web:6"));
    prod.put_service(Service::first_deployment("new", "other:1"));
    let users = ["old", "express", "canary", "external", "green"];
    world.declare("web", &["web:1", "web:2", "web:3", "web:4", "web:5", "web:6"]).await;
    let _controller = world.start();
    let seen = wait_unstalled(&world, "web", "web:6", "Retired").await;
    for (number, user) in (1..).zip(users) {
        let revision = format!("web:{number}");
        assert_eq!(seen.row(&revision)["usedBy"], json!([format!("service/prod/{user}")]), "{seen}");
    }
    assert_eq!(deregistered(&world), ["web:6"]);
}

#[tokio::test]
async fn previous_iam_policy_suffices_while_the_list_names_what_a_deployment_replaces() {
    let world = World::new().await;
    world.west.register_many("web", 3);
    world.ecs.fault(Fault::on(Action::DescribeServiceDeployments).access_denied());
    let shop = Service::steady("shop", "web:2").replacing_all_of("web:1");
    world.west.cluster("prod").put_service(shop);
    world.declare("web", &["web:1", "web:2", "web:3"]).await;
    let _controller = world.start();
    let seen = wait_unstalled(&world, "web", "web:3", "Retired").await;
    assert_eq!((seen.reason("web:1"), seen.reason("web:2")), ("InUse", "InUse"), "{seen}");
}

#[tokio::test]
async fn previous_iam_policy_delays_only_what_needs_the_new_action() {
    let world = World::new().await;
    world.west.register_many("web", 4);
    world.west.set_status("web:4", Status::Inactive);
    world.ecs.fault(Fault::on(Action::DescribeServiceDeployments).access_denied());
    let shop = Service::steady("shop", "web:2").replacing_all_of("web:1");
    world.west.cluster("prod").put_service(shop.with_successes_older_than_90_days());
    world.declare("web", &["web:1"]).await;
    world.declare("used", &["web:2"]).await;
    world.declare("retired", &["web:4"]).await;
    let spec = json!({ "revisions": ["web:3"], "inUse": "Retire" });
    world.apply("forced", spec).await.expect("admitted");
    let _controller = world.start();
    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
    let message = seen.message("web:1");
    for part in ["service/prod/shop: ", "is not authorized to perform: ecs:DescribeServiceDeployments"] {
        assert!(message.contains(part), "{message}");
    }
    wait_unstalled(&world, "used", "web:2", "InUse").await;
    world.wait_ready("forced").await;
    world.wait_ready("retired").await;
    assert_eq!(deregistered(&world), ["web:3"]);

    world.ecs.clear_faults();
    let is_in_use = |seen: &Seen| seen.reason("web:1") == "InUse";
    let seen = world.wait_for("web", "InUse", NOTICED, is_in_use).await;
    assert_eq!(seen.row("web:1")["usedBy"], json!(["service/prod/shop"]));
}

#[tokio::test]
async fn usage_scan_skips_clusters_that_disappeared() {
    for vanished in [Vanished::NotFound, Vanished::Inactive] {
        let world = World::new().await;
        world.west.register_many("web", 2);
        let gone = world.west.cluster("gone");
        gone.vanish(vanished);
        world.west.cluster("prod").put_task(Task::running("a1", "web:2"));
        world.declare("web", &["web:1", "web:2"]).await;
        let _controller = world.start();
        let seen = wait_unstalled(&world, "web", "web:1", "Unavailable").await;
        assert!(seen.message("web:1").contains("cluster/gone: ecs:ListServices: "), "{seen}");
        assert_eq!(seen.reason("web:2"), "InUse", "{seen}");
        let seen = wait_unstalled(&world, "web", "web:1", "Retired").await;
        assert_eq!(seen.reason("web:2"), "InUse", "{seen}");

        // Created again under the same name, before the task in the other cluster ends.
        gone.put_task(Task::running("b1", "web:2"));
        world.west.cluster("prod").remove_task("a1");
        let moved = |seen: &Seen| seen.row("web:2")["usedBy"] == json!(["task/gone/b1"]);
        world.wait_for("web", "the new user", NOTICED, moved).await;
        assert_eq!(deregistered(&world), ["web:1"]);
    }
}
