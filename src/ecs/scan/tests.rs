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
    ACCOUNT, Action, Cluster, Fault, Service, SimulatedEcs, Task,
    in_process::{self, Received},
};

use super::*;
use crate::{
    ecs::{
        freshness::Purpose,
        usage::{Scan, Use},
    },
    task_definition::{Arn, Reference},
};

const REGION: &str = "us-west-2";

/// An account of one cluster, `prod`.
fn account() -> (SimulatedEcs, Cluster) {
    let began = Instant::now();
    let ecs = SimulatedEcs::in_process(move || Timestamp::UNIX_EPOCH + began.elapsed());
    let cluster = ecs.region(ACCOUNT, REGION).cluster("prod");
    (ecs, cluster)
}

fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
    arn
}

async fn scan_by(transport: in_process::Transport) -> Result<Found, Failure> {
    let config = in_process::config(REGION, transport).to_builder();
    Scanner::new(&config.retry_config(RetryConfig::disabled()).build()).scan().await
}

async fn scan(ecs: &SimulatedEcs) -> Result<Found, Failure> {
    scan_by(ecs.transport()).await
}

/// What is known after a scan.
fn scanned(found: Result<Found, Failure>) -> Scan {
    let now = Instant::now();
    Scan::new(now, (now, Some(Timestamp::UNIX_EPOCH)), found, None)
}

/// Who uses a revision.
async fn users(ecs: &SimulatedEcs, revision: &str) -> Vec<String> {
    let found = Ok(scan(ecs).await.expect("a scan"));
    match scanned(found).of(&arn(revision), Purpose::Report, Instant::now()).expect("it is fresh") {
        Use::By(users) => users.named.iter().map(ToString::to_string).collect(),
        Use::Nobody { .. } => Vec::new(),
        Use::Unknown(failure) => panic!("{failure:?}"),
    }
}

fn count(ecs: &SimulatedEcs, action: Action) -> usize {
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
        assert!(matches!(shown, Some(Use::By(_))), "{revision}");
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
async fn scan_with(action: &'static str, answers: Vec<Value>) -> Result<Found, Failure> {
    let (ecs, cluster) = account();
    cluster.put_service(Service::steady("shop", "web:1"));
    let (carry, answers) = (ecs.transport(), Arc::new(Mutex::new(answers)));
    let transport: in_process::Transport = Arc::new(move |sent| {
        let target = sent.headers.get("x-amz-target").and_then(|it| it.to_str().ok()).unwrap_or_default();
        let mut answers = answers.lock().expect("a list");
        if !target.ends_with(action) || answers.is_empty() {
            return carry(sent);
        }
        let body = answers.remove(0).to_string();
        async move { Some(Received { status: 200, headers: Vec::new(), body }) }.boxed()
    });
    scan_by(transport).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_whole_is_none() {
    let page = || json!({ "clusterArns": [], "nextToken": "again" });
    let failure = scan_with("ListClusters", vec![page(), page()]).await.expect_err("for ever");
    assert_eq!(failure.message, "ecs:ListClusters: the same page came twice");
    scan_with("ListClusters", vec![page(), json!({ "clusterArns": [], "nextToken": "" })])
        .await
        .expect("an empty token is none");

    let failures = json!([{ "arn": "shop", "reason": "BUSY" }]);
    let busy = scan_with("DescribeServices", vec![json!({ "services": [], "failures": failures })]);
    assert_eq!(busy.await.expect_err("not told").message, "ecs:DescribeServices: shop: BUSY");

    let other = json!({ "services": [{ "serviceArn": "service/prod/other", "serviceName": "other" }] });
    let failure = scan_with("DescribeServices", vec![other]).await.expect_err("of another");
    assert!(
        failure.message.starts_with("ecs:DescribeServices: nothing was answered of arn:"),
        "{}",
        failure.message
    );
    assert_eq!(failure.kind, FailureKind::Refused);
}
