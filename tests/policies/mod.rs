//! Retention policies: what they propose, and what becomes of it.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Status};
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Seen, World};

mod changes;
mod interruptions;
mod metrics;
mod scope;

const POLICY_CRD: &str = include_str!("../../crds/ecs-retirement.dev_taskdefinitionretentionpolicies.yaml");

/// A world with policies.
struct Policies {
    world: World<'static>,
}

impl Policies {
    async fn new() -> Self {
        let world = World::new().await;
        world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
        world.west.cluster("prod");
        Self { world }
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("ecs-retirement.dev", "v1alpha1", "TaskDefinitionRetentionPolicy");
        let kind = ApiResource::from_gvk_with_plural(&kind, "taskdefinitionretentionpolicies");
        Api::namespaced_with(self.world.namespace.client(), self.world.namespace.name(), &kind)
    }

    /// Applies a policy that keeps `latest` revisions of the families `include`. `more` is the rest
    /// of its spec.
    async fn apply(&self, name: &str, include: &[&str], latest: u32, mut more: Value) {
        more["families"]["include"] = json!(include);
        more["keep"]["latest"] = json!(latest);
        let manifest = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "TaskDefinitionRetentionPolicy",
            "metadata": { "name": name },
            "spec": more,
        });
        self.world.namespace.apply(manifest).await.expect("the policy is admitted");
    }

    async fn patch(&self, name: &str, patch: Value) {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it is patched");
    }

    async fn seen(&self, name: &str) -> Value {
        self.api().get(name).await.expect("the policy is there").data
    }

    /// Waits until a run of the present generation is complete, with this reason of Ready.
    async fn wait(&self, name: &str, reason: &str) -> Value {
        let began = Instant::now();
        loop {
            let policy = self.api().get(name).await.expect("the policy is there");
            let status = &policy.data["status"];
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let has_reason = conditions.iter().any(|it| it["type"] == "Ready" && it["reason"] == reason);
            let is_current = status["observedGeneration"].as_i64() == policy.metadata.generation;
            if has_reason && is_current {
                return policy.data;
            }
            assert!(began.elapsed() < DEADLINE, "no {reason}: {}", policy.data);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the retirements of the namespace, sorted by name.
    async fn retirements(&self) -> Vec<DynamicObject> {
        let mut list = self.world.api().list(&ListParams::default()).await.expect("a list").items;
        list.sort_by_key(|it| it.metadata.name.clone());
        list
    }

    /// Returns the revisions that the retirements declare.
    async fn declared(&self) -> Vec<String> {
        let retirements = self.retirements().await;
        let revisions = retirements.iter().filter_map(|it| it.data["spec"]["revisions"].as_array().cloned());
        revisions.flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
    }

    /// Approves all retirements, as `kubectl patch` does.
    async fn approve(&self) {
        for retirement in self.retirements().await {
            let name = retirement.metadata.name.unwrap_or_default();
            let patch = Patch::Merge(json!({ "spec": { "suspend": false } }));
            self.world.api().patch(&name, &PatchParams::default(), &patch).await.expect("it is approved");
        }
    }

    fn deregistered(&self) -> usize {
        self.world.ecs.calls_of(Action::DeregisterTaskDefinition).len()
    }
}

#[tokio::test]
async fn policy_proposes_what_it_does_not_keep_and_waits_for_approval() {
    let policies = Policies::new().await;
    let now = Timestamp::now();
    for family in 0..12 {
        // One revision a day: the last ten are younger than 10 days.
        let first = now - SignedDuration::from_hours(40 * 24 - 1);
        let name = format!("web-{family}");
        policies.world.west.register_many_at(&name, 40, first, SignedDuration::from_hours(24));
    }
    policies.world.west.register_many("api", 40);
    policies.apply("web", &["web-*"], 5, json!({ "keep": { "youngerThan": "240h" } })).await;
    let _controller = policies.world.start();
    let policy = policies.wait("web", "AwaitingApproval").await;
    let status = &policy["status"];
    assert_eq!((&status["matchedFamilies"], &status["retirable"]), (&json!(12), &json!(360)), "{status}");
    assert_eq!(status["pendingApproval"], 1, "{status}");
    let expected: Vec<String> = {
        let mut names: Vec<String> = (0..12).map(|family| format!("web-{family}")).collect();
        names.sort();
        names.iter().flat_map(|name| (1..=30).map(move |number| format!("{name}:{number}"))).collect()
    };
    assert_eq!(policies.declared().await, expected);
    let retirement = &policies.retirements().await[0];
    let spec = &retirement.data["spec"];
    assert_eq!((&spec["suspend"], &spec["keepLatest"]), (&json!(true), &json!(5)), "{spec}");
    assert_eq!(
        (&spec["accountId"], &spec["region"]),
        (&json!("012345678910"), &json!("us-west-2")),
        "{spec}"
    );
    assert_eq!(policies.deregistered(), 0);

    policies.approve().await;
    let name = retirement.metadata.name.clone().unwrap_or_default();
    policies.world.wait_for(&name, "Ready", Duration::from_mins(5), |seen| seen.ready() == "True").await;
    assert_eq!(policies.deregistered(), 360);
    assert_eq!(policies.world.west.status("web-3:31"), Some(Status::Active));
    policies.wait("web", "Succeeded").await;
    let is_record = |seen: &Seen| seen.0.owner_references().is_empty();
    let record = policies.world.wait(&name, "record without an owner", is_record).await;
    let uid = policies.api().get("web").await.expect("a policy").metadata.uid.unwrap_or_default();
    assert_eq!(record.0.labels().get("ecs-retirement.dev/policy-uid"), Some(&uid), "{record}");
}

#[tokio::test]
async fn automatic_policy_retires_unused_revisions_and_keeps_what_is_in_use() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 10);
    let shop = testkit::simulated_ecs::Service::steady("shop", "web:2");
    policies.world.west.cluster("prod").put_service(shop);
    let keep = json!({ "approval": "Automatic", "keep": { "revisions": ["web:3"] } });
    policies.apply("web", &["web"], 5, keep).await;
    let _controller = policies.world.start();
    let policy = policies.wait("web", "Succeeded").await;
    assert_eq!(policy["status"]["inUse"], 1, "{policy}");
    assert_eq!(policies.declared().await, ["web:1", "web:4", "web:5"]);
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    policies.world.wait_ready(&name).await;
    assert_eq!(policies.deregistered(), 3);
}

