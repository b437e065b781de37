//! The same on moto: what is promised on our own simulated ECS holds on one that strangers wrote.

use aws_sdk_ecs::types::TaskDefinitionStatus::{Active, Inactive};
use serde_json::json;
use testkit::{moto::Moto, process::Process};

use crate::support::{World, stop};

/// A world whose controllers talk to moto. Its families are called after its namespace: all tests share one moto.
struct MotoWorld {
    world: World<'static>,
    moto: &'static Moto,
}

impl MotoWorld {
    async fn new() -> Self {
        let (world, moto) = tokio::join!(World::new(), Moto::shared());
        Self { world, moto }
    }

    fn start(&self) -> Process {
        let environment = self.moto.environment();
        self.world.start_with(&environment.each_ref().map(|(name, value)| (*name, value.as_str())))
    }

    /// The family of this test; `suffix` makes more of them.
    fn family(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.world.namespace.name())
    }

    /// Registers that many revisions of the family of this test.
    async fn register<const COUNT: usize>(&self) -> [String; COUNT] {
        let mut revisions = [const { String::new() }; COUNT];
        for revision in &mut revisions {
            *revision = self.moto.register(&self.family("")).await;
        }
        revisions
    }

    async fn deregister(&self, revision: &str) {
        let request = self.moto.client().deregister_task_definition().task_definition(revision);
        request.send().await.expect("moto deregisters what it has");
    }

    /// Waits until the controller has caught up: what was declared last, under another name, is done.
    async fn wait_until_all_is_seen(&self) {
        let revision = self.moto.register(&self.family("-fence")).await;
        self.world.declare("fence", &[&revision]).await;
        self.world.wait_ready("fence").await;
    }
}

fn arn_in(region: &str, account: &str, revision: &str) -> String {
    format!("arn:aws:ecs:{region}:{account}:task-definition/{revision}")
}

fn arn(revision: &str) -> String {
    arn_in(Moto::REGION, Moto::ACCOUNT, revision)
}

#[tokio::test]
async fn a_revision_is_retired_and_no_other_of_its_family() {
    let here = MotoWorld::new().await;
    let [first, second, third] = here.register().await;
    here.world.declare("web", &[&second]).await;
    let _controller = here.start();

    let seen = here.world.wait_ready("web").await;
    assert_eq!((seen.text("account"), seen.text("region")), (Moto::ACCOUNT, Moto::REGION));
    assert_eq!((seen.text("progress"), seen.ready_reason()), ("1/1", "Retired"));
    let row = seen.row(&second);
    assert_eq!((&row["status"], &row["reason"]), (&json!("INACTIVE"), &json!("Retired")), "{seen}");
    assert_eq!(row["arn"], arn(&second));
    assert!(row["requestId"].is_string(), "{seen}");
    assert_eq!(here.moto.status(&second).await, Some(Inactive));
    for other in [first, third] {
        assert_eq!(here.moto.status(&other).await, Some(Active));
    }
}

#[tokio::test]
async fn a_revision_is_retired_by_its_arn() {
    let here = MotoWorld::new().await;
    let [first, second] = here.register().await;
    here.world.declare("web", &[&arn(&first)]).await;
    let _controller = here.start();

    let seen = here.world.wait_ready("web").await;
    assert_eq!(seen.reason(&first), "Retired", "the short form is the key: {seen}");
    assert_eq!(here.moto.status(&first).await, Some(Inactive));
    assert_eq!(here.moto.status(&second).await, Some(Active));
}

#[tokio::test]
async fn a_time_that_moto_never_tells_is_not_asked_for_for_ever() {
    let here = MotoWorld::new().await;
    let [revision] = here.register().await;
    here.world.declare("web", &[&revision]).await;
    let _controller = here.start();
    let seen = here.world.wait("web", "end of the looks", |seen| {
        seen.ready() == "True" && seen.row(&revision)["message"].is_null()
    });
    let seen = seen.await;
    assert!(seen.row(&revision)["requestId"].is_string(), "{seen}");
}

#[tokio::test]
async fn what_is_inactive_already_stays_so_and_is_reported_retired() {
    let here = MotoWorld::new().await;
    let [revision] = here.register().await;
    here.deregister(&revision).await;
    here.world.declare("web", &[&revision]).await;
    let _controller = here.start();

    let seen = here.world.wait_ready("web").await;
    let row = seen.row(&revision);
    assert_eq!((&row["status"], &row["reason"]), (&json!("INACTIVE"), &json!("Retired")), "{seen}");
    assert!(row["requestId"].is_null(), "somebody else's call: {seen}");
    assert_eq!(here.moto.status(&revision).await, Some(Inactive));
}

