//! `approval.enforce`: proposers cannot start a retirement, approvers can, and the controller
//! works.

use serde_json::{Value, json};
use testkit::{
    control_plane::ControlPlane,
    simulated_ecs::{Action, Status},
};
use tokio::time::{Instant, sleep};

use crate::{
    releases::{install, start_pod},
    support::{DEADLINE, World},
};

const RELEASE: &str = "ecs-retirement";

const REFUSAL: &str = "only users with the verb approve on taskdefinitionretirements may ";

/// A namespace with a user who proposes and another who approves.
struct Approval<'plane> {
    world: World<'plane>,
}

impl<'plane> Approval<'plane> {
    async fn on(plane: &'plane ControlPlane) -> Self {
        install(plane, RELEASE, &["--set=approval.enforce=true"]).await;
        let approval = Self { world: World::on(plane, "").await };
        let approver = format!("{RELEASE}:retirement-ecs-retirement-controller:approve");
        let kinds =
            "taskdefinitionretirements.ecs-retirement.dev,taskdefinitionretentionpolicies.ecs-retirement.dev";
        for command in [
            &format!(
                "kubectl create role proposer --verb=get,list,create,update,patch,delete --resource={kinds}"
            ),
            "kubectl create rolebinding proposer --role=proposer --user=proposer --user=both",
            &format!(
                "kubectl create rolebinding approver --clusterrole={approver} --user=approver --user=both"
            ),
        ] {
            let (is_done, output) = approval.world.shell(command).await;
            assert!(is_done, "{command}: {output}");
        }
        let began = Instant::now();
        // The API server enforces a new policy after a moment.
        let probe = retirement("probe", &json!({ "revisions": ["web:1"] }));
        while approval.apply_as("proposer", "--dry-run=server", &probe).await.is_ok() {
            assert!(began.elapsed() < DEADLINE, "approval is not enforced");
            sleep(std::time::Duration::from_millis(100)).await;
        }
        approval
    }

    /// Applies a manifest as a user. `Err` with the refusal.
    async fn apply_as(&self, user: &str, options: &str, manifest: &Value) -> Result<String, String> {
        self.run(&format!("kubectl apply --as={user} {options} -f - <<'END'\n{manifest}\nEND")).await
    }

    /// Patches an object, such as `tdr/web`, as a user. `Err` with the refusal.
    async fn patch_as(&self, user: &str, object: &str, patch: &Value) -> Result<String, String> {
        self.run(&format!("kubectl patch {object} --as={user} --type=merge --patch='{patch}'")).await
    }

    async fn run(&self, command: &str) -> Result<String, String> {
        let (is_done, output) = self.world.shell(command).await;
        if is_done { Ok(output) } else { Err(output) }
    }

    /// Asserts that the admission policy refuses a patch of the proposer, and that the approver may
    /// make it.
    async fn assert_needs_approval(&self, object: &str, patch: Value, text: &str) {
        let refusal = self.patch_as("proposer", object, &patch).await.expect_err(text);
        assert!(refusal.contains(REFUSAL) && refusal.contains(text), "{patch}: {refusal}");
        let approved = self.patch_as("both", object, &patch).await;
        assert!(approved.is_ok(), "{patch}: {approved:?}");
    }

    /// Asserts that the proposer may make a patch.
    async fn assert_is_free(&self, object: &str, patch: Value) {
        let outcome = self.patch_as("proposer", object, &patch).await;
        assert!(outcome.is_ok(), "{patch}: {outcome:?}");
    }

    /// Waits until the policy has one proposal, and returns its name as `tdr/NAME`.
    async fn proposal(&self, policy: &str) -> String {
        let wait = format!(
            "kubectl wait --for=jsonpath='{{.status.pendingApproval}}'=1 tdrp/{policy} --timeout=20s"
        );
        self.run(&wait).await.expect("it proposes");
        let list = format!("kubectl get tdr --selector=ecs-retirement.dev/policy={policy} --output=name");
        let name = self.run(&list).await.expect("a list");
        name.trim().replace("taskdefinitionretirement.ecs-retirement.dev", "tdr")
    }
}

