//! Crashes, throttling and deployments while a run is under way.

use std::{collections::BTreeSet, time::Duration};

use kube::ResourceExt;
use serde_json::json;
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault as ApiFault, Verb},
    simulated_ecs::{Action, Fault, Status},
};

use super::Policies;
use crate::support::DEADLINE;

/// A write of a run, and the number of writes of this kind up to it.
type Write = (Verb, &'static str, u32);

const STATUS: &str = "taskdefinitionretentionpolicies/status";
const RETIREMENTS: &str = "taskdefinitionretirements";

/// Kills the controller right after a write of a run took effect, or right before if `is_before`,
/// and starts another one. Asserts that each revision is declared once.
async fn crash_at((verb, resource, nth): Write, is_before: bool) {
    let text = format!("{verb:?} {resource} {nth}, before: {is_before}");
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 1_205);
    policies.apply("web", &["web"], 5, json!({ "maxRevisionsPerRun": 1_200 })).await;
    let proxy = ApiProxy::in_front_of(policies.world.namespace.control_plane()).await.expect("a proxy");
    let effect = if is_before { Effect::Hang } else { Effect::HangReply };
    proxy.fault(ApiFault::request(verb, resource, nth, effect));
    let kubeconfig = proxy.kubeconfig().display().to_string();
    let mut crashing = policies.world.start_with(&[("KUBECONFIG", &kubeconfig)]);
    assert!(proxy.wait_until_faults_applied(1, DEADLINE).await, "{text}");
    crashing.kill();
    let before = policies.retirements().await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    let retirements = policies.retirements().await;
    let created = retirements.iter().map(|it| (it.name_any(), it.uid())).collect::<BTreeSet<_>>();
    for it in before {
        assert!(created.contains(&(it.name_any(), it.uid())), "{text}: {} was replaced", it.name_any());
    }
    let runs: BTreeSet<String> =
        retirements.iter().filter_map(|it| Some(it.name_any().rsplit_once('-')?.0.to_owned())).collect();
    assert_eq!((retirements.len(), runs.len()), (3, 1), "{text}: {created:?}");
    let declared = policies.declared().await;
    let distinct: BTreeSet<&String> = declared.iter().collect();
    assert_eq!((declared.len(), distinct.len()), (1_200, 1_200), "{text}: each once");
    assert!(!declared.iter().any(|it| ["web:1201", "web:1205"].contains(&it.as_str())), "{text}");
}

#[tokio::test]
async fn crash_after_a_write_of_a_run_creates_nothing_twice() {
    for write in [
        (Verb::Patch, STATUS, 1),
        (Verb::Create, RETIREMENTS, 1),
        (Verb::Create, RETIREMENTS, 2),
        (Verb::Create, RETIREMENTS, 3),
        (Verb::Patch, STATUS, 2),
    ] {
        crash_at(write, false).await;
    }
}

#[tokio::test]
async fn crash_before_a_write_of_a_run_loses_nothing() {
    for write in [(Verb::Patch, STATUS, 1), (Verb::Create, RETIREMENTS, 2), (Verb::Patch, STATUS, 2)] {
        crash_at(write, true).await;
    }
}

#[tokio::test]
async fn deployments_during_a_read_never_make_a_kept_revision_a_candidate() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 450);
    // The newest three are listed first, then the oldest in pages, then the newest once more.
    for nth in 2..=7 {
        let west = policies.world.west.clone();
        policies.world.ecs.before(Action::ListTaskDefinitions, nth, async move {
            // A rollback deregisters the newest, another deployment registers one.
            let newest = west.register("web");
            west.set_status(&format!("web:{newest}"), Status::Inactive);
            west.set_status(&format!("web:{}", 452 - i32::try_from(nth).expect("small")), Status::Inactive);
            west.set_status(&format!("web:{}", nth * 60), Status::Inactive);
            west.register("web");
        });
    }
    policies.apply("web", &["web"], 3, json!({ "approval": "Automatic" })).await;
    let _controller = policies.world.start();
    policies.wait("web", "Succeeded").await;
    let declared = policies.declared().await;
    assert!(declared.len() > 400, "{}", declared.len());
    let distinct: BTreeSet<&String> = declared.iter().collect();
    assert_eq!(distinct.len(), declared.len(), "nothing twice");
    let name = policies.retirements().await[0].name_any();
    let has_ended = |seen: &crate::support::Seen| {
        let is_end = |reason: &&str| ["Retired", "Kept"].contains(reason);
        seen.reasons().len() == declared.len() && seen.reasons().iter().all(is_end)
    };
    policies.world.wait_for(&name, "an end", Duration::from_mins(5), has_ended).await;
    let is_active =
        |number: &i32| policies.world.west.status(&format!("web:{number}")) == Some(Status::Active);
    let active: Vec<i32> = (1..=470).filter(is_active).collect();
    assert!(active.len() >= 3, "{active:?}");
    let newest_declared = declared.iter().filter_map(|it| it.strip_prefix("web:")?.parse::<i32>().ok()).max();
    let kept = active.iter().filter(|number| Some(**number) > newest_declared).count();
    assert!(kept >= 3, "{active:?}, declared until {newest_declared:?}");
}

