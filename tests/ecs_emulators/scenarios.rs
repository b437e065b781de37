//! Scenarios on each emulator, as a table: how a resource and its revision end.

use aws_sdk_ecs::types::TaskDefinitionStatus::{self, Active, Inactive};
use serde_json::{Value, json};
use testkit::emulator::{Emulator, Product};

use super::{Setup, arn, arn_in};

/// The state of a revision before it is declared.
#[derive(Clone, Copy)]
enum Given {
    Active,
    Inactive,
    Missing,
    /// By a service with a desired count of 0.
    InUse,
}

/// A scenario's name, what is given, the spec for a revision, the reason that the resource ends
/// with, and the status that the revision ends with.
type Scenario = (&'static str, Given, fn(&str) -> Value, &'static str, Option<TaskDefinitionStatus>);

fn scenarios() -> [Scenario; 11] {
    let plain: fn(&str) -> Value = |it| json!({ "revisions": [it] });
    [
        ("retired", Given::Active, plain, "Retired", Some(Inactive)),
        ("arn", Given::Active, |it| json!({ "revisions": [arn(it)] }), "Retired", Some(Inactive)),
        ("inactive", Given::Inactive, plain, "Retired", Some(Inactive)),
        ("missing", Given::Missing, plain, "NotFound", None),
        ("used", Given::InUse, plain, "InUse", Some(Active)),
        (
            "used-retire",
            Given::InUse,
            |it| json!({ "revisions": [it], "inUse": "Retire" }),
            "Retired",
            Some(Inactive),
        ),
        (
            "suspended",
            Given::Active,
            |it| json!({ "revisions": [it], "suspend": true }),
            "Suspended",
            Some(Active),
        ),
        ("dry-run", Given::Active, |it| json!({ "revisions": [it], "dryRun": true }), "DryRun", Some(Active)),
        (
            "dry-run-used",
            Given::InUse,
            |it| json!({ "revisions": [it], "dryRun": true }),
            "DryRun",
            Some(Active),
        ),
        (
            "account",
            Given::Active,
            |it| json!({ "revisions": [arn_in(Emulator::REGION, "999999999999", it)] }),
            "WrongAccount",
            Some(Active),
        ),
        (
            "region",
            Given::Active,
            |it| json!({ "revisions": [arn_in("eu-west-1", Emulator::ACCOUNT, it)] }),
            "WrongRegion",
            Some(Active),
        ),
    ]
}

/// Runs all scenarios at once, each on the second of three revisions of its own family.
async fn assert_scenarios(product: Product) {
    let setup = Setup::new(product).await;
    let mut siblings = Vec::new();
    for (name, given, spec, ..) in scenarios() {
        let mut revision = setup.name(&format!("-{name}:2"));
        if let Given::Missing = given {
            revision = setup.name(&format!("-{name}:1"));
        } else {
            let [older, _, newer] = setup.register(&format!("-{name}")).await;
            siblings.extend([older, newer]);
        }
        match given {
            Given::Active | Given::Missing => {}
            Given::Inactive => setup.deregister(&revision).await,
            Given::InUse => setup.create_service(&setup.name(&format!("-{name}")), &revision, 0).await,
        }
        setup.world.apply(name, spec(&revision)).await.expect("admitted");
    }
    let _controller = setup.start();

    for (name, given, _, reason, status) in scenarios() {
        let seen = setup.world.wait(name, reason, |seen| seen.ready_reason() == reason).await;
        assert_eq!(seen.ready() == "True", reason == "Retired", "{name}: {seen}");
        let number = if let Given::Missing = given { 1 } else { 2 };
        setup.assert_status(&setup.name(&format!("-{name}:{number}")), status.as_ref()).await;
    }
    setup.wait_until_caught_up().await;
    for sibling in siblings {
        setup.assert_status(&sibling, Some(&Active)).await;
    }
}

#[tokio::test]
async fn scenarios_end_as_expected_on_moto() {
    assert_scenarios(Product::Moto).await;
}

#[tokio::test]
async fn scenarios_end_as_expected_on_ministack() {
    assert_scenarios(Product::Ministack).await;
}
