//! Only revisions that a current resource declares, and does not suspend, are deregistered.

use serde_json::json;
use testkit::simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Fault, Status};

use crate::support::{Seen, World, stop};

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

#[tokio::test]
async fn revision_of_another_account_partition_or_region_is_never_sent_to_ecs() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    let foreign = [
        ("arn:aws:ecs:us-west-2:999999999999:task-definition/web:2", "WrongAccount"),
        ("arn:aws-cn:ecs:us-west-2:012345678910:task-definition/web:2", "WrongAccount"),
        ("arn:aws:ecs:eu-west-1:012345678910:task-definition/web:2", "WrongRegion"),
    ];
    let mut declared: Vec<&str> = foreign.iter().map(|(arn, _)| *arn).collect();
    declared.push("web:1");
    world.declare("web", &declared).await;
    let _controller = world.start();

    let seen = world.wait_until_blocked("web").await;
    for (arn, reason) in foreign {
        assert_eq!(seen.reason(arn), reason, "{seen}");
        assert!(!seen.message(arn).is_empty(), "{seen}");
    }
    assert_eq!(seen.reason("web:1"), "Retired");
    assert_eq!(seen.text("progress"), "1/4");
    assert_eq!(seen.number("rejected"), 3);
    let own = world.west.arn("web:1");
    for call in world.ecs.calls() {
        assert!(call.task_definition.is_none_or(|named| named == own));
        assert_eq!(call.region, "us-west-2");
    }
}

#[tokio::test]
async fn ecs_is_not_called_before_the_caller_identity_is_known() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.fault(Fault::on(Action::GetCallerIdentity).access_denied());
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();

    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
    assert!(seen.ready_message().contains("AccessDenied"), "{seen}");
    assert!(world.ecs.calls().iter().all(|call| call.action == Action::GetCallerIdentity));

    world.ecs.clear_faults();
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.text("account"), ACCOUNT);
    let calls = world.ecs.calls_of(Action::GetCallerIdentity);
    assert_eq!(calls.iter().filter(|call| call.outcome.error_code().is_none()).count(), 1);
}

#[tokio::test]
async fn credentials_that_move_to_another_account_retire_nothing_there() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.declare("first", &["web:1"]).await;
    let mut controller = world.start();
    world.wait_ready("first").await;

    let other = world.ecs.region("999999999999", "us-west-2");
    other.register_many("web", 3);
    world.ecs.set_account(ACCESS_KEY, "999999999999");
    world.declare("second", &["web:2"]).await;
    let seen = world.wait_until_blocked("second").await;
    assert_eq!(seen.reason("web:2"), "Refused", "{seen}");
    assert!(seen.message("web:2").contains("999999999999"), "{seen}");
    assert_eq!(other.status("web:2"), Some(Status::Active));

    // A new process resolves its identity again. Recorded revisions keep their account.
    stop(&mut controller).await;
    let _controller = world.start();
    let seen = world.wait("second", "WrongAccount", |seen| seen.reason("web:2") == "WrongAccount").await;
    assert!(seen.message("web:2").contains(ACCOUNT), "{seen}");
    assert_eq!(other.status("web:2"), Some(Status::Active));
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1);
}

#[tokio::test]
async fn suspend_and_dry_run_deregister_nothing_and_report_what_would_happen() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.set_status("web:2", Status::Inactive);
    let on_hold = [("suspended", "suspend", "Suspended"), ("dry-run", "dryRun", "DryRun")];
    for (name, field, _) in on_hold {
        world.apply(name, json!({ "revisions": ["web:1", "web:2"], field: true })).await.expect("admitted");
    }
    let _controller = world.start();
    for (name, field, reason) in on_hold {
        let is_reported = |seen: &Seen| seen.reason("web:1") == reason && seen.reason("web:2") == "Retired";
        let seen = world.wait(name, reason, is_reported).await;
        assert_eq!(seen.row("web:1")["status"], "ACTIVE");
        assert!(seen.message("web:1").contains(&format!("spec.{field}")), "{seen}");
        assert_eq!((seen.ready(), seen.ready_reason()), ("False", reason));
        assert_eq!(seen.text("progress"), "1/2");
    }
    world.wait_until_all_is_seen().await;
    assert_eq!(world.west.status("web:1"), Some(Status::Active));

    world
        .apply("suspended", json!({ "revisions": ["web:1", "web:2"], "suspend": false }))
        .await
        .expect("admitted");
    world.wait_ready("suspended").await;
    assert_eq!(world.west.status("web:1"), Some(Status::Inactive));
}