#[tokio::test]
async fn runs_that_wait_for_ecs_do_not_delay_other_policies() {
    let policies = Policies::new().await;
    // Each run takes at least 40 seconds: 20 pages.
    policies.world.west.register_many("web", 2_000);
    let slow = Fault::on(Action::ListTaskDefinitions).times(1_000).delay(Duration::from_secs(2));
    policies.world.ecs.fault(slow);
    let _controller = policies.world.start();
    for number in 0..10 {
        let name = format!("web-{number}");
        policies.apply(&name, &["web"], 2, json!({ "maxRevisionsPerRun": 5_000 })).await;
        policies.wait(&name, "Running").await;
    }
    policies.apply("other", &["other"], 2, json!({ "suspend": true })).await;
    policies.wait("other", "Suspended").await;
}

#[tokio::test]
async fn throttling_midway_delays_a_run_and_changes_nothing() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 320);
    let ecs = &policies.world.ecs;
    ecs.fault(Fault::on(Action::ListTaskDefinitions).nth(3).throttle());
    ecs.fault(Fault::on(Action::ListTaskDefinitions).nth(4).server_error());
    policies.apply("web", &["web"], 20, json!({})).await;
    let _controller = policies.world.start();
    policies.wait("web", "AwaitingApproval").await;
    let expected: Vec<String> = (1..=300).map(|number| format!("web:{number}")).collect();
    assert_eq!(policies.declared().await, expected);
    let throttled = ecs.calls_of(Action::ListTaskDefinitions).into_iter();
    assert!(throttled.filter(|call| call.outcome.error_code().is_some()).count() >= 2);
}

#[tokio::test]
async fn failing_page_creates_nothing_until_it_is_read() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 320);
    let ecs = &policies.world.ecs;
    // More failures than a run retries.
    ecs.fault(Fault::on(Action::ListTaskDefinitions).nth(4).access_denied());
    policies.apply("web", &["web"], 20, json!({})).await;
    let _controller = policies.world.start();
    policies.wait("web", "AccessDenied").await;
    assert!(policies.retirements().await.is_empty(), "no partial proposal");
    policies.wait("web", "AwaitingApproval").await;
    assert_eq!(policies.declared().await.len(), 300);
}

#[tokio::test]
async fn denied_run_is_reported_once_whatever_text_aws_returns() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 9);
    for attempt in 1..=9 {
        let text = format!("Encoded authorization failure message: {attempt}");
        let denied = Fault::on(Action::ListTaskDefinitions).times(1).error("AccessDeniedException", text);
        policies.world.ecs.fault(denied);
    }
    policies.apply("web", &["web"], 5, json!({})).await;
    let _controller = policies.world.start();
    policies.wait("web", "AccessDenied").await;
    let version = async || policies.api().get("web").await.expect("a policy").resource_version();
    let first = version().await;
    policies.world.ecs.wait_for_calls(Action::ListTaskDefinitions, 3, Duration::from_mins(2)).await;
    assert_eq!(version().await, first, "no write while a run is retried");
}

#[tokio::test]
async fn policy_changed_during_a_read_is_obeyed() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 250);
    let api = policies.api();
    policies.world.ecs.before(Action::ListTaskDefinitions, 3, async move {
        let patch = kube::api::Patch::Merge(json!({ "spec": { "keep": { "latest": 240 } } }));
        api.patch("web", &kube::api::PatchParams::default(), &patch).await.expect("it is patched");
    });
    policies.apply("web", &["web"], 5, json!({ "approval": "Automatic" })).await;
    let _controller = policies.world.start();
    policies.wait("web", "Succeeded").await;
    let expected: Vec<String> = (1..=10).map(|number| format!("web:{number}")).collect();
    assert_eq!(policies.declared().await, expected);
    assert_eq!(policies.retirements().await[0].data["spec"]["keepLatest"], 240);
}