fn retirement(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement",
        "metadata": { "name": name }, "spec": spec,
    })
}

fn policy(name: &str, family: &str, more: &Value) -> Value {
    let mut spec = json!({ "families": { "include": [family] }, "keep": { "latest": 1 } });
    spec.as_object_mut().expect("a spec").extend(more.as_object().cloned().unwrap_or_default());
    json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetentionPolicy",
        "metadata": { "name": name }, "spec": spec,
    })
}

fn spec(spec: &Value) -> Value {
    json!({ "spec": spec })
}

#[tokio::test]
async fn proposer_suspends_and_narrows_and_only_an_approver_starts_or_extends_a_retirement() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    let approval = Approval::on(&plane).await;
    for (name, declared) in [
        ("unsuspended", json!({ "revisions": ["web:1"] })),
        ("dry-run", json!({ "revisions": ["web:1"], "dryRun": true })),
    ] {
        let refusal = approval.apply_as("proposer", "", &retirement(name, &declared)).await;
        let refusal = refusal.expect_err(name);
        let text = "may create or change a retirement that is not suspended: set spec.suspend to true";
        assert!(refusal.contains(text), "{refusal}");
        let applied = approval.apply_as("both", "", &retirement(name, &declared)).await;
        assert!(applied.is_ok(), "{name}: {applied:?}");
    }
    let proposed = json!({ "revisions": ["web:1", "web:2", "web:3"], "suspend": true });
    approval.apply_as("proposer", "", &retirement("web", &proposed)).await.expect("a proposal is free");
    let started = "a retirement that is not suspended";
    let web = "tdr/web";
    approval
        .assert_is_free(web, spec(&json!({ "unusedFor": "1h", "revisions": ["web:1", "web:2", "web:4"] })))
        .await;
    approval.assert_needs_approval(web, spec(&json!({ "suspend": false })), started).await;

    // It is not suspended from here on.
    approval
        .assert_is_free(web, json!({ "metadata": { "annotations": { "a": "b" }, "labels": { "a": "b" } } }))
        .await;
    approval.assert_is_free(web, spec(&json!({ "suspend": false }))).await;
    approval.assert_is_free(web, spec(&json!({ "revisions": ["web:2", "web:1"] }))).await;
    approval
        .assert_needs_approval(web, spec(&json!({ "revisions": ["web:1", "web:2", "web:3"] })), started)
        .await;
    approval.assert_needs_approval(web, spec(&json!({ "revisions": ["web:1", "web:9"] })), started).await;
    for change in [
        json!({ "unusedFor": null }),
        json!({ "inUse": "Retire" }),
        json!({ "inUse": "Wait", "keepLatest": 2 }),
        json!({ "keepLatest": null, "revisions": ["web:1"] }),
        json!({ "dryRun": true }),
        json!({ "dryRun": false }),
        json!({ "region": "us-west-2" }),
    ] {
        approval.assert_needs_approval(web, spec(&change), started).await;
    }
    approval.assert_is_free(web, spec(&json!({ "suspend": true }))).await;
    approval.assert_is_free(web, spec(&json!({ "revisions": ["web:1", "api:1"] }))).await;

    let many =
        |count: u32| (1..=count).map(|number| format!("{}:{number}", "w".repeat(250))).collect::<Vec<_>>();
    let largest = retirement("largest", &json!({ "revisions": many(500) }));
    approval.apply_as("both", "", &largest).await.expect("an approver may create it");
    approval.assert_is_free("tdr/largest", spec(&json!({ "revisions": many(499) }))).await;
    approval.run("kubectl delete tdr web --as=proposer").await.expect("deleting is free");
}

