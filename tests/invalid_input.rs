//! Invalid input: admission and the controller both refuse it, and say what to write.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{control_plane::ControlPlane, simulated_ecs::Action};
use tokio::{sync::OnceCell, time::sleep};

use crate::support::{CRD, DEADLINE, World};

/// Returns a world whose CRD admits everything, as the CRD of an older release might.
pub async fn lenient_world() -> World<'static> {
    static LENIENT: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = || async { ControlPlane::start().await.expect("a control plane starts") };
    World::on(LENIENT.get_or_init(start).await, &lenient_crd()).await
}

fn lenient_crd() -> String {
    let mut crd: Value = serde_saphyr::from_str(CRD).expect("the CRD is YAML");
    for part in ["spec", "status"] {
        let part = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}");
        let part = crd.pointer_mut(&part).expect("the CRD has it");
        *part = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    }
    crd.to_string()
}

fn spec(revisions: &[&str]) -> Value {
    json!({ "revisions": revisions })
}

/// Returns cases: the name of the resource, its spec, and a text that the refusal must contain.
fn invalid_specs() -> Vec<(&'static str, Value, &'static str)> {
    let many: Vec<String> = (1..=501).map(|number| format!("web:{number}")).collect();
    let long = format!("{}:1", "a".repeat(256));
    vec![
        ("a-blank", spec(&[" cpu-wave:1"]), "family:revision"),
        ("a-bare-family", spec(&["cpu-wave"]), "family:revision"),
        ("revision-zero", spec(&["cpu-wave:0"]), "family:revision"),
        ("a-leading-zero", spec(&["cpu-wave:01"]), "family:revision"),
        ("a-negative-revision", spec(&["cpu-wave:-1"]), "family:revision"),
        ("a-sign", spec(&["cpu-wave:+7"]), "family:revision"),
        ("a-label", spec(&["cpu-wave:latest"]), "family:revision"),
        ("a-range", spec(&["cpu-wave:1-5"]), "family:revision"),
        ("everything", spec(&["*"]), "family:revision"),
        ("over-i32", spec(&["cpu-wave:2147483648"]), "2147483647"),
        ("two-revisions", spec(&["cpu-wave:1:2"]), "family:revision"),
        ("a-long-family", spec(&[&long]), "family:revision"),
        ("letters-outside-ascii", spec(&["cpü-wave:1"]), "family:revision"),
        ("digits-outside-ascii", spec(&["cpu-wave:١"]), "family:revision"),
        ("nothing-declared", spec(&[]), "spec.revisions"),
        ("too-many", json!({ "revisions": many }), "500"),
        (
            "another-service",
            spec(&["arn:aws:batch:us-west-2:012345678910:job-definition/cpu-wave:1"]),
            "family:revision",
        ),
        ("a-service", spec(&["arn:aws:ecs:us-west-2:012345678910:service/prod/cpu-wave"]), "family:revision"),
        ("a-cluster", spec(&["arn:aws:ecs:us-west-2:012345678910:cluster/prod"]), "family:revision"),
        (
            "a-daemon",
            spec(&["arn:aws:ecs:us-west-2:012345678910:daemon-task-definition/cpu-wave:1"]),
            "task definition",
        ),
        ("no-account", spec(&["arn:aws:ecs:us-west-2::task-definition/cpu-wave:1"]), "family:revision"),
        ("no-region-code", json!({ "revisions": ["cpu-wave:1"], "region": "Oregon" }), "us-west-2"),
        (
            "another-region",
            json!({ "revisions": ["arn:aws:ecs:eu-west-1:012345678910:task-definition/cpu-wave:1"], "region": "us-west-2" }),
            "us-west-2",
        ),
        ("a-short-account", account_id("12345678910"), "12 digits"),
        ("a-long-account", account_id("0123456789101"), "12 digits"),
        ("an-account-with-a-letter", account_id("01234567891O"), "12 digits"),
        ("an-account-with-hyphens", account_id("0123-4567-8910"), "12 digits"),
        ("an-account-with-a-blank", account_id(" 012345678910"), "12 digits"),
        ("an-account-of-other-digits", account_id("١٢٣٤٥٦٧٨٩٠١٢"), "12 digits"),
        ("no-account-id", account_id(""), "12 digits"),
        ("days", unused_for("1d"), "24h"),
        ("no-unit", unused_for("24"), "24h"),
        ("a-negative-duration", unused_for("-24h"), "24h"),
        ("another-notation", unused_for("PT24H"), "24h"),
        (
            "unused-for-nothing",
            json!({ "revisions": ["cpu-wave:1"], "inUse": "Retire", "unusedFor": "24h" }),
            "inUse: Wait",
        ),
    ]
}

