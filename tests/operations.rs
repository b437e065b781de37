//! Operation: metrics, flags, readiness, AWS calls that hang, shutdown and rotated credentials.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{
    process::{Process, free_port},
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Fault, Outcome, Status},
};

use crate::support::{
    DEADLINE, World,
    metrics::{scrape, value},
    page, stop, wait_for_page, wait_for_response,
};

const DESCRIBE: Action = Action::DescribeTaskDefinition;
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Every metric with its labels. Dashboards and alerts depend on them, so changes need a review.
const METRICS: [&str; 34] = [
    "controller_runtime_active_workers{controller}",
    "controller_runtime_max_concurrent_reconciles{controller}",
    "controller_runtime_reconcile_errors_total{controller}",
    "controller_runtime_reconcile_panics_total{controller}",
    "controller_runtime_reconcile_time_seconds{controller}",
    "controller_runtime_reconcile_total{controller,result}",
    "ecs_retirement_aws_call_duration_seconds{operation}",
    "ecs_retirement_aws_calls_total{code,operation}",
    "ecs_retirement_build_info{version}",
    "ecs_retirement_clock_skew_seconds{}",
    "ecs_retirement_oldest_waiting_seconds{}",
    "ecs_retirement_pacer_rate{account,bucket,region}",
    "ecs_retirement_pacer_tokens{account,bucket,region}",
    "ecs_retirement_pacer_waiting{account,bucket,region}",
    "ecs_retirement_resources{condition}",
    "ecs_retirement_revisions{reason}",
    "ecs_retirement_usage_age_seconds{account,region}",
    "ecs_retirement_usage_scan_duration_seconds{account,region}",
    "ecs_retirement_usage_scans_total{account,region,result}",
    "leader_election_master_status{name}",
    "process_cpu_seconds_total{}",
    "process_max_fds{}",
    "process_open_fds{}",
    "process_resident_memory_bytes{}",
    "process_start_time_seconds{}",
    "process_virtual_memory_bytes{}",
    "rest_client_requests_total{code,method}",
    "workqueue_adds_total{name}",
    "workqueue_depth{name}",
    "workqueue_longest_running_processor_seconds{name}",
    "workqueue_queue_duration_seconds{name}",
    "workqueue_retries_total{name}",
    "workqueue_unfinished_work_seconds{name}",
    "workqueue_work_duration_seconds{name}",
];

/// A controller, and the addresses of its metrics and probes.
struct Served {
    process: Process,
    metrics: String,
    probes: String,
}

