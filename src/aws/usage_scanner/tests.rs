//! Tests of usage scans: the users they find, and their failures.

use std::{sync::Arc, time::Duration};

use aws_config::retry::RetryConfig;
use futures::FutureExt;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::simulated_ecs::{
    ACCOUNT, Action, Cluster, Fault, Service, SimulatedEcs, Task, Vanished,
    in_process::{self, Received},
};
use tokio::time::Instant;

use super::*;
use crate::{
    aws::{
        freshness::Purpose,
        usage::{Scan, Use},
    },
    task_definition::{Arn, Reference},
};

mod clusters;

const REGION: &str = "us-west-2";

/// Returns an account with one cluster, `prod`.
pub(super) fn account() -> (SimulatedEcs, Cluster) {
    let began = Instant::now();
    let ecs = SimulatedEcs::in_process(move || Timestamp::UNIX_EPOCH + began.elapsed());
    let cluster = ecs.region(ACCOUNT, REGION).cluster("prod");
    (ecs, cluster)
}

pub(super) fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("not an ARN") };
    arn
}

pub(super) async fn scan_by(transport: in_process::Transport) -> Result<Found, Failure> {
    scanner(transport).scan().await
}

fn scanner(transport: in_process::Transport) -> UsageScanner {
    let config = in_process::config(REGION, transport).to_builder();
    let ecs = Ecs::new(&config.retry_config(RetryConfig::disabled()).build());
    UsageScanner::new(Arc::new(ecs), Arc::default())
}

pub(super) async fn scan(ecs: &SimulatedEcs) -> Result<Found, Failure> {
    scan_by(ecs.transport()).await
}

/// Returns the usage after a scan.
fn scanned(found: Result<Found, Failure>) -> Scan {
    let now = Instant::now();
    Scan::new(now, (now, None), found, None)
}

/// Returns the usage of a revision after a scan.
pub(super) fn usage(found: Result<Found, Failure>, revision: &str) -> Use {
    scanned(found).of(&arn(revision), Purpose::Report, Instant::now()).expect("result is fresh")
}

/// Returns why the usage of a revision is unknown.
pub(super) fn unknown(found: Result<Found, Failure>, revision: &str) -> Failure {
    match usage(found, revision) {
        Use::Unknown(failure) => failure,
        other => panic!("{revision}: {other:?}"),
    }
}

/// Returns the users of a revision.
pub(super) async fn users(ecs: &SimulatedEcs, revision: &str) -> Vec<String> {
    let found = Ok(scan(ecs).await.expect("scan succeeds"));
    match usage(found, revision) {
        Use::InUse(users) => users.named.iter().map(ToString::to_string).collect(),
        Use::Unused { .. } => Vec::new(),
        Use::Unknown(failure) => panic!("{failure:?}"),
    }
}

pub(super) fn count(ecs: &SimulatedEcs, action: Action) -> usize {
    ecs.calls_of(action).len()
}

#[tokio::test(start_paused = true)]
async fn service_uses_its_current_replaced_rollback_and_task_set_revisions() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::steady("steady", "web:1"));
    assert_eq!(users(&ecs, "web:1").await, ["service/prod/steady"]);
    assert_eq!(count(&ecs, Action::ListServiceDeployments), 0, "its only deployment is completed");
    cluster.put_service(Service::steady("sets", "web:2").with_task_set("web:3"));
    assert_eq!(users(&ecs, "web:3").await, ["service/prod/sets"]);
    assert_eq!(count(&ecs, Action::ListServiceDeployments), 0, "task sets are in the description");
    cluster.put_service(Service::steady("deploying", "web:5").deploying_from("web:4"));
    cluster.put_service(Service::steady("failing", "web:7").rolling_back_to("web:6"));
    for (revision, service) in
        [("web:4", "deploying"), ("web:5", "deploying"), ("web:6", "failing"), ("web:7", "failing")]
    {
        assert_eq!(users(&ecs, revision).await, [format!("service/prod/{service}")], "{revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn revision_deployed_before_the_last_success_is_unused() {
    let (ecs, cluster) = account();
    let service = Service::steady("shop", "web:3").deploying_from("web:2").deployed_before("web:1");
    cluster.put_service(service);
    assert_eq!(users(&ecs, "web:1").await, [""; 0]);
    assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
}

#[tokio::test(start_paused = true)]
async fn service_that_is_deleted_during_a_scan_uses_nothing() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::steady("shop", "web:1"));
    let meanwhile = cluster.clone();
    ecs.before(Action::DescribeServices, 1, async move {
        meanwhile.put_service(Service::steady("shop", "web:1").inactive());
    });
    assert_eq!(users(&ecs, "web:1").await, [""; 0], "still returned by ECS");

    cluster.put_service(Service::steady("shop", "web:1"));
    ecs.before(Action::DescribeServices, 1, async move { cluster.remove_service("shop") });
    assert_eq!(users(&ecs, "web:1").await, [""; 0], "not returned by ECS");
}

