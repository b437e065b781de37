//! Unclear usage: references that ECS returns and does not resolve, and clusters that disappear, at
//! every call of a usage scan.

use std::time::Duration;

use futures::future::join_all;
use testkit::simulated_ecs::{Action, Cluster, Fault, Service, Task, Vanished};

use crate::support::{Seen, World};

/// How long to wait for a condition. The cases run at the same time, and scans back off.
const TIMEOUT: Duration = Duration::from_mins(2);

type Prepare = fn(&World<'_>);

/// The causes of an unresolvable reference.
const UNRESOLVED: [(&str, Prepare); 6] = [
    ("missing source", |world| put_rolled_back_service(world, |it| it.without_service_revision("web:1"))),
    ("missing target", |world| put_rolled_back_service(world, |it| it.without_service_revision("web:2"))),
    ("missing revision of an Express Mode service", |world| {
        let express = Service::express("express", "web:1").without_service_revision("web:1");
        world.west.cluster("prod").put_service(express);
    }),
    ("denied list of deployments", |world| {
        deny(world, Action::ListServiceDeployments);
    }),
    ("denied description of deployments", |world| {
        deny(world, Action::DescribeServiceDeployments);
    }),
    ("denied description of service revisions", |world| {
        deny(world, Action::DescribeServiceRevisions);
    }),
];

const SCAN: [Action; 7] = [
    Action::ListServices,
    Action::DescribeServices,
    Action::ListServiceDeployments,
    Action::DescribeServiceDeployments,
    Action::DescribeServiceRevisions,
    Action::ListTasks,
    Action::DescribeTasks,
];

/// Adds a service that would be rolled back to web:1. Only a service revision names web:1.
fn put_rolled_back_service(world: &World<'_>, make: impl FnOnce(Service) -> Service) {
    let service = Service::steady("shop", "web:2").replacing_all_of("web:1");
    world.west.cluster("prod").put_service(make(service.with_successes_older_than_90_days()));
}

fn deny(world: &World<'_>, action: Action) {
    put_rolled_back_service(world, |it| it);
    world.ecs.fault(Fault::on(action).access_denied());
}

fn deregistrations(world: &World<'_>) -> usize {
    world.ecs.calls_of(Action::DeregisterTaskDefinition).len()
}

/// Waits until the row reports unknown usage, and then for two more usage scans.
async fn wait_unknown(world: &World<'_>, what: &str) {
    let is_unknown = |seen: &Seen| ["Unavailable", "AccessDenied"].contains(&seen.reason("web:1"));
    world.wait_for("web", what, TIMEOUT, is_unknown).await;
    let scans = world.ecs.calls_of(Action::ListClusters).len();
    world.ecs.wait_for_calls(Action::ListClusters, scans + 2, TIMEOUT).await;
}

#[tokio::test]
async fn unresolved_reference_never_counts_as_unused() {
    let runs = UNRESOLVED.map(|(what, prepare)| async move {
        let world = World::new().await;
        world.west.register_many("web", 2);
        prepare(&world);
        world.declare("web", &["web:1"]).await;
        let _controller = world.start();
        wait_unknown(&world, what).await;
        assert_eq!(deregistrations(&world), 0, "{what}");

        world.ecs.clear_faults();
        world.west.cluster("prod").remove();
        world.wait_for("web", "Ready=True", TIMEOUT, |seen| seen.ready() == "True").await;
    });
    join_all(runs).await;
}

/// Fills a cluster so that a usage scan makes every possible call. Nothing in the cluster uses
/// web:1.
fn fill(cluster: &Cluster) {
    cluster.put_service(Service::steady("shop", "other:2").replacing_all_of("other:1"));
    cluster.put_task(Task::running("a1", "other:1"));
}

#[tokio::test]
async fn usage_scan_skips_a_cluster_that_disappears_at_any_call() {
    let at = SCAN.into_iter().flat_map(|action| [(action, Vanished::NotFound), (action, Vanished::Inactive)]);
    let runs = at.map(|(action, vanished)| async move {
        let world = World::new().await;
        world.west.register_many("web", 2);
        let cluster = world.west.cluster("gone");
        fill(&cluster);
        world.west.cluster("prod").put_task(Task::running("b1", "web:2"));
        world.ecs.before(action, 1, async move { cluster.vanish(vanished) });
        world.declare("web", &["web:1", "web:2"]).await;
        let _controller = world.start();
        let is_end = |seen: &Seen| {
            assert!(seen.condition("Stalled").is_none(), "{action:?}, {vanished:?}: {seen}");
            seen.reason("web:1") == "Retired" && seen.reason("web:2") == "InUse"
        };
        world.wait_for("web", &format!("end, {action:?}, {vanished:?}"), TIMEOUT, is_end).await;
        assert_eq!(deregistrations(&world), 1, "{action:?}, {vanished:?}");
    });
    join_all(runs).await;
}
