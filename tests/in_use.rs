//! Revisions in use wait: every user is found and named, and the end of use needs no action.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Fault, Service, Task};

use crate::support::World;

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Within what time the end of use, or of a refusal, is noticed. Scans are a minute apart.
pub const NOTICED: Duration = Duration::from_secs(90);

const SCANS: [Action; 8] = [
    Action::ListClusters,
    Action::ListServices,
    Action::DescribeServices,
    Action::ListTasks,
    Action::DescribeTasks,
    Action::ListServiceDeployments,
    Action::DescribeServiceDeployments,
    Action::DescribeServiceRevisions,
];

/// Returns the number of usage scan calls by action.
fn scan_calls(world: &World<'_>) -> Vec<(&'static str, usize)> {
    SCANS.iter().map(|action| (action.name(), world.ecs.calls_of(*action).len())).collect()
}

pub async fn wait_in_use(world: &World<'_>, name: &str) -> crate::support::Seen {
    world.wait_for(name, "InUse", NOTICED, |seen| seen.is_current() && seen.ready_reason() == "InUse").await
}

#[tokio::test]
async fn every_kind_of_user_prevents_the_retirement_and_is_named() {
    let world = World::new().await;
    world.west.register_many("web", 12);
    let prod = world.west.cluster("prod");
    prod.put_service(Service::steady("steady", "web:1"));
    prod.put_service(Service::steady("idle", "web:2").desired_count(0));
    prod.put_service(Service::steady("deploying", "web:20").deploying_from("web:3"));
    prod.put_service(Service::steady("blue-green", "web:20").with_task_set("web:4"));
    prod.put_service(Service::steady("failing", "web:20").rolling_back_to("web:5"));
    prod.put_service(
        Service::steady("may-fail", "web:20").deploying_from("web:21").deployed_before("web:12"),
    );
    let batch = world.west.cluster("batch");
    batch.put_task(Task::running("a1", "web:6"));
    batch.put_task(Task::pending("a2", "web:7"));
    batch.put_task(Task::stopping("a3", "web:8"));
    batch.put_task(Task::running("a4", "web:9").of_service("gone"));
    // Stopped tasks and deleted services are not usage.
    batch.put_task(Task::stopped("a5", "web:10"));
    prod.put_service(Service::steady("deleted", "web:11").inactive());
    let declared: Vec<String> = (1..=12).map(|number| format!("web:{number}")).collect();
    world.declare("web", &declared.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let _controller = world.start();
    let seen = world
        .wait("web", "three retired and nine in use", |seen| {
            seen.number("retired") == 3
                && seen.ready_reason() == "InUse"
                && !seen.ready_message().contains("Pending")
                && (1..=9).all(|number| seen.reason(&format!("web:{number}")) == "InUse")
        })
        .await;
    let users = [
        "service/prod/steady",
        "service/prod/idle",
        "service/prod/deploying",
        "service/prod/blue-green",
        "service/prod/failing",
        "task/batch/a1",
        "task/batch/a2",
        "task/batch/a3",
        "service/batch/gone",
    ];
    for (number, user) in (1..).zip(users) {
        let revision = format!("web:{number}");
        assert_eq!(seen.row(&revision)["usedBy"], json!([user]), "{revision}: {seen}");
        assert_eq!(seen.row(&revision)["status"], "ACTIVE");
    }
    assert_eq!(seen.message("web:1"), "in use by 1 service or task");
    assert!(seen.ready_message().contains("in use by 1 service or task: service/prod/steady"), "{seen}");
    for revision in ["web:10", "web:11", "web:12"] {
        assert_eq!(seen.reason(revision), "Retired", "{seen}");
        assert_eq!(seen.row(revision)["usedBy"], Value::Null);
    }
    assert!(seen.condition("Reconciling").is_some(), "it is making progress: {seen}");
    let called: Vec<_> =
        world.ecs.calls_of(DEREGISTER).into_iter().filter_map(|call| call.task_definition).collect();
    assert_eq!(called.len(), 3, "{called:?}");
}

#[tokio::test]
async fn row_names_five_users_and_counts_the_rest() {
    let world = World::new().await;
    world.west.register("web");
    let cluster = world.west.cluster("prod");
    for id in ["a", "b", "c", "d", "e", "f"] {
        cluster.put_task(Task::running(id, "web:1"));
    }
    cluster.put_service(Service::steady("web", "web:1"));
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();
    let seen = wait_in_use(&world, "web").await;
    let named = ["service/prod/web", "task/prod/a", "task/prod/b", "task/prod/c", "task/prod/d"];
    assert_eq!(seen.row("web:1")["usedBy"], json!(named));
    assert_eq!(seen.message("web:1"), "in use by 7 services or tasks");
    assert!(seen.ready_message().ends_with("in use by 7 services or tasks: service/prod/web, ..."), "{seen}");
}

#[tokio::test]
async fn usage_scan_reads_every_page_of_a_large_account_once_for_fifty_resources() {
    let world = World::new().await;
    world.west.register_many("web", 50);
    for cluster in ["first", "second", "third"] {
        let cluster = world.west.cluster(cluster);
        for number in 1..=84 {
            cluster.put_service(Service::steady(&format!("service-{number:02}"), "other:1"));
        }
        for number in 1..=120 {
            cluster.put_task(Task::running(&format!("task-{number:03}"), "other:1"));
        }
    }
    let last = world.west.cluster("third");
    for number in 1..=50 {
        last.put_task(Task::running(&format!("z-{number:02}"), &format!("web:{number}")));
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let _controller = world.start();
    for number in 1..=50 {
        let seen = wait_in_use(&world, &format!("web-{number}")).await;
        let user = format!("task/third/z-{number:02}");
        assert_eq!(seen.row(&format!("web:{number}"))["usedBy"], json!([user]));
    }
    let expected = [
        ("ListClusters", 1),
        // Each cluster once more for the services that ECS manages.
        ("ListServices", 6),
        ("DescribeServices", 27),
        // RUNNING on two pages, STOPPED on one.
        ("ListTasks", 9),
        ("DescribeTasks", 6),
        ("ListServiceDeployments", 0),
        ("DescribeServiceDeployments", 0),
        ("DescribeServiceRevisions", 0),
    ];
    assert_eq!(scan_calls(&world), expected);
    let describes = world.ecs.calls_of(Action::DescribeTaskDefinition).len();
    assert!(
        describes <= 100,
        "{describes}: one each, and one more for resources declared before the end of the scan"
    );
}

#[tokio::test]
async fn usage_is_unknown_if_any_call_of_the_scan_fails() {
    for action in SCANS {
        let world = World::new().await;
        world.west.register("web");
        let cluster = world.west.cluster("prod");
        let failing = Service::steady("failing", "other:2").rolling_back_to("other:1");
        cluster.put_service(failing.with_successes_older_than_90_days());
        for number in 1..=100 {
            cluster.put_task(Task::running(&format!("task-{number}"), "other:1"));
        }
        cluster.put_task(Task::stopping("task-101", "other:1"));
        let nth = if [Action::ListTasks, Action::DescribeTasks].contains(&action) { 2 } else { 1 };
        // The calls of later scans fail, too.
        for nth in nth..nth + 100 {
            world.ecs.fault(Fault::on(action).nth(nth).access_denied());
        }
        world.declare("web", &["web:1"]).await;
        let _controller = world.start();
        let seen = world.wait_until_blocked("web").await;
        assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
        let message = seen.message("web:1");
        assert!(message.starts_with("usage unknown: "), "{message}");
        for part in
            [&format!("ecs:{}", action.name()), "AccessDeniedException", "is not authorized to perform"]
        {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 0);
        world.ecs.clear_faults();
        // The next scan succeeds without a change to the resource.
        world.wait_for("web", "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
    }
}

#[tokio::test]
async fn retired_suspended_and_missing_revisions_cause_no_usage_scan() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.set_status("web:1", testkit::simulated_ecs::Status::Inactive);
    world.declare("retired", &["web:1"]).await;
    world.declare("missing", &["web:9"]).await;
    let spec = json!({ "revisions": ["web:2"], "suspend": true });
    world.apply("suspended", spec).await.expect("admitted");
    let _controller = world.start();
    world.wait_ready("retired").await;
    world.wait_until_blocked("missing").await;
    world.wait("suspended", "Suspended", |seen| seen.ready_reason() == "Suspended").await;
    assert!(scan_calls(&world).iter().all(|(_, calls)| *calls == 0), "{:?}", scan_calls(&world));
}

#[tokio::test]
async fn dry_run_reports_the_users_of_a_revision_and_is_final() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.cluster("prod").put_service(Service::steady("web", "web:1"));
    let spec = json!({ "revisions": ["web:1", "web:2"], "dryRun": true });
    world.apply("web", spec).await.expect("admitted");
    let _controller = world.start();
    let seen = world
        .wait("web", "DryRun", |seen| seen.reason("web:1") == "DryRun" && seen.reason("web:2") == "DryRun")
        .await;
    assert_eq!(seen.row("web:1")["usedBy"], json!(["service/prod/web"]));
    let message =
        "dry run: would be deregistered without spec.dryRun, but not yet: in use by 1 service or task";
    assert_eq!(seen.message("web:1"), message);
    assert_eq!(seen.message("web:2"), "dry run: would be deregistered without spec.dryRun");
    world.wait_until_all_is_seen().await;
    assert_eq!(world.ecs.calls_of(Action::ListClusters).len(), 1);
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1, "only for the fence");
}

