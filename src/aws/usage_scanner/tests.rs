//! What scans find, and how they fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_config::retry::RetryConfig;
use futures::FutureExt;
use k8s_openapi::jiff::Timestamp;
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

const REGION: &str = "us-west-2";

/// An account of one cluster, `prod`.
pub(super) fn account() -> (SimulatedEcs, Cluster) {
    let began = Instant::now();
    let ecs = SimulatedEcs::in_process(move || Timestamp::UNIX_EPOCH + began.elapsed());
    let cluster = ecs.region(ACCOUNT, REGION).cluster("prod");
    (ecs, cluster)
}

pub(super) fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
    arn
}

pub(super) async fn scan_by(transport: in_process::Transport) -> Result<Found, Failure> {
    scanner(transport).scan().await
}

fn scanner(transport: in_process::Transport) -> UsageScanner {
    let config = in_process::config(REGION, transport).to_builder();
    UsageScanner::new(&config.retry_config(RetryConfig::disabled()).build())
}

pub(super) async fn scan(ecs: &SimulatedEcs) -> Result<Found, Failure> {
    scan_by(ecs.transport()).await
}

/// What is known after a scan.
fn scanned(found: Result<Found, Failure>) -> Scan {
    let now = Instant::now();
    Scan::new(now, (now, Some(Timestamp::UNIX_EPOCH)), found, None)
}

/// What a scan says about a revision.
pub(super) fn usage(found: Result<Found, Failure>, revision: &str) -> Use {
    scanned(found).of(&arn(revision), Purpose::Report, Instant::now()).expect("it is fresh")
}

/// Why the usage of a revision is unknown.
pub(super) fn unknown(found: Result<Found, Failure>, revision: &str) -> Failure {
    match usage(found, revision) {
        Use::Unknown(failure) => failure,
        other => panic!("{revision}: {other:?}"),
    }
}