#[tokio::test]
async fn dry_run_policy_is_an_inventory() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 8);
    policies.apply("web", &["web"], 5, json!({ "retirement": { "dryRun": true } })).await;
    let _controller = policies.world.start();
    policies.wait("web", "DryRun").await;
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    policies.world.wait(&name, "DryRun", |seen| seen.reasons() == ["DryRun"; 3]).await;
    assert_eq!(policies.deregistered(), 0);

    policies.patch("web", json!({ "spec": { "retirement": { "dryRun": false } } })).await;
    policies.wait("web", "AwaitingApproval").await;
    let retirements = policies.retirements().await;
    assert_eq!(retirements.len(), 1, "the dry run is replaced");
    assert_eq!(retirements[0].data["spec"]["suspend"], true);

    policies.patch("web", json!({ "spec": { "retirement": { "dryRun": true } } })).await;
    policies.wait("web", "DryRun").await;
    policies.approve().await;
    let name = retirements[0].metadata.name.clone().unwrap_or_default();
    let seen = policies.world.wait(&name, "Kept", |seen| seen.reasons() == ["Kept"; 3]).await;
    assert!(seen.message("web:1").contains("its policy web is a dry run"), "{seen}");
    assert_eq!(policies.deregistered(), 0);
}

#[tokio::test]
async fn policy_that_includes_nothing_says_so() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 8);
    policies.apply("web", &["web"], 1, json!({ "families": { "exclude": ["*"] } })).await;
    let _controller = policies.world.start();
    let policy = policies.wait("web", "NoFamilies").await;
    assert_eq!(policy["status"]["matchedFamilies"], 0);
    assert!(policies.retirements().await.is_empty());
}