#[tokio::test]
async fn policies_propose_as_before_and_automatic_ones_need_an_approver() {
    let plane = ControlPlane::start().await.expect("a control plane of its own");
    let approval = Approval::on(&plane).await;
    let world = &approval.world;
    world.west.cluster("prod");
    for family in ["web", "api", "cron"] {
        world.west.register_many(family, 4);
    }
    let controller = start_pod(world, RELEASE, "first").await;
    approval
        .apply_as("proposer", "", &policy("web", "web", &json!({})))
        .await
        .expect("a manual policy is free");
    let name = approval.proposal("web").await;
    let web = name.as_str();
    approval.assert_is_free(web, spec(&json!({ "revisions": ["web:1", "web:2"] }))).await;
    let label = json!({ "metadata": { "labels": { "ecs-retirement.dev/policy-uid": null } } });
    let refusal = approval.patch_as("proposer", web, &label).await.expect_err("the label is protected");
    assert!(refusal.contains("may change the label ecs-retirement.dev/policy-uid"), "{refusal}");
    let more = spec(&json!({ "revisions": ["web:1", "web:2", "web:3"] }));
    approval.assert_needs_approval(web, more, "add revisions to a retirement of a policy").await;
    approval.assert_is_free(web, spec(&json!({ "revisions": ["web:1", "web:2"] }))).await;
    let approve = spec(&json!({ "suspend": false }));
    let refusal = approval.patch_as("proposer", web, &approve).await.expect_err("it is not an approver");
    assert!(refusal.contains(REFUSAL), "{refusal}");
    approval.patch_as("approver", web, &approve).await.expect("an approver approves");
    approval
        .run(&format!("kubectl wait --for=condition=Ready {web} --timeout=20s"))
        .await
        .expect("it is retired");
    assert_eq!(world.west.status("web:2"), Some(Status::Inactive));
    assert_eq!(world.west.status("web:3"), Some(Status::Active));

    // The controller creates dry runs, which are not suspended, and narrows what is approved.
    let inventory = policy("api", "api", &json!({ "retirement": { "dryRun": true } }));
    approval.apply_as("proposer", "", &inventory).await.expect("a dry run is free");
    let wait = "kubectl wait --for=jsonpath='{.status.conditions[0].reason}'=DryRun tdrp/api --timeout=20s";
    approval.run(wait).await.expect("a dry run is created");
    let list = "kubectl get tdr --selector=ecs-retirement.dev/policy=api --output=name";
    let dry_run = approval.run(list).await.expect("a list");
    let refusal = approval.patch_as("proposer", dry_run.trim(), &spec(&json!({ "dryRun": false }))).await;
    assert!(refusal.expect_err("it would start").contains(REFUSAL));

    let automatic = policy("cron", "cron", &json!({ "approval": "Automatic" }));
    let refusal = approval.apply_as("proposer", "", &automatic).await.expect_err("it needs an approver");
    assert!(refusal.contains("may write a policy with approval: Automatic"), "{refusal}");
    let change = spec(&json!({ "approval": "Automatic" }));
    let refusal = approval.patch_as("proposer", "tdrp/web", &change).await.expect_err("it needs an approver");
    assert!(refusal.contains("may write a policy with approval: Automatic"), "{refusal}");
    approval.apply_as("both", "", &automatic).await.expect("an approver may write it");
    approval.assert_is_free("tdrp/cron", json!({ "metadata": { "annotations": { "a": "b" } } })).await;
    approval
        .assert_needs_approval("tdrp/cron", spec(&json!({ "keep": { "latest": 2 } })), "approval: Automatic")
        .await;
    approval.assert_is_free("tdrp/cron", spec(&json!({ "approval": "Manual" }))).await;
    let began = Instant::now();
    while world.west.status("cron:1") != Some(Status::Inactive) {
        assert!(began.elapsed() < DEADLINE, "{:?}", world.ecs.calls_of(Action::DeregisterTaskDefinition));
        sleep(std::time::Duration::from_millis(100)).await;
    }
    controller.assert_nothing_was_refused(&[r#"method="POST",code="201""#]).await;
}
