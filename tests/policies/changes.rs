//! Changes while proposals wait or are being retired.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, civil::DateTime};
use kube::ResourceExt;
use serde_json::json;
use testkit::simulated_ecs::{Action, Fault, Status};
use tokio::time::sleep;

use super::Policies;

#[tokio::test]
async fn policy_that_keeps_more_narrows_its_proposals() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 10);
    policies.apply("web", &["web"], 2, json!({})).await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    assert_eq!(policies.declared().await.len(), 8);
    policies.patch("web", json!({ "spec": { "keep": { "latest": 6, "revisions": ["web:2"] } } })).await;
    policies.wait("web", "AwaitingApproval").await;
    assert_eq!(policies.declared().await, ["web:1", "web:3", "web:4"]);

    policies.patch("web", json!({ "spec": { "keep": { "latest": 10 } } })).await;
    policies.wait("web", "Succeeded").await;
    assert!(policies.retirements().await.is_empty(), "what is left empty is deleted");
}

#[tokio::test]
async fn newest_revision_that_is_deregistered_before_approval_keeps_another() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 5);
    policies.apply("web", &["web"], 2, json!({})).await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    assert_eq!(policies.declared().await, ["web:1", "web:2", "web:3"]);
    policies.world.west.set_status("web:5", Status::Inactive);
    policies.approve().await;
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    let kept = |seen: &crate::support::Seen| {
        (seen.reason("web:1"), seen.reason("web:2"), seen.reason("web:3")) == ("Retired", "Retired", "Kept")
    };
    let seen = policies.world.wait(&name, "Kept", kept).await;
    assert!(seen.message("web:3").contains("spec.keepLatest is 2"), "{seen}");
    assert_eq!(policies.world.west.status("web:3"), Some(Status::Active));
    policies.world.west.register("web");
    policies.world.wait_for(&name, "Ready", Duration::from_mins(2), |seen| seen.ready() == "True").await;
}

#[tokio::test]
async fn suspended_policy_stops_its_retirements() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 6);
    policies.apply("web", &["web"], 2, json!({})).await;
    let rate = [("DEREGISTRATIONS_PER_SECOND", "10"), ("DEREGISTRATION_BURST", "1")];
    let _controller = policies.world.start_with(&rate);
    policies.wait("web", "AwaitingApproval").await;
    policies.patch("web", json!({ "spec": { "suspend": true } })).await;
    policies.wait("web", "Suspended").await;
    policies.approve().await;
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    let seen = policies.world.wait(&name, "Kept", |seen| seen.reasons() == ["Kept"; 4]).await;
    assert!(seen.message("web:1").contains("its policy web is suspended"), "{seen}");
    assert_eq!(policies.deregistered(), 0);
    // They are checked again a minute later, and not with each permit.
    let described = || policies.world.ecs.calls_of(Action::DescribeTaskDefinition).len();
    let before = described();
    sleep(Duration::from_secs(5)).await;
    assert!(described() <= before + 4, "{} descriptions in 5 s", described() - before);
    policies.patch("web", json!({ "spec": { "suspend": false } })).await;
    policies.world.wait_for(&name, "Ready", Duration::from_mins(2), |seen| seen.ready() == "True").await;
    assert_eq!(policies.deregistered(), 4);
}

/// Returns when the run of a retirement of the policy `web` started, from its name.
fn run_time(name: &str) -> DateTime {
    let time = name.strip_prefix("web-").and_then(|rest| Some(rest.rsplit_once('-')?.0));
    DateTime::strptime("%Y%m%d-%H%M%S", time.expect("a time")).expect("a time")
}

#[tokio::test]
async fn requested_run_proposes_beside_a_pending_one_and_nothing_twice() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 6);
    policies.apply("web", &["web"], 2, json!({ "maxRevisionsPerRun": 3 })).await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    assert_eq!(policies.declared().await, ["web:1", "web:2", "web:3"]);
    policies
        .patch("web", json!({ "metadata": { "annotations": { "ecs-retirement.dev/requestedAt": "1" } } }))
        .await;
    let began = std::time::Instant::now();
    while policies.declared().await.len() < 4 {
        assert!(began.elapsed() < Duration::from_secs(90), "{}", policies.seen("web").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let names: Vec<String> = policies.retirements().await.iter().map(ResourceExt::name_any).collect();
    let runs: Vec<DateTime> = names.iter().map(|name| run_time(name)).collect();
    let pause = runs[1].duration_since(runs[0]);
    assert!(pause > SignedDuration::from_secs(50), "at most one a minute: {names:?}");
    assert_eq!(policies.declared().await, ["web:1", "web:2", "web:3", "web:4"]);
    assert_eq!(policies.retirements().await.len(), 2);
    assert_eq!(policies.world.ecs.calls_of(Action::DeregisterTaskDefinition).len(), 0);
}

#[tokio::test]
async fn changed_policy_keeps_revisions_until_it_has_narrowed_its_retirements() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 6);
    policies.apply("web", &["web*"], 2, json!({})).await;
    let mut controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    crate::support::stop(&mut controller).await;
    // The policy changes, and its next run fails: what it proposed before is still declared.
    policies.patch("web", json!({ "spec": { "keep": { "revisions": ["web:2"] } } })).await;
    policies.world.ecs.fault(Fault::on(Action::ListTaskDefinitionFamilies).times(1_000).access_denied());
    policies.approve().await;
    let _controller = policies.world.start();
    policies.wait("web", "AccessDenied").await;
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    let seen = policies.world.wait(&name, "Kept", |seen| seen.reasons() == ["Kept"; 4]).await;
    assert!(seen.message("web:1").contains("its policy web has changed"), "{seen}");
    assert_eq!(policies.deregistered(), 0);
    policies.world.ecs.clear_faults();
    policies.world.wait_for(&name, "Ready", Duration::from_mins(2), |seen| seen.ready() == "True").await;
    assert_eq!(policies.declared().await, ["web:1", "web:3", "web:4"]);
    assert_eq!(policies.world.west.status("web:2"), Some(Status::Active));
}