fn serve(world: &World<'_>, more: &[(&str, &str)]) -> Served {
    let address = || format!("127.0.0.1:{}", free_port().expect("a port"));
    let (metrics, probes) = (address(), address());
    let mut environment =
        vec![("METRICS_BIND_ADDRESS", metrics.as_str()), ("HEALTH_PROBE_BIND_ADDRESS", probes.as_str())];
    environment.extend(more);
    let process = world.start_with(&environment);
    Served { process, metrics: format!("{metrics}/metrics"), probes }
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[tokio::test]
async fn metrics_agree_with_the_calls_that_ecs_received() {
    let world = World::new().await;
    world.west.register_many("web", 7);
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:2").access_denied());
    world.ecs.fault(Fault::on(DESCRIBE).revision("web:3").times(1).throttle());
    world.ecs.fault(Fault::on(DESCRIBE).revision("web:4").times(1).error("SomethingNew", "of AWS"));
    world.declare("web", &["web:1", "web:2", "web:3", "web:4", "web:9"]).await;
    world.declare("done", &["web:5"]).await;
    world.apply("suspended", json!({ "revisions": ["web:6"], "suspend": true })).await.expect("admitted");
    let mut served = serve(&world, &[]);
    world
        .wait("web", "3 retired", |seen| seen.number("retired") == 3 && seen.ready_reason() == "AccessDenied")
        .await;
    world.wait_ready("done").await;
    world.wait("suspended", "Suspended", |seen| seen.ready_reason() == "Suspended").await;

    // Caches lag behind the API server, and a call may be in flight: repeat until all agree.
    let began = Instant::now();
    loop {
        let scrape = scrape(&served.metrics).await;
        let calls = world.ecs.calls();
        let counted = value(&scrape, "ecs_retirement_aws_calls_total", &[]);
        let of = |reason: &str| value(&scrape, "ecs_retirement_revisions", &[("reason", reason)]);
        let expected = [("Retired", 4.0), ("AccessDenied", 1.0), ("NotFound", 1.0), ("Suspended", 1.0)];
        let are_counted = expected.iter().all(|(reason, count)| (of(reason) - count).abs() < 0.5);
        if are_counted && (counted - as_float(calls.len())).abs() < 0.5 {
            for action in [DESCRIBE, DEREGISTER, Action::GetCallerIdentity] {
                let counted =
                    value(&scrape, "ecs_retirement_aws_calls_total", &[("operation", action.name())]);
                let calls = calls.iter().filter(|call| call.action == action).count();
                assert!((counted - as_float(calls)).abs() < 0.5, "{}: {counted} and {calls}", action.name());
            }
            let with = |code: &str| value(&scrape, "ecs_retirement_aws_calls_total", &[("code", code)]);
            assert!(with("AccessDeniedException") >= 1.0 && with("ThrottlingException") >= 1.0);
            assert!(with("Other") >= 1.0, "an unknown code gets no label of its own");
            for (condition, expected) in
                [("Ready", 1.0), ("Stalled", 0.0), ("OnHold", 1.0), ("Reconciling", 1.0)]
            {
                let counted = value(&scrape, "ecs_retirement_resources", &[("condition", condition)]);
                assert!((counted - expected).abs() < 0.5, "{condition}: {counted}");
            }
            assert!((value(&scrape, "leader_election_master_status", &[]) - 1.0).abs() < 0.5);
            assert!(
                value(&scrape, "rest_client_requests_total", &[("method", "PATCH"), ("code", "200")]) >= 6.0
            );
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{counted} and {}: {calls:#?}", calls.len());
    }
    stop(&mut served.process).await;
}

#[tokio::test]
async fn metrics_have_these_names_and_labels() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let served = serve(&world, &[]);
    world.wait_ready("web").await;
    let scrape = scrape(&served.metrics).await;
    let names: BTreeSet<String> = scrape
        .samples
        .iter()
        .map(|sample| {
            let mut labels: Vec<&str> =
                sample.labels.keys().map(String::as_str).filter(|key| *key != "le").collect();
            labels.sort_unstable();
            let name =
                sample.metric.trim_end_matches("_sum").trim_end_matches("_count").trim_end_matches("_bucket");
            format!("{name}{{{}}}", labels.join(","))
        })
        .collect();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), METRICS);
    assert!(scrape.docs.len() >= METRICS.len() - 1, "each has a help text: {:?}", scrape.docs);

    let operations = include_str!("../docs/operations.md");
    for metric in METRICS {
        let name = metric.split('{').next().expect("a name");
        assert!(operations.contains(&format!("`{name}`")), "docs/operations.md does not mention {name}");
    }
}

#[tokio::test]
async fn operations_md_has_the_flags_as_help_prints_them() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
    command.args(["run", "--help"]);
    let output = testkit::process::output(&command, DEADLINE).await.expect("it runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let operations = include_str!("../docs/operations.md");
    assert!(operations.contains(help.trim()), "docs/operations.md must contain this:\n{help}");
}

#[tokio::test]
async fn invalid_flag_value_is_reported_and_exits_with_2() {
    let wrong = [
        ("--leader-elect=perhaps", "perhaps"),
        ("--metrics-bind-address=8080", "8080"),
        ("--health-probe-bind-address=:http", ":http"),
        ("--max-concurrent-reconciles=0", "0"),
        ("--log-level=loud", "loud"),
        ("--log-format=xml", "xml"),
        ("--deregistrations-per-second=0", "0"),
        ("--deregistrations-per-second=-1", "-1"),
        ("--deregistrations-per-second=fast", "fast"),
        ("--deregistration-burst=0", "0"),
    ];
    for (flag, value) in wrong {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
        command.args(["run", flag]);
        let output = testkit::process::output(&command, DEADLINE).await.expect("it runs");
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{flag}: {errors}");
        let name = flag.split('=').next().expect("a name");
        assert!(errors.contains(name) && errors.contains(value), "{flag}: {errors}");
    }
}

#[tokio::test]
async fn readiness_reports_what_is_missing() {
    let world = World::new().await;
    world.ecs.fault(Fault::on(Action::GetCallerIdentity).access_denied());
    let served = serve(&world, &[]);
    wait_for_page(&format!("{}/readyz", served.probes), "ok").await;
    world.declare("web", &["web:1"]).await;
    world.wait("web", "AccessDenied", |seen| seen.ready_reason() == "AccessDenied").await;
    let missing = "AWS identity not known in us-west-2: AccessDenied";
    wait_for_response(&format!("{}/readyz", served.probes), 503, missing).await;
    world.ecs.clear_faults();
    wait_for_page(&format!("{}/readyz", served.probes), "ok").await;
}

