//! Status, events and log: each reports what was done, what is waiting, and why.

use std::{fs, process::Command, time::Duration};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use testkit::{
    process::{self, Folder},
    simulated_ecs::{ACCOUNT, Action, Fault, SECRET, Status},
};

use crate::support::{DEADLINE, Seen, Verdict, World, stop};

const DESCRIBE: Action = Action::DescribeTaskDefinition;
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

#[tokio::test]
async fn first_status_is_written_soon_while_ecs_is_slow_and_all_workers_are_busy() {
    let world = World::new().await;
    world.west.register_many("web", 400);
    for number in 0..40 {
        let declared: Vec<String> = (1..=10).map(|it| format!("web:{}", number * 10 + it)).collect();
        let spec = json!({ "revisions": declared, "dryRun": true });
        world.apply(&format!("web-{number}"), spec).await.expect("admitted");
    }
    world.ecs.fault(Fault::on(DESCRIBE).delay(Duration::from_secs(3)));
    let _controller = world.start();
    world.ecs.wait_for_calls(DESCRIBE, 14, DEADLINE).await;
    world.declare("new", &["web:1"]).await;
    // Behind the running reconciles it would wait for a minute.
    let seen = world.wait_for("new", "Ready", Duration::from_secs(15), |seen| !seen.ready().is_empty()).await;
    assert_eq!(seen.ready_reason(), "Pending");
}

/// Covers the verdicts of Flux, kubectl and Argo CD.
#[tokio::test]
async fn kstatus_and_argo_cd_conclude_the_right_verdict_in_every_state() {
    let world = World::new().await;
    world.west.register_many("web", 9);
    world.west.set_status("web:7", Status::DeleteInProgress);
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:2").throttle());
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:3").server_error());
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:4").access_denied());
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:5").error("ClientException", "No."));
    world.ecs.fault(Fault::on(DEREGISTER).revision("web:6").hang());
    let foreign = "arn:aws:ecs:us-west-2:999999999999:task-definition/web:1";
    let other_region = format!("arn:aws:ecs:eu-west-1:{ACCOUNT}:task-definition/web:1");
    world.west.register_many("gone", 2);
    world.west.remove("gone:1");
    let table = [
        // First, because the hanging call ends after five seconds, and the reason is another one
        // then.
        ("pending", json!({ "revisions": ["web:6"] }), "Pending", Verdict::InProgress),
        ("retired", json!({ "revisions": ["web:1"] }), "Retired", Verdict::Current),
        ("deleting", json!({ "revisions": ["web:7"] }), "Retired", Verdict::Current),
        ("throttled", json!({ "revisions": ["web:2"] }), "Throttled", Verdict::InProgress),
        ("unavailable", json!({ "revisions": ["web:3"] }), "Unavailable", Verdict::InProgress),
        ("denied", json!({ "revisions": ["web:4"] }), "AccessDenied", Verdict::InProgress),
        ("refused", json!({ "revisions": ["web:5"] }), "Refused", Verdict::Failed),
        ("missing", json!({ "revisions": ["web:10"] }), "NotFound", Verdict::Failed),
        ("foreign", json!({ "revisions": [foreign] }), "WrongAccount", Verdict::Failed),
        ("other-region", json!({ "revisions": [other_region] }), "WrongRegion", Verdict::Failed),
        ("deleted", json!({ "revisions": ["gone:1"] }), "Retired", Verdict::Current),
        ("kept", json!({ "revisions": ["web:9"], "keepLatest": 1 }), "Kept", Verdict::InProgress),
        (
            "no-account",
            json!({ "revisions": ["web:8"], "accountRef": { "name": "absent" } }),
            "AccountNotFound",
            Verdict::InProgress,
        ),
        ("some", json!({ "revisions": ["web:1", "web:10"] }), "NotFound", Verdict::Failed),
        ("suspended", json!({ "revisions": ["web:8"], "suspend": true }), "Suspended", Verdict::InProgress),
        ("dry-run", json!({ "revisions": ["web:8"], "dryRun": true }), "DryRun", Verdict::InProgress),
    ];
    for (name, spec, ..) in &table {
        world.apply(name, spec.clone()).await.expect("admitted");
    }
    let mut controller = world.start();
    for (name, _, reason, verdict) in &table {
        let seen = world.wait(name, reason, |seen| seen.ready_reason() == *reason).await;
        assert_eq!(seen.verdict(), *verdict, "{name}: {seen}");
        assert_eq!(seen.health(), argo_cd_health(*verdict, reason), "{name}: {seen}");
        assert_conventions(&seen);
    }

    // The new spec is not observed yet.
    stop(&mut controller).await;
    world.declare("retired", &["web:1", "web:9"]).await;
    world.declare("new", &["web:9"]).await;
    for name in ["retired", "new"] {
        let seen = world.seen(name).await;
        assert_eq!((seen.verdict(), seen.health().as_str()), (Verdict::InProgress, "Progressing"), "{name}");
    }
    let waited =
        world.namespace.kubectl(&["wait", "--for=condition=Ready", "tdr/deleting", "--timeout=5s"]).await;
    assert!(waited.is_ok_and(|text| text.contains("condition met")));
}

