//! A status always fits into etcd, and reports what it omits.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::simulated_ecs::{ACCOUNT, Task};

use tokio::time::sleep;

use crate::support::{CRD, DEADLINE, Seen, World, kind};

const REVISIONS: usize = 500;

/// How much text the controller keeps in all rows together.
const TEXT_BYTES: usize = 320 * 1024;

/// Returns the size of an object as the API server sends it.
async fn stored_bytes(world: &World<'_>, name: &str) -> usize {
    world.namespace.kubectl(&["get", "--raw", &path(world, name)]).await.expect("it exists").len()
}

fn path(world: &World<'_>, name: &str) -> String {
    let namespace = world.namespace.name();
    format!("/apis/ecs-retirement.dev/v1alpha1/namespaces/{namespace}/taskdefinitionretirements/{name}")
}

#[tokio::test]
async fn status_of_500_revisions_with_many_users_of_long_names_is_recorded() {
    let world = World::new().await;
    let (family, cluster) = ("f".repeat(120), "c".repeat(255));
    world.west.register_many(&family, REVISIONS);
    let arns: Vec<String> =
        (1..=REVISIONS).map(|number| world.west.arn(&format!("{family}:{number}"))).collect();
    let cluster = world.west.cluster(&cluster);
    for (number, arn) in arns.iter().enumerate() {
        for user in 1..=5 {
            cluster.put_task(Task::running(&format!("{}-{number:03}-{user}", "t".repeat(249)), arn));
        }
    }
    let manifest = json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "TaskDefinitionRetirement",
        "metadata": { "name": "web" },
        "spec": { "revisions": arns },
    });
    let (applied, output) = world.shell(&format!("kubectl apply -f - <<'EOF'\n{manifest}\nEOF")).await;
    assert!(applied, "{output}");
    let _controller = world.start();
    let is_recorded = |seen: &Seen| {
        let rows = seen.status()["revisions"].as_array();
        rows.is_some_and(|rows| rows.len() == REVISIONS && rows.iter().all(|row| row["reason"] == "InUse"))
    };
    let began = Instant::now();
    let mut seen = world.seen("web").await;
    while !is_recorded(&seen) {
        assert!(began.elapsed() < DEADLINE * 6, "not recorded: {}", seen.ready_message());
        // Each read is a megabyte.
        sleep(Duration::from_secs(1)).await;
        seen = world.seen("web").await;
    }
    for row in seen.status()["revisions"].as_array().expect("rows") {
        let users = row["usedBy"].as_array().expect("users");
        let message = row["message"].as_str().expect("a message");
        assert!(message.starts_with("in use by 5 services or tasks"), "{row}");
        assert!(!message.contains("ttt"), "users are listed once: {row}");
        assert!(!users.is_empty(), "{row}");
        assert!(
            users.len() == 5 || message.contains(&format!("usedBy is truncated to {}", users.len())),
            "{row}"
        );
    }
    assert!(stored_bytes(&world, "web").await < 1024 * 1024 * 3 / 2);
}

/// Returns the longest value of the schema. `text` is the length of a `message`, which only the
/// controller limits.
fn longest(schema: &Value, name: &str, text: usize) -> Value {
    let length = |key: &str| schema[key].as_u64().and_then(|number| usize::try_from(number).ok());
    match (name, schema["type"].as_str()) {
        ("message", _) => json!("m".repeat(text)),
        ("usedBy", _) => json!([]),
        (_, Some("object")) => {
            let fields = schema["properties"].as_object().expect("fields").iter();
            fields.map(|(name, field)| (name.clone(), longest(field, name, text))).collect()
        }
        (_, Some("string")) if schema["format"] == "date-time" => json!("2026-11-26T15:30:12Z"),
        (_, Some("string")) => json!("x".repeat(length("maxLength").expect("a longest text"))),
        (_, Some("boolean")) => json!(true),
        _ => json!(1),
    }
}

#[tokio::test]
async fn largest_legal_object_is_stored() {
    let world = World::new().await;
    let crd: Value = serde_saphyr::from_str(CRD).expect("the CRD is YAML");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let longest_length =
        schema["spec"]["properties"]["revisions"]["items"]["maxLength"].as_u64().expect("a limit");
    let revisions: Vec<String> = (0..REVISIONS)
        .map(|number| {
            let revision = format!("{}:{}", "f".repeat(255), 2_000_000_000 + number);
            let known = format!("arn:aws-us-gov:ecs:us-gov--1:{ACCOUNT}:task-definition/{revision}").len();
            let region = "w".repeat(usize::try_from(longest_length).expect("a length") - known);
            format!("arn:aws-us-gov:ecs:us-gov-{region}-1:{ACCOUNT}:task-definition/{revision}")
        })
        .collect();
    let spec = json!({ "revisions": revisions });
    let mut annotation = format!("{spec}\n");
    let key = "kubectl.kubernetes.io/last-applied-configuration";
    annotation.push_str(&" ".repeat(256 * 1024 - key.len() - annotation.len()));
    let mut object = kube::api::DynamicObject::new("largest", &kind());
    object.metadata.annotations = Some([(key.to_owned(), annotation)].into());
    object.data = json!({ "spec": spec });
    world.api().create(&PostParams::default(), &object).await.expect("it is legal");

    let row = longest(&schema["status"]["properties"]["revisions"]["items"], "", TEXT_BYTES / REVISIONS);
    let conditions = ["Ready", "Reconciling", "Stalled"].map(|type_| {
        json!({ "type": type_, "status": "True", "reason": "r".repeat(64), "message": "m".repeat(1024),
            "observedGeneration": 1, "lastTransitionTime": "2026-11-26T15:30:12Z" })
    });
    let status = json!({
        "observedGeneration": 1,
        "conditions": conditions,
        "lastHandledReconcileAt": "t".repeat(256),
        "account": ACCOUNT,
        "region": "r".repeat(64),
        "progress": "500/500",
        "retired": 500, "waiting": 500, "rejected": 500,
        "lastUsageScan": { "time": "2026-11-26T15:30:12Z", "uid": "u".repeat(64) },
        "revisions": vec![row; REVISIONS],
    });
    let patch = json!({ "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement", "status": status });
    let manager = PatchParams::apply("ecs-retirement-controller").force();
    world.api().patch_status("largest", &manager, &Patch::Apply(patch)).await.expect("etcd stores it");
    let stored = world.seen("largest").await;
    assert_eq!(stored.status(), &status);
    assert!(stored_bytes(&world, "largest").await > 1024 * 1024, "the object is large");
}
