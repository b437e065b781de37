//! Tests of the resolved and unresolved references of services and tasks in usage scans.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Fault, Service, SimulatedEcs, Task};

use tokio::time::Instant;

use crate::aws::{
    freshness::Purpose,
    response::{Failure, FailureKind},
    response_clock::Bounds,
    usage::{Found, Scan, Use, User},
    usage_scanner::tests::{account, arn, responding, scan, scan_by, scan_with, unknown, usage, users},
};

mod in_progress;

/// Asserts that a scan leaves the usage of revisions without users unknown for a transient reason,
/// and returns its message.
async fn unresolved(ecs: &SimulatedEcs) -> String {
    let failure = unknown(scan(ecs).await, "unrelated:1");
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure:?}");
    failure.message
}

/// Returns a service whose description names only web:2, and which would be rolled back to web:1.
fn deploying() -> Service {
    Service::steady("shop", "web:2").replacing_all_of("web:1")
}

#[tokio::test(start_paused = true)]
async fn rollback_target_is_in_use_regardless_of_its_age() {
    for service in [deploying(), Service::steady("shop", "web:2").rolling_back_to("web:1")] {
        for service in [service.clone(), service.with_successes_older_than_90_days()] {
            let (ecs, cluster) = account();
            cluster.put_service(service);
            assert_eq!(users(&ecs, "web:1").await, ["service/prod/shop"]);
            assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
            assert_eq!(users(&ecs, "web:3").await, [""; 0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn both_revisions_are_in_use_during_a_deployment_with_any_strategy() {
    for strategy in ["BLUE_GREEN", "LINEAR", "CANARY", "NEW"] {
        let (ecs, cluster) = account();
        cluster.put_service(Service::steady("shop", "web:2").strategy(strategy));
        assert_eq!(users(&ecs, "web:1").await, [""; 0]);
        assert_eq!(
            ecs.calls_of(Action::ListServiceDeployments).len(),
            1,
            "rolloutState applies to rolling deployments only"
        );
        cluster.put_service(deploying().strategy(strategy));
        assert_eq!(users(&ecs, "web:1").await, ["service/prod/shop"]);
    }
}

#[tokio::test(start_paused = true)]
async fn first_deployment_replaces_nothing() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::first_deployment("shop", "web:2"));
    assert_eq!(users(&ecs, "web:1").await, [""; 0]);
    assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
}

#[tokio::test(start_paused = true)]
async fn service_revision_that_is_missing_leaves_usage_unknown() {
    let (ecs, cluster) = account();
    cluster.put_service(deploying().without_service_revision("web:1"));
    let message = unresolved(&ecs).await;
    assert!(message.starts_with("service/prod/shop: ecs:DescribeServiceDeployments: arn:"), "{message}");
    assert!(message.contains(":service-revision/prod/shop/") && message.ends_with(": MISSING"), "{message}");
    assert!(matches!(usage(scan(&ecs).await, "web:2"), Use::InUse(_)), "a revision with a known user");

    cluster.put_service(Service::express("shop", "web:2").without_service_revision("web:2"));
    let message = unresolved(&ecs).await;
    assert!(message.starts_with("service/prod/shop: ecs:DescribeServiceRevisions: arn:"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn express_mode_service_uses_its_current_and_replaced_service_revisions() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::express("shop", "web:2"));
    assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
    assert_eq!(users(&ecs, "web:1").await, [""; 0]);
    cluster.put_service(Service::express("shop", "web:2").replacing_all_of("web:1"));
    assert_eq!(users(&ecs, "web:1").await, ["service/prod/shop"]);
}

#[tokio::test(start_paused = true)]
async fn external_service_uses_the_revisions_of_its_task_sets() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::external("shop", "web:2").desired_count(0));
    assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
    assert_eq!(users(&ecs, "web:1").await, [""; 0]);
}

/// Returns a response of `DescribeServices` for the service of [`scan_with`], with these fields.
fn shop(fields: &Value) -> Value {
    let arn = "arn:aws:ecs:us-west-2:012345678910:service/prod/shop";
    let mut service = json!({ "serviceArn": arn, "serviceName": "shop", "status": "ACTIVE" });
    for (name, value) in fields.as_object().into_iter().flatten() {
        service[name] = value.clone();
    }
    json!({ "services": [service], "failures": [] })
}

/// Returns the usage after a scan in which ECS returns `response` to each call of `action`. Returns
/// the message if usage is unknown.
async fn usage_with(service: Service, action: &'static str, response: &Value) -> Result<Use, String> {
    let found = scan_with(service, action, vec![response.clone(); 3]).await;
    match usage(found, "unrelated:1") {
        Use::Unknown(failure) => {
            assert_eq!(failure.kind, FailureKind::Unavailable);
            Err(failure.message)
        }
        known => Ok(known),
    }
}

#[tokio::test(start_paused = true)]
async fn service_with_an_unexpected_description_is_unresolved() {
    let web = "arn:aws:ecs:us-west-2:012345678910:task-definition/web:1";
    let completed = json!([{ "status": "PRIMARY", "rolloutState": "COMPLETED", "taskDefinition": web }]);
    let unnamed = json!([{ "status": "PRIMARY", "rolloutState": "COMPLETED" }]);
    let external = json!({ "type": "EXTERNAL" });
    let steady = || Service::steady("shop", "web:1");
    for response in [
        json!({}),
        json!({ "services": [], "failures": [{ "arn": "shop", "reason": "BUSY" }] }),
        json!({ "services": [{ "serviceName": "shop", "taskDefinition": web }] }),
        json!({ "services": [{ "serviceArn": "service/prod/other", "taskDefinition": web }] }),
        shop(&json!({ "deployments": [] })),
        shop(&json!({ "deployments": unnamed })),
        shop(&json!({ "taskDefinition": web, "deployments": unnamed })),
        shop(&json!({ "taskDefinition": "web", "deployments": completed })),
        shop(&json!({ "currentServiceRevisions": [{}], "deployments": completed })),
        shop(&json!({ "taskDefinition": web, "deploymentController": { "type": "NEW" } })),
        shop(&json!({ "deploymentController": external })),
        shop(&json!({ "deploymentController": external, "taskSets": [{ "status": "ACTIVE" }] })),
    ] {
        let message = usage_with(steady(), "DescribeServices", &response).await.expect_err("unresolved");
        assert!(message.starts_with("service/prod/shop: "), "{response}: {message}");
    }
    for response in [
        shop(&json!({ "taskDefinition": web, "deployments": completed })),
        shop(&json!({ "deployments": completed })),
        shop(&json!({ "deploymentController": external, "taskSets": [] })),
        shop(&json!({ "status": "INACTIVE" })),
    ] {
        let usage = usage_with(steady(), "DescribeServices", &response).await;
        assert!(matches!(usage, Ok(Use::Unused { .. })), "{response}: {usage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn task_without_a_task_definition_is_unresolved() {
    let (ecs, cluster) = account();
    cluster.put_task(Task::running("a", "web:1"));
    for response in [json!({}), json!({ "tasks": [{ "taskArn": "task/prod/a", "lastStatus": "RUNNING" }] })] {
        let task = response.clone();
        let transport = responding(ecs.transport(), "DescribeTasks", vec![task]);
        let failure = unknown(scan_by(transport).await, "unrelated:1");
        assert!(failure.message.starts_with("task/prod/a: "), "{response}: {}", failure.message);
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_is_deleted_or_deployed_meanwhile_is_described_again() {
    for action in
        [Action::ListServiceDeployments, Action::DescribeServiceDeployments, Action::DescribeServiceRevisions]
    {
        let (ecs, cluster) = account();
        cluster.put_service(deploying());
        let meanwhile = cluster.clone();
        ecs.before(action, 1, async move { meanwhile.remove_service("shop") });
        assert_eq!(users(&ecs, "web:1").await, [""; 0], "deleted before {action:?}");

        cluster.put_service(deploying().without_service_revision("web:1"));
        let meanwhile = cluster.clone();
        ecs.before(action, 1, async move { meanwhile.put_service(Service::steady("shop", "web:2")) });
        assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
    }
}

#[tokio::test(start_paused = true)]
async fn denied_description_of_deployments_affects_only_services_that_need_it() {
    let (ecs, cluster) = account();
    ecs.fault(Fault::on(Action::DescribeServiceDeployments).access_denied());
    cluster.put_service(deploying());
    assert_eq!(users(&ecs, "web:1").await, ["service/prod/shop"], "the list contains it");
    assert_eq!(users(&ecs, "web:3").await, [""; 0]);

    cluster.put_service(deploying().with_successes_older_than_90_days());
    let failure = unknown(scan(&ecs).await, "web:3");
    assert_eq!(failure.kind, FailureKind::AccessDenied);
    let start = "service/prod/shop: ecs:DescribeServiceDeployments: AccessDeniedException: ";
    assert!(failure.message.starts_with(start), "{}", failure.message);
    assert!(matches!(usage(scan(&ecs).await, "web:2"), Use::InUse(_)));
}

#[test]
fn unresolved_references_make_the_usage_of_revisions_without_users_unknown() {
    let task = |id: &str| User::Task { cluster: "prod".to_owned(), id: id.to_owned() };
    let (mut found, mut complete) = (Found::default(), Found::default());
    for found in [&mut found, &mut complete] {
        found.note(Some("web:3"), &task("a"));
    }
    for unnamed in [None, Some("web"), Some("arn:aws:ecs:us-west-2:012345678910:task-definition/web")] {
        found.note(unnamed, &task("b"));
    }
    found.note_unresolved("task/prod/c".to_owned(), Failure::new(FailureKind::Unavailable, "no"));
    let began = Instant::now();
    let at = Some(Bounds { earliest: Timestamp::UNIX_EPOCH, latest: Timestamp::UNIX_EPOCH });
    let scan = |found, before| Scan::new(began, (began, at), Ok(found), before);
    let of = |scan: &Scan, revision| scan.of(&arn(revision), Purpose::Report, began);
    let first = scan(found, None);
    assert!(matches!(of(&first, "web:3"), Some(Use::InUse(_))));
    let Some(Use::Unknown(failure)) = of(&first, "web:4") else { panic!("not unknown") };
    assert_eq!(failure.kind, FailureKind::Unavailable);
    let text = "task/prod/b: a response without a task definition is not a task definition revision";
    assert_eq!(failure.message, format!("{text} (and others)"));
    assert_eq!(first.retry(), Some(began + Duration::from_secs(5)), "a second scan follows soon");
    assert_eq!(first.scanned_at(), None);
    let second = scan(complete, Some(&first));
    assert!(matches!(of(&second, "web:4"), Some(Use::Unused { .. })));
    assert_eq!((second.retry(), second.scanned_at()), (None, Some(Timestamp::UNIX_EPOCH)));
}

#[test]
fn access_denial_is_reported_before_other_unresolved_references() {
    let mut found = Found::default();
    found.note_unresolved("service/prod/a".to_owned(), Failure::new(FailureKind::Unavailable, "no"));
    found.note_unresolved("service/prod/b".to_owned(), Failure::new(FailureKind::AccessDenied, "denied"));
    let failure = unknown(Ok(found), "web:4");
    assert_eq!(failure, Failure::new(FailureKind::AccessDenied, "service/prod/b: denied (and others)"));
}