/// Returns the health expected of Argo CD. Unlike kstatus it has a verdict for resources on hold.
fn argo_cd_health(verdict: Verdict, reason: &str) -> &'static str {
    match (verdict, reason) {
        (Verdict::Current, _) => "Healthy",
        (Verdict::Failed, _) => "Degraded",
        (_, "Suspended" | "DryRun") => "Suspended",
        (Verdict::InProgress | Verdict::Terminating, _) => "Progressing",
    }
}

fn assert_conventions(seen: &Seen) {
    let conditions = seen.status()["conditions"].as_array().expect("conditions");
    for condition in conditions {
        assert_eq!(condition["observedGeneration"].as_i64(), seen.0.metadata.generation);
        assert!(condition["message"].as_str().is_some_and(|text| !text.is_empty()));
        if condition["type"] != "Ready" {
            assert_eq!(condition["status"], "True", "a condition is present only while it is true");
        }
    }
    assert!(seen.condition("Reconciling").is_none() || seen.condition("Stalled").is_none());
}

#[tokio::test]
async fn transitions_cause_events_and_waiting_does_not() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.ecs.fault(Fault::on(DEREGISTER).times(1).throttle());
    world.declare("web", &["web:1", "web:2", "web:3"]).await;
    let _controller = world.start();
    world.wait_until_blocked("web").await;
    let events: Api<Event> = world.namespace.api();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let published = loop {
        let list = events.list(&ListParams::default()).await.expect("events can be listed");
        let published: Vec<(String, String, String)> =
            list.into_iter().filter_map(|event| Some((event.type_?, event.reason?, event.note?))).collect();
        // Events are published after the status, each with a request of its own.
        let has = |reason: &str, revision: &str| {
            published.iter().any(|(_, it, note)| it == reason && note.contains(revision))
        };
        if has("NotFound", "web:3") && has("Retired", "web:1") && has("Retired", "web:2") {
            break published;
        }
        assert!(tokio::time::Instant::now() < deadline, "{published:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        published.iter().all(|(_, reason, _)| reason == "Retired" || reason == "NotFound"),
        "{published:?}"
    );
    let retired: Vec<_> = published.iter().filter(|(_, reason, _)| reason == "Retired").collect();
    assert!(
        retired.iter().any(|(type_, _, note)| type_ == "Normal" && note.contains("web:1")),
        "{published:?}"
    );
    assert!(retired.iter().any(|(_, _, note)| note.contains("web:2")), "{published:?}");
    let (type_, _, note) = published.iter().find(|(_, reason, _)| reason == "NotFound").expect("it exists");
    assert_eq!(type_, "Warning");
    assert!(note.starts_with("web:3: ECS has no such revision"), "{note}");
    let described = world.namespace.kubectl(&["describe", "tdr", "web"]).await.expect("kubectl describes");
    assert!(described.contains("NotFound") && described.contains("ecs-retirement-controller"), "{described}");
}