#[tokio::test]
async fn usage_known_of_one_account_is_not_applied_to_another() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    let other = world.ecs.region("999999999999", "us-west-2");
    other.register_many("web", 2);
    other.cluster("prod").put_service(Service::steady("web", "web:2"));
    world.ecs.set_account("AKIAOTHERACCOUNT", "999999999999");
    let folder = testkit::process::Folder::create().expect("a folder");
    let file = folder.join("credentials");
    let write = |key: &str| {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n");
        std::fs::write(&file, text).expect("the file can be written");
    };
    write(testkit::simulated_ecs::ACCESS_KEY);
    let path = file.display().to_string();
    world.declare("first", &["web:1"]).await;
    let _controller = world.start_with(&[
        ("AWS_SHARED_CREDENTIALS_FILE", path.as_str()),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ]);
    world.wait_ready("first").await;

    // The identity is unknown for a moment, and then it belongs to another account.
    std::fs::remove_file(&file).expect("it can be removed");
    world.declare("unidentified", &["web:1"]).await;
    world.wait_until_blocked("unidentified").await;
    write("AKIAOTHERACCOUNT");
    world.declare("second", &["web:2"]).await;
    let seen = wait_in_use(&world, "second").await;
    assert_eq!(seen.text("account"), "999999999999");
    assert_eq!(seen.row("web:2")["usedBy"], json!(["service/prod/web"]));
    assert_eq!(other.status("web:2"), Some(testkit::simulated_ecs::Status::Active));
}