/// Who uses a revision.
pub(super) async fn users(ecs: &SimulatedEcs, revision: &str) -> Vec<String> {
    let found = Ok(scan(ecs).await.expect("a scan"));
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
async fn a_service_uses_what_it_runs_deploys_leaves_rolls_back_to_and_has_task_sets_of() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::steady("steady", "web:1"));
    assert_eq!(users(&ecs, "web:1").await, ["service/prod/steady"]);
    assert_eq!(count(&ecs, Action::ListServiceDeployments), 0, "its only deployment is completed");
    cluster.put_service(Service::steady("sets", "web:2").with_task_set("web:3"));
    assert_eq!(users(&ecs, "web:3").await, ["service/prod/sets"]);
    assert_eq!(count(&ecs, Action::ListServiceDeployments), 0, "task sets are shown");
    cluster.put_service(Service::steady("deploying", "web:5").deploying_from("web:4"));
    cluster.put_service(Service::steady("failing", "web:7").rolling_back_to("web:6"));
    for (revision, service) in
        [("web:4", "deploying"), ("web:5", "deploying"), ("web:6", "failing"), ("web:7", "failing")]
    {
        assert_eq!(users(&ecs, revision).await, [format!("service/prod/{service}")], "{revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_deployed_before_the_last_success_is_in_no_use() {
    let (ecs, cluster) = account();
    let service = Service::steady("shop", "web:3").deploying_from("web:2").deployed_before("web:1");
    cluster.put_service(service);
    assert_eq!(users(&ecs, "web:1").await, [""; 0]);
    assert_eq!(users(&ecs, "web:2").await, ["service/prod/shop"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_deleted_while_one_looks_uses_nothing() {
    let (ecs, cluster) = account();
    cluster.put_service(Service::steady("shop", "web:1"));
    let meanwhile = cluster.clone();
    ecs.before(Action::DescribeServices, 1, async move {
        meanwhile.put_service(Service::steady("shop", "web:1").inactive());
    });
    assert_eq!(users(&ecs, "web:1").await, [""; 0], "shown for a while");

    cluster.put_service(Service::steady("shop", "web:1"));
    ecs.before(Action::DescribeServices, 1, async move { cluster.remove_service("shop") });
    assert_eq!(users(&ecs, "web:1").await, [""; 0], "gone");
}

#[tokio::test(start_paused = true)]
async fn a_task_uses_its_revision_until_it_has_stopped() {
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
async fn all_pages_of_all_clusters_are_read_and_at_half_of_the_rate_of_ecs() {
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
    let found = Ok(scan(&ecs).await.expect("a scan"));
    // 121 + 2 times 122 lists of tasks beside 123 descriptions, at 10 a second.
    let took = began.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_mins(1)).contains(&took), "{took:?}");
    let throttled = ecs.calls().iter().filter(|call| call.outcome.error_code().is_some()).count();
    assert_eq!(throttled, 0);
    let scan = scanned(found);
    for revision in ["web:1", "web:121", "api:1", "api:220", "job:1", "job:220"] {
        let shown = scan.of(&arn(revision), Purpose::Report, Instant::now());
        assert!(matches!(shown, Some(Use::InUse(_))), "{revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_may_pass_is_tried_three_times() {
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
    let failure = scan(&ecs).await.expect_err("never answered");
    assert_eq!((failure.kind, count(&ecs, Action::ListTasks)), (FailureKind::Unavailable, 3));
    assert!(failure.message.starts_with("ecs:ListTasks: "), "{}", failure.message);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_scan_at_once_and_is_of_no_revision() {
    let (ecs, cluster) = account();
    cluster.put_task(Task::running("a", "web:1"));
    ecs.fault(Fault::on(Action::DescribeTasks).times(1).access_denied());
    let failure = scan(&ecs).await.expect_err("refused");
    assert_eq!((failure.kind, count(&ecs, Action::DescribeTasks)), (FailureKind::AccessDenied, 1));
    ecs.fault(
        Fault::on(Action::DescribeTasks).error("ClientException", "Unable to describe task definition."),
    );
    let failure = scan(&ecs).await.expect_err("refused");
    assert_eq!(failure.kind, FailureKind::Refused, "and not that a revision is not there");
}

/// A scan of an account where ECS answers the calls of one action with `answers`, one after another, and then as ever.
pub(super) async fn scan_with(
    service: Service,
    action: &'static str,
    answers: Vec<Value>,
) -> Result<Found, Failure> {
    let (ecs, cluster) = account();
    cluster.put_service(service);
    scan_by(answering(ecs.transport(), action, answers)).await
}

/// Answers the calls of one action with `answers`, one after another, and then as `carry` does.
pub(super) fn answering(
    carry: in_process::Transport,
    action: &'static str,
    answers: Vec<Value>,
) -> in_process::Transport {
    let answers = Arc::new(Mutex::new(answers));
    Arc::new(move |sent| {
        let target = sent.headers.get("x-amz-target").and_then(|it| it.to_str().ok()).unwrap_or_default();
        let mut answers = answers.lock().expect("a list");
        if !target.ends_with(action) || answers.is_empty() {
            return carry(sent);
        }
        let body = answers.remove(0).to_string();
        async move { Some(Received { status: 200, headers: Vec::new(), body }) }.boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn usage_scan_fails_if_a_list_repeats_a_page_or_is_missing() {
    let steady = || Service::steady("shop", "web:1");
    let page = || json!({ "clusterArns": [], "nextToken": "again" });
    for (answers, text) in [
        (vec![page(), page()], "ecs:ListClusters: the same page came twice"),
        (vec![json!({})], "ecs:ListClusters: the answer has no list"),
    ] {
        let failure = scan_with(steady(), "ListClusters", answers).await.expect_err("unclear");
        assert_eq!(failure, Failure::new(FailureKind::Unavailable, text));
    }
    for action in ["ListServices", "ListTasks"] {
        scan_with(steady(), action, vec![json!({})]).await.expect_err("unclear");
    }
    let empty = json!({ "clusterArns": [], "nextToken": "" });
    scan_with(steady(), "ListClusters", vec![page(), empty]).await.expect("an empty token is none");
}

#[tokio::test(start_paused = true)]
async fn vanished_cluster_has_no_users_once_two_scans_in_a_row_have_found_it_gone() {
    for vanished in [Vanished::NotFound, Vanished::Inactive] {
        let (ecs, prod) = account();
        prod.put_task(Task::running("a", "web:1"));
        let gone = ecs.region(ACCOUNT, REGION).cluster("gone");
        let mut scanner = scanner(ecs.transport());
        let mut scan = async || scanner.scan().await;

        gone.vanish(vanished);
        let first = unknown(scan().await, "web:2");
        assert_eq!(first.kind, FailureKind::Unavailable);
        assert!(first.message.starts_with("cluster/gone: ecs:ListServices: "), "{}", first.message);
        assert!(matches!(usage(scan().await, "web:2"), Use::Unused { .. }));
        assert!(matches!(usage(scan().await, "web:1"), Use::InUse(_)), "in another cluster");

        gone.put_task(Task::running("b", "web:2"));
        assert!(matches!(usage(scan().await, "web:2"), Use::InUse(_)), "created again under the same name");
        gone.vanish(vanished);
        unknown(scan().await, "web:2");
        assert!(matches!(usage(scan().await, "web:2"), Use::Unused { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_that_vanishes_during_a_scan_leaves_usage_unknown_until_the_next_scan() {
    for action in [
        Action::ListServices,
        Action::DescribeServices,
        Action::ListServiceDeployments,
        Action::ListTasks,
        Action::DescribeTasks,
    ] {
        let (ecs, prod) = account();
        prod.put_service(Service::steady("shop", "web:2").deploying_from("web:1"));
        prod.put_task(Task::running("a", "web:1"));
        let meanwhile = prod.clone();
        ecs.before(action, 1, async move { meanwhile.vanish(Vanished::NotFound) });
        let mut scanner = scanner(ecs.transport());
        assert_eq!(unknown(scanner.scan().await, "web:9").kind, FailureKind::Unavailable, "{action:?}");
        assert!(matches!(usage(scanner.scan().await, "web:1"), Use::Unused { .. }), "{action:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_failures_of_a_cluster_do_not_count_as_gone() {
    let (ecs, prod) = account();
    let mut scanner = scanner(ecs.transport());
    prod.vanish(Vanished::NotFound);
    unknown(scanner.scan().await, "web:1");
    ecs.fault(Fault::on(Action::ListServices).times(3).server_error());
    scanner.scan().await.expect_err("a failure");
    let failure = unknown(scanner.scan().await, "web:1");
    assert!(failure.message.contains("ClusterNotFoundException"), "{}", failure.message);
    assert!(matches!(usage(scanner.scan().await, "web:1"), Use::Unused { .. }));
}