#[tokio::test]
async fn hanging_region_delays_no_other_and_recovers_within_10_s() {
    let world = World::new().await;
    world.west.register_many("stuck", 40);
    for number in 1..=40 {
        world.ecs.fault(Fault::on(DESCRIBE).revision(format!("stuck:{number}")).hang());
        world.declare(&format!("stuck-{number}"), &[&format!("stuck:{number}")]).await;
    }
    let east = world.ecs.region(ACCOUNT, "eu-west-1");
    let served = serve(&world, &[("MAX_CONCURRENT_RECONCILES", "4")]);
    world.wait("stuck-1", "Unavailable", |seen| seen.reason("stuck:1") == "Unavailable").await;

    for number in 1..=3 {
        east.register("web");
        let name = format!("east-{number}");
        let spec = json!({ "revisions": [format!("web:{number}")], "region": "eu-west-1" });
        world.apply(&name, spec).await.expect("admitted");
        let began = Instant::now();
        world.wait_ready(&name).await;
        println!("another region, while one hangs: {:.1} s", began.elapsed().as_secs_f64());
        let (status, text) = page(&format!("{}/healthz", served.probes)).await.expect("the page is served");
        assert_eq!((status, text.as_str()), (200, "ok\n"), "each call ends in time");
    }

    world.ecs.clear_faults();
    // A call that hangs already ends after five seconds.
    let hung = world.ecs.calls().into_iter().filter(|call| call.outcome == Outcome::Hung);
    let last_end = hung.map(|call| call.at + Duration::from_secs(5)).max().expect("calls hang");
    let began = last_end.max(Instant::now());
    world.wait_ready("stuck-1").await;
    println!("the first to recover: {:.1} s", began.elapsed().as_secs_f64());
    for number in 1..=40 {
        world.wait_ready(&format!("stuck-{number}")).await;
    }
    println!("the last to recover: {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn sigterm_while_ecs_hangs_ends_the_process_within_25_s() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.fault(Fault::on(DEREGISTER).hang());
    world.declare("web", &["web:1"]).await;
    let mut controller = world.start();
    world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let began = Instant::now();
    stop(&mut controller).await;
    println!("stop on SIGTERM while ECS hangs: {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() <= Duration::from_secs(25));
}

fn credentials(key: &str) -> String {
    format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
}

#[tokio::test]
async fn rotated_credentials_are_used_by_the_next_call_and_identified_again() {
    let world = World::new().await;
    world.west.register_many("web", 3);
    let folder = testkit::process::Folder::create().expect("a folder");
    let file = folder.join("credentials");
    fs::write(&file, credentials(ACCESS_KEY)).expect("the file can be written");
    let path = file.display().to_string();
    let environment = [
        ("AWS_SHARED_CREDENTIALS_FILE", path.as_str()),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ];
    world.declare("first", &["web:1"]).await;
    let _controller = world.start_with(&environment);
    world.wait_ready("first").await;

    world.ecs.set_account("AKIAROTATED", ACCOUNT);
    fs::write(&file, credentials("AKIAROTATED")).expect("the file can be written");
    world.ecs.clear_log();
    world.declare("second", &["web:2"]).await;
    world.wait_ready("second").await;
    assert!(
        world.ecs.calls().iter().all(|call| call.access_key == "AKIAROTATED"),
        "{:#?}",
        world.ecs.calls()
    );
    assert_eq!(world.ecs.calls_of(Action::GetCallerIdentity).len(), 1, "once for each set of credentials");

    let other = world.ecs.region("999999999999", "us-west-2");
    other.register_many("web", 3);
    world.ecs.set_account("AKIAOTHERACCOUNT", "999999999999");
    fs::write(&file, credentials("AKIAOTHERACCOUNT")).expect("the file can be written");
    world.declare("third", &["arn:aws:ecs:us-west-2:012345678910:task-definition/web:3"]).await;
    let seen = world.wait_until_blocked("third").await;
    assert_eq!(seen.ready_reason(), "WrongAccount", "{seen}");
    assert_eq!(other.status("web:3"), Some(Status::Active));
}
