//! Lists of task definitions and of families in the simulated ECS, as the AWS SDK for Rust sees
//! them.

mod support;

use aws_sdk_ecs::{
    Client,
    types::{SortOrder, TaskDefinitionFamilyStatus, TaskDefinitionStatus},
};
use jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};
use support::{config, refusal};
use testkit::simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Region, SimulatedEcs, Status};

async fn start() -> (SimulatedEcs, Region, Client) {
    let ecs = SimulatedEcs::start().await;
    let west = ecs.region(ACCOUNT, "us-west-2");
    let client = Client::new(&config(&ecs, ACCESS_KEY, "us-west-2"));
    (ecs, west, client)
}

/// Returns the names of all families with a status that start with `prefix`, from pages of two.
async fn families(client: &Client, prefix: &str, status: TaskDefinitionFamilyStatus) -> Vec<String> {
    let call = client.list_task_definition_families().family_prefix(prefix).status(status).max_results(2);
    let items = call.into_paginator().items().send();
    items.collect::<Result<_, _>>().await.expect("all pages are listed")
}

/// Returns the first page of a family, as `family:revision`, and its token.
async fn page(
    client: &Client,
    family: &str,
    status: TaskDefinitionStatus,
    sort: SortOrder,
    token: Option<String>,
) -> (Vec<String>, Option<String>) {
    let call = client.list_task_definitions().family_prefix(family).status(status).sort(sort);
    let reply = call.max_results(3).set_next_token(token).send().await.expect("the list succeeds");
    let names = reply.task_definition_arns().iter().filter_map(|arn| arn.rsplit('/').next());
    (names.map(str::to_owned).collect(), reply.next_token().map(str::to_owned))
}

#[tokio::test]
async fn families_are_listed_by_prefix_and_status_in_pages() {
    let (ecs, west, client) = start().await;
    for family in ["web", "web-2", "api", "web-1", "worker"] {
        west.register(family);
    }
    west.register("web-1");
    west.set_status("web-1:1", Status::Inactive);
    west.set_status("web-2:1", Status::Inactive);
    west.register("removed");
    west.remove("removed:1");
    assert_eq!(families(&client, "web", TaskDefinitionFamilyStatus::Active).await, ["web", "web-1"]);
    assert_eq!(families(&client, "web", TaskDefinitionFamilyStatus::Inactive).await, ["web-2"]);
    assert_eq!(families(&client, "w", TaskDefinitionFamilyStatus::All).await.len(), 4);
    assert_eq!(ecs.calls_of(Action::ListTaskDefinitionFamilies).len(), 4);
    let reply = client.list_task_definition_families().send().await.expect("the list succeeds");
    assert_eq!(reply.families(), ["api", "web", "web-1", "web-2", "worker"]);
    assert_eq!(reply.next_token(), None);
}

#[tokio::test]
async fn family_list_rejects_invalid_parameters() {
    let (_ecs, west, client) = start().await;
    west.register("web");
    west.register("web-1");
    let call = || client.list_task_definition_families();
    let first = call().family_prefix("web").max_results(1).send().await.expect("the list succeeds");
    let token = first.next_token().expect("there is a second page");
    for invalid in [
        call().max_results(0),
        call().max_results(101),
        call().status("RETIRED".into()),
        call().next_token("invalid"),
        call().family_prefix("api").next_token(token),
    ] {
        let error = invalid.send().await.expect_err("the parameter is invalid");
        assert_eq!(refusal(&error).0, "InvalidParameterException");
    }
}

#[tokio::test]
async fn revisions_are_sorted_by_number_in_either_order() {
    let (_ecs, west, client) = start().await;
    west.register_many("web", 12);
    west.register("web-1");
    west.set_status("web:11", Status::Inactive);
    let (active, inactive) = (TaskDefinitionStatus::Active, TaskDefinitionStatus::Inactive);
    let (newest, token) = page(&client, "web", active.clone(), SortOrder::Desc, None).await;
    assert_eq!(newest, ["web:12", "web:10", "web:9"]);
    let (next, _) = page(&client, "web", active.clone(), SortOrder::Desc, token).await;
    assert_eq!(next, ["web:8", "web:7", "web:6"]);
    let (oldest, token) = page(&client, "web", active, SortOrder::Asc, None).await;
    assert_eq!(
        (oldest.as_slice(), token.is_some()),
        (["web:1", "web:2", "web:3"].map(str::to_owned).as_slice(), true)
    );
    let (only, token) = page(&client, "web", inactive, SortOrder::Asc, None).await;
    assert_eq!((only, token), (vec!["web:11".to_owned()], None));
}

#[tokio::test]
async fn registration_times_rise_by_the_step() {
    let (_ecs, west, client) = start().await;
    let first: Timestamp = "2026-01-01T00:00:00Z".parse().expect("the time is valid");
    assert_eq!(west.register_many_at("web", 3, first, SignedDuration::from_hours(24)), 3);
    assert_eq!(west.register("web"), 4);
    let described = client.describe_task_definition().task_definition("web:3").send().await;
    let revision = described.expect("the revision exists").task_definition.expect("it is described");
    let registered_at = revision.registered_at().expect("it was registered").secs();
    assert_eq!(registered_at, first.as_second() + 2 * 24 * 60 * 60);
    let latest = west.describe("web:4").expect("the revision exists");
    assert!(latest.registered_at > first + SignedDuration::from_hours(48));
}

#[tokio::test]
#[should_panic(expected = "is earlier than the registration of the revision before")]
async fn registration_before_the_latest_revision_panics() {
    let (_ecs, west, _client) = start().await;
    west.register("web");
    west.register_many_at("web", 1, Timestamp::UNIX_EPOCH, SignedDuration::ZERO);
}

#[tokio::test]
async fn page_of_a_family_with_100000_revisions_is_quick() {
    let (_ecs, west, client) = start().await;
    west.register_many_at("web", 100_000, Timestamp::UNIX_EPOCH, SignedDuration::from_mins(1));
    west.set_status("web:1", Status::Inactive);
    let started = Instant::now();
    for _ in 0..100 {
        for (status, sort, first) in [
            (TaskDefinitionStatus::Active, SortOrder::Desc, "web:100000"),
            (TaskDefinitionStatus::Active, SortOrder::Asc, "web:2"),
            (TaskDefinitionStatus::Inactive, SortOrder::Desc, "web:1"),
        ] {
            assert_eq!(page(&client, "web", status, sort, None).await.0[0], first);
        }
    }
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(20), "300 pages took {elapsed:?}");
}
