//! kstatus and Argo CD verdicts in states that do not result from an ECS response.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::simulated_ecs::Service;

use crate::{
    invalid_input::lenient_world,
    support::{Seen, Verdict, World, stop},
};

#[tokio::test]
async fn kstatus_concludes_in_progress_while_a_revision_is_in_use_or_cooling_down() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.cluster("prod").put_service(Service::steady("web", "web:1"));
    world.declare("used", &["web:1"]).await;
    world
        .apply("cooling-down", json!({ "revisions": ["web:2"], "unusedFor": "1h" }))
        .await
        .expect("admitted");
    let _controller = world.start();
    for (name, is_so) in [
        ("used", (|seen| seen.row("web:1")["usedBy"].is_array()) as fn(&Seen) -> bool),
        ("cooling-down", |seen| seen.row("web:2")["unusedSince"].is_string()),
    ] {
        let seen = world.wait(name, "usage", is_so).await;
        assert_eq!((seen.verdict(), seen.health().as_str()), (Verdict::InProgress, "Progressing"), "{seen}");
    }
}

#[tokio::test]
async fn kstatus_concludes_failed_if_the_spec_is_invalid() {
    let world = lenient_world().await;
    world.west.register("web");
    let specs = [
        ("not-a-revision", json!({ "revisions": ["web:latest"] })),
        ("partly-valid", json!({ "revisions": ["web:1", "web:latest"] })),
        ("not-a-string", json!({ "revisions": [7] })),
        ("not-a-duration", json!({ "revisions": ["web:1"], "unusedFor": "1d" })),
        ("empty", json!({ "revisions": [] })),
    ];
    for (name, spec) in &specs {
        world.apply(name, spec.clone()).await.expect("an older CRD admits it");
    }
    let _controller = world.start();
    for (name, _) in &specs {
        let seen = world.wait_until_blocked(name).await;
        assert_eq!((seen.verdict(), seen.health().as_str()), (Verdict::Failed, "Degraded"), "{name}: {seen}");
    }
}

/// The state before the change must not count: otherwise a waiting pipeline ends too early.
#[tokio::test]
async fn kstatus_concludes_in_progress_until_the_spec_is_observed() {
    let world = World::new().await;
    world.west.register_many("web", 9);
    let states: [(&str, Value, &str); 4] = [
        ("retired", json!({ "revisions": ["web:1"] }), "Retired"),
        ("stalled", json!({ "revisions": ["web:10"] }), "NotFound"),
        ("suspended", json!({ "revisions": ["web:2"], "suspend": true }), "Suspended"),
        ("dry-run", json!({ "revisions": ["web:2"], "dryRun": true }), "DryRun"),
    ];
    for (name, spec, _) in &states {
        world.apply(name, spec.clone()).await.expect("admitted");
    }
    let mut controller = world.start();
    for (name, _, reason) in &states {
        world.wait(name, reason, |seen| seen.ready_reason() == *reason).await;
    }
    stop(&mut controller).await;
    for (name, ..) in &states {
        world.declare(name, &["web:9"]).await;
    }
    world.declare("new", &["web:9"]).await;
    for name in states.iter().map(|(name, ..)| *name).chain(["new"]) {
        let seen = world.seen(name).await;
        assert_eq!((seen.verdict(), seen.health().as_str()), (Verdict::InProgress, "Progressing"), "{name}");
    }
    assert_eq!(world.seen("new").await.status()["observedGeneration"], -1, "the default of the CRD");
}

#[tokio::test]
async fn kstatus_concludes_terminating_while_a_finalizer_delays_deletion() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    let finalizers = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    let finalize = async |name: &str, finalizers: &Value| {
        let patched = world.api().patch(name, &PatchParams::default(), &Patch::Merge(finalizers)).await;
        patched.expect("finalizers can be changed");
    };
    world.declare("retired", &["web:1"]).await;
    let mut controller = world.start();
    world.wait_ready("retired").await;
    stop(&mut controller).await;
    world.declare("new", &["web:2"]).await;
    for name in ["retired", "new"] {
        finalize(name, &finalizers).await;
        world.delete(name).await;
    }
    let _controller = world.start();
    world.wait_until_all_is_seen().await;
    for name in ["retired", "new"] {
        let seen = world.seen(name).await;
        assert_eq!(seen.verdict(), Verdict::Terminating, "{name}: {seen}");
        finalize(name, &json!({ "metadata": { "finalizers": null } })).await;
    }
}