#[tokio::test]
async fn a_missing_revision_is_not_retired_once_it_is_there_until_somebody_asks() {
    let here = MotoWorld::new().await;
    let revision = here.family(":1");
    here.world.declare("api", &[&revision]).await;
    let mut controller = here.start();
    let seen = here.world.wait_stalled("api").await;
    assert_eq!((seen.reason(&revision), seen.ready()), ("NotFound", "False"), "{seen}");
    assert!(seen.message(&revision).contains("ClientException: "), "{seen}");

    let [registered] = here.register().await;
    assert_eq!(registered, revision);
    stop(&mut controller).await;
    let _controller = here.start();
    here.wait_until_all_is_seen().await;
    assert_eq!(here.world.seen("api").await.reason(&revision), "NotFound");
    assert_eq!(here.moto.status(&revision).await, Some(Active));

    here.world.request("api", "now").await;
    let seen = here.world.wait_ready("api").await;
    assert_eq!(seen.text("lastHandledReconcileAt"), "now");
    assert_eq!(here.moto.status(&revision).await, Some(Inactive));
}

#[tokio::test]
async fn suspend_and_dry_run_leave_a_revision_active_until_they_are_taken_back() {
    let here = MotoWorld::new().await;
    let [first, second] = here.register().await;
    let held = [("held", "suspend", "Suspended", &first), ("tried", "dryRun", "DryRun", &second)];
    for (name, field, _, revision) in held {
        here.world.apply(name, json!({ "revisions": [revision], field: true })).await.expect("admitted");
    }
    let _controller = here.start();
    for (name, _, reason, revision) in held {
        let seen = here.world.wait(name, reason, |seen| seen.reason(revision) == reason).await;
        assert_eq!((seen.ready(), &seen.row(revision)["status"]), ("False", &json!("ACTIVE")), "{seen}");
    }
    here.wait_until_all_is_seen().await;
    for (name, _, _, revision) in held {
        assert_eq!(here.moto.status(revision).await, Some(Active));
        here.world.declare(name, &[revision]).await;
        here.world.wait_ready(name).await;
        assert_eq!(here.moto.status(revision).await, Some(Inactive));
    }
}

#[tokio::test]
async fn two_resources_that_declare_one_revision_both_report_it_and_one_has_made_the_call() {
    let here = MotoWorld::new().await;
    let [revision] = here.register().await;
    here.world.declare("short", &[&revision]).await;
    here.world.declare("arn", &[&arn(&revision)]).await;
    let _controller = here.start();

    let mut calls = 0;
    for name in ["short", "arn"] {
        let seen = here.world.wait_ready(name).await;
        assert_eq!(seen.reason(&revision), "Retired", "{seen}");
        calls += usize::from(seen.row(&revision)["requestId"].is_string());
    }
    assert_eq!(calls, 1);
    assert_eq!(here.moto.status(&revision).await, Some(Inactive));
}

#[tokio::test]
async fn a_family_alone_and_what_moto_would_take_for_a_revision_are_refused() {
    let here = MotoWorld::new().await;
    let [revision] = here.register().await;
    let _controller = here.start();
    for suffix in ["", ":0", ":01", ":+1", ": 1", ":latest"] {
        let declared = here.family(suffix);
        let refused = here.world.apply("web", json!({ "revisions": [declared] })).await;
        let message = refused.expect_err(&declared);
        assert!(message.contains("write family:revision"), "{message}");
    }
    here.wait_until_all_is_seen().await;
    assert_eq!(here.moto.status(&revision).await, Some(Active));
}

#[tokio::test]
async fn an_arn_of_elsewhere_leaves_its_namesake_alone_though_moto_would_deregister_it() {
    let here = MotoWorld::new().await;
    let [first, second] = here.register().await;
    let account = arn_in(Moto::REGION, "999999999999", &first);
    let region = arn_in("eu-west-1", Moto::ACCOUNT, &second);
    here.world.declare("web", &[&account, &region]).await;
    let _controller = here.start();

    let seen = here.world.wait_stalled("web").await;
    assert_eq!((seen.reason(&account), seen.reason(&region)), ("WrongAccount", "WrongRegion"), "{seen}");
    for namesake in [first, second] {
        assert_eq!(here.moto.status(&namesake).await, Some(Active));
    }
}

#[tokio::test]
async fn a_mixed_resource_retires_what_it_can_and_tells_of_each_what_it_is() {
    let here = MotoWorld::new().await;
    let [short, long, inactive, undeclared] = here.register().await;
    here.deregister(&inactive).await;
    let missing = here.family(":99");
    let elsewhere = arn_in(Moto::REGION, "999999999999", &undeclared);
    here.world.declare("web", &[&short, &arn(&long), &inactive, &missing, &elsewhere]).await;
    let _controller = here.start();

    let seen = here.world.wait_stalled("web").await;
    let expected = [
        (&short, "Retired"),
        (&long, "Retired"),
        (&inactive, "Retired"),
        (&missing, "NotFound"),
        (&elsewhere, "WrongAccount"),
    ];
    for (revision, reason) in expected {
        assert_eq!(seen.reason(revision), reason, "{seen}");
    }
    assert_eq!(seen.text("progress"), "3/5");
    assert_eq!((seen.number("retired"), seen.number("waiting"), seen.number("rejected")), (3, 0, 2));
    for revision in [short, long, inactive] {
        assert_eq!(here.moto.status(&revision).await, Some(Inactive));
    }
    assert_eq!(here.moto.status(&undeclared).await, Some(Active));
    assert_eq!(here.moto.status(&missing).await, None);
}