fn unused_for(duration: &str) -> Value {
    json!({ "revisions": ["cpu-wave:1"], "unusedFor": duration })
}

fn account_id(account_id: &str) -> Value {
    json!({ "revisions": ["cpu-wave:1"], "accountId": account_id })
}

/// Returns specs with the same revision twice, which is one entry. Admission refuses only the
/// second spec.
fn duplicate_revisions() -> [(&'static str, Value, &'static str); 2] {
    let arn = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";
    [
        ("twice", spec(&["cpu-wave:1", "cpu-wave:1"]), ""),
        ("twice-as-arn", spec(&["cpu-wave:1", arn]), "keep one"),
    ]
}

#[tokio::test]
async fn invalid_spec_is_refused_by_admission_with_what_to_write() {
    let world = World::new().await;
    let [(admitted, twice, _), refused] = duplicate_revisions();
    world.apply(admitted, twice).await.expect("it is one entry");
    for (name, spec, text) in invalid_specs().into_iter().chain([refused]) {
        let refusal = world.apply(name, spec).await.expect_err(name);
        assert!(refusal.contains(text), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn region_cannot_be_changed_once_it_is_set() {
    let world = World::new().await;
    world.apply("web", json!({ "revisions": ["web:1"], "region": "us-west-2" })).await.expect("admitted");
    for region in [json!("eu-west-1"), Value::Null] {
        let spec = json!({ "spec": { "region": region } });
        let patch = kube::api::Patch::Merge(spec);
        let refusal = world.api().patch("web", &kube::api::PatchParams::default(), &patch).await;
        let refusal = refusal.expect_err("the region is immutable").to_string();
        assert!(refusal.contains("spec.region cannot be changed once it is set"), "{refusal}");
    }
}

#[tokio::test]
async fn invalid_spec_that_an_older_crd_admits_is_refused_without_an_ecs_call() {
    let world = lenient_world().await;
    world.west.register_many("cpu-wave", 7);
    for (name, spec, _) in invalid_specs() {
        world.apply(name, spec).await.expect("an older CRD admits it");
    }
    let _controller = world.start();
    for (name, spec, text) in invalid_specs() {
        let seen = world.wait_until_blocked(name).await;
        let reason = seen.ready_reason();
        assert!(["Invalid", "InvalidSpec", "WrongRegion"].contains(&reason), "{name}: {seen}");
        assert!(seen.ready_message().contains(text), "{name}: {seen}");
        assert_eq!(seen.number("retired"), 0, "{name}: {seen}");
        let declared = spec["revisions"].as_array().map(Vec::len);
        assert_eq!(usize::try_from(seen.number("rejected")).ok(), declared, "{name}: {seen}");
    }
    assert!(
        world.ecs.calls().iter().all(|call| call.action == Action::GetCallerIdentity),
        "{:#?}",
        world.ecs.calls()
    );
}

#[tokio::test]
async fn duplicate_revision_is_one_entry_if_an_older_crd_admits_it() {
    let world = lenient_world().await;
    world.west.register("cpu-wave");
    for (name, spec, _) in duplicate_revisions() {
        world.apply(name, spec).await.expect("an older CRD admits it");
    }
    let _controller = world.start();
    for (name, ..) in duplicate_revisions() {
        let seen = world.wait_ready(name).await;
        assert_eq!(seen.text("progress"), "1/1", "{name}: {seen}");
    }
    assert_eq!(world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 1);
}

#[tokio::test]
async fn invalid_entry_does_not_delay_the_valid_ones() {
    let world = lenient_world().await;
    world.west.register("cpu-wave");
    world.declare("web", &["cpu-wave:latest", "cpu-wave:1"]).await;
    let _controller = world.start();
    let seen = world.wait_until_blocked("web").await;
    assert_eq!((seen.reason("cpu-wave:latest"), seen.reason("cpu-wave:1")), ("Invalid", "Retired"));
    assert_eq!(seen.text("progress"), "1/2");
}

#[tokio::test]
async fn resource_with_a_changed_region_is_invalid_and_makes_no_calls_there() {
    let world = lenient_world().await;
    world.west.register("web");
    let east = world.ecs.region("012345678910", "us-east-1");
    east.register_many("web", 2);
    world.apply("web", json!({ "revisions": ["web:1"], "region": "us-west-2" })).await.expect("admitted");
    let _controller = world.start();
    let record = world.wait_ready("web").await.row("web:1").clone();

    world
        .apply("web", json!({ "revisions": ["web:1", "web:2"], "region": "us-east-1" }))
        .await
        .expect("admitted");
    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.ready_reason(), "InvalidSpec");
    assert!(seen.ready_message().contains("us-west-2"), "{seen}");
    assert_eq!(seen.row("web:1"), &record, "the recorded response is kept");
    assert!(world.ecs.calls().iter().all(|call| call.region == "us-west-2"));
}

#[tokio::test]
async fn unparsable_object_is_reported_with_the_field_and_blocks_no_other() {
    let world = lenient_world().await;
    world.west.register("web");
    world.apply("broken", json!({ "revisions": ["web:1", 7] })).await.expect("an older CRD admits it");
    let mut controller = world.start();
    let seen = world.wait_until_blocked("broken").await;
    assert_eq!(seen.ready_reason(), "InvalidSpec");
    assert!(seen.ready_message().contains("spec.revisions[1]"), "{seen}");
    world.declare("web", &["web:1"]).await;
    world.wait_ready("web").await;
    assert!(controller.is_running());

    world.apply("broken", json!({ "revisions": ["web:1"] })).await.expect("the fixed spec is admitted");
    world.wait_ready("broken").await;
}

#[tokio::test]
async fn status_of_a_newer_version_is_not_overwritten() {
    let world = lenient_world().await;
    world.west.register("web");
    world.declare("later", &["web:1"]).await;
    let row = json!({ "revision": "web:1", "reason": "Retired", "requestId": { "id": "request" } });
    let status = json!({ "status": { "observedGeneration": 1, "revisions": [row] } });
    let patch = Patch::Merge(&status);
    world
        .api()
        .patch_status("later", &PatchParams::default(), &patch)
        .await
        .expect("the lenient CRD admits it");
    let before = world.seen("later").await;

    let controller = world.start();
    world.declare("web", &["web:1"]).await;
    world.wait_ready("web").await;
    let began = Instant::now();
    while !controller.log().contains("status.revisions[0].requestId") {
        assert!(began.elapsed() < DEADLINE, "the field is not logged: {}", controller.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.seen("later").await.version(), before.version());
}

#[tokio::test]
async fn reason_of_a_later_version_is_not_final() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let row = json!({ "revision": "web:1", "reason": "AwaitingApproval" });
    let status = json!({ "status": { "observedGeneration": 1, "revisions": [row] } });
    let patch = Patch::Merge(&status);
    world.api().patch_status("web", &PatchParams::default(), &patch).await.expect("the CRD lists no reasons");

    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.reason("web:1"), "Retired", "{seen}");
}