#[tokio::test(start_paused = true)]
async fn task_uses_its_revision_until_it_has_stopped() {
    let (ecs, cluster) = account();
    cluster.put_task(Task::running("running", "web:1"));
    cluster.put_task(Task::pending("pending", "web:2"));
    cluster.put_task(Task::stopping("stopping", "web:3"));
    cluster.put_task(Task::stopped("stopped", "web:4"));
    cluster.put_task(Task::deleted("deleted", "web:4"));
    cluster.put_task(Task::running("served", "web:5").of_service("shop"));
    for (revision, user) in [
        ("web:1", "task/prod/running"),
        ("web:2", "task/prod/pending"),
        ("web:3", "task/prod/stopping"),
        ("web:5", "service/prod/shop"),
    ] {
        assert_eq!(users(&ecs, revision).await, [user]);
    }
    assert_eq!(users(&ecs, "web:4").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn scan_reads_all_pages_of_all_clusters_at_half_of_the_rate_of_ecs() {
    let (ecs, _) = account();
    ecs.throttle(1.0);
    for index in 0..120 {
        let cluster = ecs.region(ACCOUNT, REGION).cluster(&format!("c{index:03}"));
        cluster.put_task(Task::running("a", "web:1"));
        cluster.put_task(Task::running("b", &format!("web:{}", index + 2)));
    }
    let busy = ecs.region(ACCOUNT, REGION).cluster("busy");
    for index in 0..220 {
        busy.put_service(Service::steady(&format!("s{index:03}"), &format!("api:{}", index + 1)));
        busy.put_task(Task::running(&format!("t{index:03}"), &format!("job:{}", index + 1)));
    }
    let began = Instant::now();
    let found = Ok(scan(&ecs).await.expect("scan succeeds"));
    // 121 + 2 * 122 ListTasks calls and 123 DescribeTasks calls, at 10 per second.
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_mins(1)).contains(&elapsed), "{elapsed:?}");
    let throttled = ecs.calls().iter().filter(|call| call.outcome.error_code().is_some()).count();
    assert_eq!(throttled, 0);
    let scan = scanned(found);
    for revision in ["web:1", "web:121", "api:1", "api:220", "job:1", "job:220"] {
        let usage = scan.of(&arn(revision), Purpose::Report, Instant::now());
        assert!(matches!(usage, Some(Use::InUse(_))), "{revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_is_attempted_three_times_after_transient_faults() {
    let (ecs, cluster) = account();
    cluster.put_task(Task::running("a", "web:1"));
    for fault in [
        Fault::on(Action::ListTasks).times(2).throttle(),
        Fault::on(Action::ListTasks).times(2).server_error(),
    ] {
        ecs.fault(fault);
        assert_eq!(users(&ecs, "web:1").await, ["task/prod/a"]);
        assert_eq!(count(&ecs, Action::ListTasks), 2 + 2);
        ecs.clear_log();
    }
    ecs.fault(Fault::on(Action::ListTasks).unavailable());
    let failure = scan(&ecs).await.expect_err("ECS never responds");
    assert_eq!((failure.kind, count(&ecs, Action::ListTasks)), (FailureKind::Unavailable, 3));
    assert!(failure.message.starts_with("ecs:ListTasks: "), "{}", failure.message);
}

#[tokio::test(start_paused = true)]
async fn rejected_call_fails_the_scan_at_once_and_is_never_reported_as_absent() {
    let (ecs, cluster) = account();
    cluster.put_task(Task::running("a", "web:1"));
    ecs.fault(Fault::on(Action::DescribeTasks).times(1).access_denied());
    let failure = scan(&ecs).await.expect_err("call is rejected");
    assert_eq!((failure.kind, count(&ecs, Action::DescribeTasks)), (FailureKind::AccessDenied, 1));
    ecs.fault(
        Fault::on(Action::DescribeTasks).error("ClientException", "Unable to describe task definition."),
    );
    let failure = scan(&ecs).await.expect_err("call is rejected");
    assert_eq!(failure.kind, FailureKind::Unavailable, "not Absent, and no person has to act");
}

/// Scans an account with `service`. ECS returns `responses` to the first calls of `action`.
pub(super) async fn scan_with(
    service: Service,
    action: &'static str,
    responses: Vec<Value>,
) -> Result<Found, Failure> {
    let (ecs, cluster) = account();
    cluster.put_service(service);
    scan_by(responding(ecs.transport(), action, responses)).await
}

/// Returns a transport that returns `responses` to the first calls of `action` and otherwise uses
/// `inner`.
pub(super) fn responding(
    inner: in_process::Transport,
    action: &'static str,
    responses: Vec<Value>,
) -> in_process::Transport {
    let responses = Arc::new(Mutex::new(responses));
    Arc::new(move |request| {
        let target = request.headers.get("x-amz-target").and_then(|it| it.to_str().ok()).unwrap_or_default();
        let mut responses = responses.lock();
        if !target.ends_with(action) || responses.is_empty() {
            return inner(request);
        }
        let body = responses.remove(0).to_string();
        async move { Some(Received { status: 200, headers: Vec::new(), body }) }.boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn usage_scan_fails_if_a_list_repeats_a_page_or_is_missing() {
    let steady = || Service::steady("shop", "web:1");
    let page = || json!({ "clusterArns": [], "nextToken": "again" });
    for (responses, text) in [
        (vec![page(), page()], "ecs:ListClusters: the response repeats a pagination token"),
        (vec![json!({})], "ecs:ListClusters: the response has no list"),
    ] {
        let failure =
            scan_with(steady(), "ListClusters", responses).await.expect_err("response is unexpected");
        assert_eq!(failure, Failure::new(FailureKind::Unavailable, text));
    }
    for action in ["ListServices", "ListTasks"] {
        scan_with(steady(), action, vec![json!({})]).await.expect_err("response is unexpected");
    }
    let empty = json!({ "clusterArns": [], "nextToken": "" });
    scan_with(steady(), "ListClusters", vec![page(), empty]).await.expect("an empty token ends the list");
}