#[tokio::test]
async fn columns_show_progress_readiness_and_reason_in_100_characters() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("a-retirement-with-a-long-name-as-teams-make-them", &["web:1", "web:2"]).await;
    let _controller = world.start();
    world.wait_until_blocked("a-retirement-with-a-long-name-as-teams-make-them").await;
    let table = world.namespace.kubectl(&["get", "tdr"]).await.expect("kubectl gets");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.len() <= 100), "{table}");
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(columns, ["NAME", "PROGRESS", "READY", "REASON", "AGE"]);
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(cells[1..4], ["1/2", "False", "NotFound"]);
    let wide = world.namespace.kubectl(&["get", "tdr", "-o", "wide"]).await.expect("kubectl gets");
    for column in
        ["WAITING", "REJECTED", "ACCOUNT", "REGION", "MESSAGE", "012345678910", "us-west-2", "1 rejected"]
    {
        assert!(wide.contains(column), "{wide}");
    }
}

#[tokio::test]
async fn container_definitions_are_in_no_log_status_or_event() {
    let world = World::new().await;
    world.west.register_many("web", 3);
    world.ecs.fault(Fault::on(DESCRIBE).revision("web:2").times(1).server_error());
    world.declare("web", &["web:1", "web:2", "web:3", "web:4"]).await;
    let controller = world.start_with(&[("RUST_LOG", "trace")]);
    world.wait_until_blocked("web").await;
    let log = controller.log();
    assert!(log.contains("TRACE"), "the log level is trace");
    assert!(!log.contains(SECRET), "the log contains the secret");
    assert!(!format!("{}", world.seen("web").await).contains(SECRET), "the status contains the secret");
    let events = world.namespace.kubectl(&["get", "events", "-o", "yaml"]).await.expect("kubectl gets");
    assert!(!events.contains(SECRET), "an event contains the secret");
}

#[tokio::test]
async fn each_deregistration_is_logged_in_one_line() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let mut controller = world.start_with(&[("LOG_FORMAT", "json")]);
    let seen = world.wait_ready("web").await;
    stop(&mut controller).await;
    let lines: Vec<Value> =
        controller.log().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let logged: Vec<_> = lines.iter().filter(|line| line["message"] == "deregistered").collect();
    assert_eq!(logged.len(), 1);
    assert_eq!(logged[0]["revision"], world.west.arn("web:1"));
    assert_eq!(logged[0]["request_id"], seen.row("web:1")["requestId"]);
}

/// Runs the binary until it exits. Returns its exit code, stdout and stderr.
async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
    command.args(arguments).envs(environment.iter().copied());
    let output = process::output(&command, DEADLINE).await.expect("it runs and exits");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn command_line_errors_are_reported_in_one_line() {
    let (code, _, stderr) = run(&["run", "--no-such-flag"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--no-such-flag"), "{stderr}");

    let (code, _, stderr) = run(&["run"], &[("KUBECONFIG", "/no/such/kubeconfig")]).await;
    assert_eq!(code, Some(1));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains("/no/such/kubeconfig"), "{stderr}");
    assert!(!errors[0].contains("service account"), "it is not used instead: {stderr}");

    let home = Folder::create().expect("a folder");
    let file = home.join(".kube/config");
    fs::create_dir(home.join(".kube")).expect("a folder");
    fs::write(&file, "users:\n- secret: [").expect("the file can be written");
    let (code, _, stderr) = run(&["run"], &[("HOME", &home.join("").display().to_string())]).await;
    assert_eq!(code, Some(1));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains(&file.display().to_string()), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");

    let (code, _, stderr) = run(&["run"], &[("RUST_LOG", "kube=loud")]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: RUST_LOG must be like `info` or `info,kube=debug`"), "{stderr}");
}
