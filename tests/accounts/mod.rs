//! EcsAccounts: which credentials are used, what they allow, and how soon a change takes effect.

use std::time::Duration;

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use testkit::{
    process::Process,
    simulated_ecs::{ACCOUNT, Action, Call, Region, Role},
};
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, REGION, Seen, Verdict, World};

mod changes;
mod credentials;
mod guards;
mod isolation;

/// The CRD of EcsAccounts, as it is committed.
const ACCOUNT_CRD: &str = include_str!("../../crds/ecs-retirement.dev_ecsaccounts.yaml");

/// A second AWS account, in which the controller assumes a role.
const MEMBER: &str = "111122223333";
const ROLE: &str = "arn:aws:iam::111122223333:role/ecs-retirement";

/// How soon a change of an EcsAccount or a namespace takes effect.
const REACTION: Duration = Duration::from_secs(10);

/// A world with a role in a second account. EcsAccounts have names and a controller name of their
/// own, because all tests share the API server.
struct Accounts {
    world: World<'static>,
    role: Role,
    member: Region,
}

fn api_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("ecs-retirement.dev", "v1alpha1", "EcsAccount");
    ApiResource::from_gvk_with_plural(&kind, "ecsaccounts")
}

impl Accounts {
    async fn new() -> Self {
        let world = World::new().await;
        world.namespace.install_crds(ACCOUNT_CRD).await.expect("the CRD installs");
        let role = world.ecs.role(ROLE).trust(ACCOUNT);
        let member = world.ecs.account(MEMBER).region(REGION);
        member.register_many("web", 5);
        Self { world, role, member }
    }

    fn start(&self) -> Process {
        self.start_with(&[])
    }

    fn start_with(&self, environment: &[(&str, &str)]) -> Process {
        let own = [("CONTROLLER_NAME", self.world.namespace.name())];
        self.world.start_with(&[own.as_slice(), environment].concat())
    }

    /// Returns the name of an EcsAccount of this test.
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.world.namespace.name())
    }

    /// Returns the spec of an EcsAccount for the second account that allows this namespace and
    /// every family.
    fn spec(&self) -> Value {
        json!({
            "controllerName": self.world.namespace.name(),
            "accountId": MEMBER,
            "region": REGION,
            "assumeRole": { "roleArn": ROLE },
            "allowedNamespaces": { "names": [self.world.namespace.name()] },
            "families": { "allow": ["*"] },
        })
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::all_with(self.world.namespace.client(), &api_resource())
    }

    /// Applies an EcsAccount with the spec of [`Self::spec`] and these changes.
    async fn account(&self, name: &str, changes: Value) {
        let mut spec = self.spec();
        for (field, value) in changes.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        let manifest = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "EcsAccount",
            "metadata": { "name": self.name(name) },
            "spec": spec,
        });
        self.world.namespace.apply(manifest).await.expect("the EcsAccount is admitted");
    }

    async fn patch(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api().patch(&self.name(name), &PatchParams::default(), &patch).await.expect("it is patched");
    }

    async fn delete(&self, name: &str) {
        self.api().delete(&self.name(name), &DeleteParams::default()).await.expect("it is deleted");
    }

    /// Applies a retirement that names an EcsAccount. `more` is the rest of its spec.
    async fn declare(&self, name: &str, account: &str, revisions: &[&str], mut more: Value) {
        more["revisions"] = json!(revisions);
        more["accountRef"] = json!({ "name": self.name(account) });
        self.world.apply(name, more).await.expect("the resource is admitted");
    }

    /// Waits until all rows of a resource have this reason.
    async fn wait_reason(&self, name: &str, reason: &str) -> crate::support::Seen {
        self.world
            .wait_for(name, reason, DEADLINE, |seen| {
                !seen.reasons().is_empty() && seen.reasons().iter().all(|it| *it == reason)
            })
            .await
    }

    /// Waits until the condition Ready of an EcsAccount has this reason. Returns the EcsAccount.
    async fn wait_account(&self, name: &str, reason: &str) -> Value {
        self.wait_account_for(name, reason, DEADLINE).await
    }

    async fn wait_account_for(&self, name: &str, reason: &str, within: Duration) -> Value {
        let began = Instant::now();
        loop {
            let account = self.api().get(&self.name(name)).await.expect("the EcsAccount is there").data;
            let conditions = account["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|it| it["type"] == "Ready" && it["reason"] == reason) {
                return account;
            }
            assert!(began.elapsed() < within, "no {reason}: {account}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns what kstatus and Argo CD conclude about an EcsAccount.
    async fn verdicts(&self, name: &str) -> (Verdict, String) {
        let account = self.api().get(&self.name(name)).await.expect("the EcsAccount is there");
        let seen = Seen(account);
        (seen.verdict(), seen.health())
    }

    fn member_calls(&self) -> Vec<Call> {
        self.world.ecs.account(MEMBER).ecs_calls()
    }

    fn deregistered(&self) -> usize {
        let is_deregister = |call: &&Call| call.action == Action::DeregisterTaskDefinition;
        self.member_calls().iter().filter(is_deregister).count()
    }
}

#[tokio::test]
async fn kstatus_and_argo_cd_conclude_the_right_verdict_of_accounts() {
    let accounts = Accounts::new().await;
    accounts.account("prod", json!({})).await;
    let role = "arn:aws:iam::222233334444:role/ecs-retirement";
    accounts.world.ecs.role(role).trust(ACCOUNT).acts_in(MEMBER);
    accounts
        .account("mismatch", json!({ "accountId": "222233334444", "assumeRole": { "roleArn": role } }))
        .await;
    accounts.account("denied", json!({ "assumeRole": { "roleArn": format!("{ROLE}-of-another") } })).await;
    assert_eq!(accounts.verdicts("prod").await, (Verdict::InProgress, "Progressing".to_owned()), "not seen");
    let _controller = accounts.start();
    for (name, reason, verdict, health) in [
        ("prod", "Verified", Verdict::Current, "Healthy"),
        ("mismatch", "AccountMismatch", Verdict::Failed, "Degraded"),
        ("denied", "AccessDenied", Verdict::InProgress, "Progressing"),
    ] {
        accounts.wait_account(name, reason).await;
        assert_eq!(accounts.verdicts(name).await, (verdict, health.to_owned()), "{name}");
    }
    for (name, account, region, reason, verdict) in [
        ("refused", "prod", "eu-west-1", "NotAllowed", Verdict::Failed),
        ("not-ready", "denied", REGION, "AccountNotReady", Verdict::InProgress),
    ] {
        accounts.declare(name, account, &["web:1"], json!({ "region": region })).await;
        let seen = accounts.wait_reason(name, reason).await;
        assert_eq!(seen.verdict(), verdict, "{seen}");
    }
}

#[tokio::test]
async fn retirement_uses_the_credentials_of_its_account() {
    let accounts = Accounts::new().await;
    accounts.account("prod", json!({})).await;
    accounts.declare("web", "prod", &["web:1", "web:2"], json!({})).await;
    let _controller = accounts.start();
    let seen = accounts.world.wait_ready("web").await;
    assert_eq!(seen.status()["account"], MEMBER, "{seen}");
    assert_eq!(accounts.deregistered(), 2);
    assert!(accounts.member_calls().iter().all(|call| call.role.as_deref() == Some(ROLE)));
    assert!(accounts.world.ecs.account(ACCOUNT).ecs_calls().is_empty(), "not the controller's own account");
    let account = accounts.wait_account("prod", "Verified").await;
    assert_eq!(account["status"]["callerArn"], "arn:aws:sts::111122223333:assumed-role/ecs-retirement");
}
