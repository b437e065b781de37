//! The simulated ECS as the AWS SDK for Rust sees it.

mod support;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_ecs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
    types::{ContainerDefinition, Tag, TaskDefinition, TaskDefinitionField, TaskDefinitionStatus},
};
use std::time::Duration;
use support::{Refusal, config, refusal};
use testkit::simulated_ecs::{
    ACCESS_KEY, ACCOUNT, Action, Fault, Outcome, Region, SECRET, SimulatedEcs, Status,
};

const DEADLINE: Duration = Duration::from_secs(10);
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Returns a server, a region with `cpu-wave:1` to `cpu-wave:3`, and a client that never retries.
async fn start() -> (SimulatedEcs, Region, Client) {
    let ecs = SimulatedEcs::start().await;
    let west = ecs.region(ACCOUNT, "us-west-2");
    west.register_many("cpu-wave", 3);
    let client = Client::new(&config(&ecs, ACCESS_KEY, "us-west-2"));
    (ecs, west, client)
}

async fn deregister(client: &Client, revision: &str) -> Result<TaskDefinition, Refusal> {
    let reply = client.deregister_task_definition().task_definition(revision).send().await;
    reply
        .map(|output| output.task_definition.expect("the response has a description"))
        .map_err(|error| refusal(&error))
}

async fn describe(client: &Client, revision: &str) -> Result<TaskDefinition, Refusal> {
    let reply = client.describe_task_definition().task_definition(revision).send().await;
    reply
        .map(|output| output.task_definition.expect("the response has a description"))
        .map_err(|error| refusal(&error))
}

fn api_error(code: &str, message: &str) -> Result<TaskDefinition, Refusal> {
    Err((code.to_owned(), message.to_owned()))
}

#[tokio::test]
async fn deregister_response_omits_deregistered_at_and_describe_has_it() {
    let (_ecs, west, client) = start().await;
    let reply = deregister(&client, "cpu-wave:1").await.expect("the revision is ACTIVE");
    let arn = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";
    assert_eq!(reply.task_definition_arn(), Some(arn));
    assert_eq!(reply.status(), Some(&TaskDefinitionStatus::Inactive));
    assert_eq!((reply.family(), reply.revision()), (Some("cpu-wave"), 1));
    assert!(reply.registered_by().is_some() && reply.registered_at().is_some());
    assert_eq!(reply.deregistered_at(), None);
    assert_eq!(reply.container_definitions()[0].environment()[0].value(), Some(SECRET));

    let described = describe(&client, arn).await.expect("the revision still exists");
    let record = west.describe("cpu-wave:1").expect("the revision still exists");
    let recorded = record.deregistered_at.expect("deregisteredAt is set").as_duration().as_secs_f64();
    let shown = described.deregistered_at().expect("deregisteredAt is set").as_secs_f64();
    assert!((recorded - shown).abs() < 0.002, "{recorded} and {shown} differ by more than 2 ms");
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Inactive));
    assert_eq!(west.status("cpu-wave:2"), Some(Status::Active));
}

#[tokio::test]
async fn repeated_deregistration_succeeds_unless_configured_to_fail() {
    let (ecs, west, client) = start().await;
    west.set_status("cpu-wave:2", Status::DeleteInProgress);
    deregister(&client, "cpu-wave:1").await.expect("the revision is ACTIVE");
    let first = west.describe("cpu-wave:1");
    deregister(&client, "cpu-wave:1").await.expect("repeating the call is not an error");
    let deleted = deregister(&client, "cpu-wave:2").await.expect("a deleted revision is not an error");
    assert_eq!(deleted.status(), Some(&TaskDefinitionStatus::DeleteInProgress));
    assert_eq!(west.describe("cpu-wave:1"), first);

    ecs.refuse_repeated_deregistration(true);
    let (code, _) = deregister(&client, "cpu-wave:1").await.expect_err("repeating the call is now rejected");
    assert_eq!(code, "ClientException");
    let changed: Vec<bool> = ecs.calls().iter().map(|call| call.changed).collect();
    assert_eq!(changed, [true, false, false, false]);
}

#[tokio::test]
async fn calls_reject_names_that_are_not_revisions_of_the_caller() {
    let (_ecs, west, client) = start().await;
    let (invalid, client_error) = ("InvalidParameterException", "ClientException");
    let missing = "The specified task definition does not exist.";
    let other_account = "arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:1";
    for (revision, code, message) in [
        ("cpu-wave", client_error, "Revision is missing."),
        ("cpu-wave:9", client_error, missing),
        ("cpu-wave:latest", invalid, "Invalid revision number. Number: latest"),
        (other_account, invalid, "Identifier is for 999999999999. Your accountId is 012345678910"),
    ] {
        assert_eq!(deregister(&client, revision).await, api_error(code, message), "{revision}");
    }
    let not_found = api_error(client_error, "Unable to describe task definition.");
    assert_eq!(describe(&client, "cpu-wave:9").await, not_found);
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Active));
    let unknown = client.describe_clusters().send().await.expect_err("the call is not simulated");
    assert_eq!(unknown.code(), Some("UnknownOperationException"));
}

#[tokio::test]
async fn signature_determines_account_region_and_partition() {
    const OTHER_KEY: &str = "AKIAI44QH8DHBEXAMPLE";
    let (ecs, west, _) = start().await;
    let gov = ecs.region("999999999999", "us-gov-west-1");
    gov.register("cpu-wave");
    let config = config(&ecs, OTHER_KEY, "us-gov-west-1");
    let (client, sts) = (Client::new(&config), aws_sdk_sts::Client::new(&config));

    let message = "The security token included in the request is invalid.";
    let unknown_key = api_error("UnrecognizedClientException", message);
    assert_eq!(deregister(&client, "cpu-wave:1").await, unknown_key);
    let identity = sts.get_caller_identity().send().await.expect_err("the key is unknown");
    assert_eq!(identity.code(), Some("InvalidClientTokenId"));

    ecs.set_account(OTHER_KEY, "999999999999");
    let reply = deregister(&client, "cpu-wave:1").await.expect("the key is known");
    let arn = "arn:aws-us-gov:ecs:us-gov-west-1:999999999999:task-definition/cpu-wave:1";
    assert_eq!(reply.task_definition_arn(), Some(arn));
    let identity = sts.get_caller_identity().send().await.expect("the key is known");
    assert_eq!(identity.account(), Some("999999999999"));
    let arn = "arn:aws-us-gov:sts::999999999999:assumed-role/controller/session";
    assert_eq!(identity.arn(), Some(arn));
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Active));
    assert_eq!(ecs.calls_of(DEREGISTER)[0].account, None);
}

#[tokio::test]
async fn task_definitions_are_listed_in_pages_of_100() {
    let (ecs, west, client) = start().await;
    west.register_many("cpu-wave", 247);
    west.set_status("cpu-wave:200", Status::Inactive);
    let pages = client.list_task_definitions().family_prefix("cpu-wave").into_paginator();
    let arns = pages.items().send().collect::<Result<Vec<String>, _>>().await.expect("all pages are listed");
    let active = (1..=250).filter(|number| *number != 200);
    let expected: Vec<String> = active.map(|number| west.arn(&format!("cpu-wave:{number}"))).collect();
    assert_eq!(arns, expected);
    assert_eq!(ecs.calls_of(Action::ListTaskDefinitions).len(), 3);
}

#[tokio::test]
async fn revision_numbers_are_never_reused() {
    let (_ecs, west, client) = start().await;
    west.remove("cpu-wave:3");
    assert_eq!(west.status("cpu-wave:3"), None);
    let container = ContainerDefinition::builder().name("app").image("busybox").build();
    let tag = Tag::builder().key("team").value("wave").build();
    let call = client.register_task_definition().family("cpu-wave").container_definitions(container);
    let reply = call.tags(tag.clone()).send().await.expect("the request is valid");
    assert_eq!(reply.task_definition().map(TaskDefinition::revision), Some(4));

    let call = client.describe_task_definition().task_definition("cpu-wave:4");
    assert_eq!(call.clone().send().await.expect("the revision exists").tags(), []);
    let tagged = call.include(TaskDefinitionField::Tags).send().await.expect("the revision exists");
    assert_eq!(tagged.tags(), [tag]);
}

#[tokio::test]
async fn deregistrations_reads_and_sts_calls_are_throttled_separately() {
    let (ecs, west, client) = start().await;
    west.register_many("cpu-wave", 18);
    ecs.throttle(1.0e-6);
    for number in 1..=20 {
        deregister(&client, &format!("cpu-wave:{number}")).await.expect("the bucket has a token");
    }
    let throttled = api_error("ThrottlingException", "Rate exceeded");
    assert_eq!(deregister(&client, "cpu-wave:21").await, throttled);
    assert_eq!(west.status("cpu-wave:21"), Some(Status::Active));
    describe(&client, "cpu-wave:21").await.expect("reads have their own bucket");
    let sts = aws_sdk_sts::Client::new(&config(&ecs, ACCESS_KEY, "us-west-2"));
    sts.get_caller_identity().send().await.expect("STS is not throttled");
    ecs.throttle(1.0);
    deregister(&client, "cpu-wave:21").await.expect("the buckets have been refilled");
}

#[tokio::test]
async fn fault_replaces_the_response() {
    let (ecs, west, client) = start().await;
    let on = || Fault::on(DEREGISTER).times(1);
    ecs.fault(on().throttle());
    ecs.fault(on().server_error());
    ecs.fault(on().access_denied());
    ecs.fault(on().error("ExpiredTokenException", "It expired."));
    ecs.fault(on().unavailable());
    let denied = "User: arn:aws:sts::012345678910:assumed-role/controller/session is not authorized \
        to perform: ecs:DeregisterTaskDefinition on resource: * because no identity-based policy \
        allows the ecs:DeregisterTaskDefinition action";
    for (code, message) in [
        ("ThrottlingException", "Rate exceeded"),
        ("ServerException", "Service Unavailable. Please try again later."),
        ("AccessDeniedException", denied),
        ("ExpiredTokenException", "It expired."),
        ("", ""),
    ] {
        assert_eq!(deregister(&client, "cpu-wave:1").await, api_error(code, message));
    }
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Active));
    assert_eq!(ecs.calls()[4].outcome.error_code(), Some("ServiceUnavailable"));
    deregister(&client, "cpu-wave:1").await.expect("no fault is left");

    ecs.fault(Fault::on(Action::GetCallerIdentity).access_denied());
    let sts = aws_sdk_sts::Client::new(&config(&ecs, ACCESS_KEY, "us-west-2"));
    let error = sts.get_caller_identity().send().await.expect_err("the call is denied");
    assert_eq!(error.code(), Some("AccessDenied"));
    ecs.clear_faults();
    sts.get_caller_identity().send().await.expect("the fault was removed");
}

#[tokio::test]
async fn hung_call_ends_with_the_server() {
    let (ecs, west, client) = start().await;
    ecs.fault(Fault::on(DEREGISTER).revision("cpu-wave:1").hang());
    let pending = tokio::spawn({
        let client = client.clone();
        async move { deregister(&client, "cpu-wave:1").await }
    });
    let calls = ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    assert_eq!(calls[0].outcome, Outcome::Hung);
    deregister(&client, "cpu-wave:2").await.expect("the fault does not apply to other revisions");
    ecs.clear_faults();
    deregister(&client, "cpu-wave:1").await.expect("the fault was removed");
    assert!(!pending.is_finished());
    drop(ecs);
    assert_eq!(pending.await.expect("the task ends"), api_error("", ""));
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Inactive));
}

#[tokio::test]
async fn call_takes_effect_if_its_response_is_dropped() {
    let (ecs, west, client) = start().await;
    ecs.fault(Fault::on(DEREGISTER).nth(2).drop_reply());
    deregister(&client, "cpu-wave:1").await.expect("the fault applies to the second call only");
    let reply = client.deregister_task_definition().task_definition("cpu-wave:2").send().await;
    assert!(matches!(reply, Err(SdkError::DispatchFailure(_))));
    assert_eq!(west.status("cpu-wave:2"), Some(Status::Inactive));
    let call = &ecs.calls()[1];
    assert_eq!((&call.outcome, call.changed), (&Outcome::Dropped, true));
}

#[tokio::test]
async fn call_takes_effect_immediately_if_its_response_is_delayed() {
    let (ecs, west, _) = start().await;
    let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(2)).build();
    let config = config(&ecs, ACCESS_KEY, "us-west-2").into_builder().timeout_config(timeouts).build();
    let client = Client::new(&config);
    ecs.fault(Fault::on(DEREGISTER).times(1).delay(DEADLINE));
    let reply = client.deregister_task_definition().task_definition("cpu-wave:1").send().await;
    assert!(matches!(reply, Err(SdkError::TimeoutError(_))));
    assert_eq!(west.status("cpu-wave:1"), Some(Status::Inactive));
}

#[tokio::test]
async fn hook_completes_before_its_call() {
    let (ecs, west, client) = start().await;
    let hooked = west.clone();
    ecs.before(DEREGISTER, 2, async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        hooked.remove("cpu-wave:2");
    });
    deregister(&client, "cpu-wave:1").await.expect("the hook runs before the second call");
    assert_eq!(west.status("cpu-wave:2"), Some(Status::Active));
    let missing = api_error("ClientException", "The specified task definition does not exist.");
    assert_eq!(deregister(&client, "cpu-wave:2").await, missing);
    deregister(&client, "cpu-wave:3").await.expect("the hook runs only once");
}

#[tokio::test]
#[should_panic(expected = "a hook of this test panicked")]
async fn panic_in_a_hook_fails_the_test() {
    let (ecs, _west, client) = start().await;
    ecs.before(DEREGISTER, 1, async { panic!("expected by the test") });
    deregister(&client, "cpu-wave:1").await.expect("the call succeeds");
}

#[tokio::test]
async fn log_records_each_call_and_keeps_counting_after_a_clear() {
    let (ecs, _west, client) = start().await;
    let call = client.deregister_task_definition().task_definition("cpu-wave:1");
    let reply = call.send().await.expect("the revision is ACTIVE");
    describe(&client, "cpu-wave:9").await.expect_err("the revision does not exist");
    let calls = ecs.calls();
    assert_eq!(calls[0].task_definition.as_deref(), Some("cpu-wave:1"));
    assert_eq!(calls[0].account.as_deref(), Some(ACCOUNT));
    assert_eq!((calls[0].region.as_str(), calls[0].access_key.as_str()), ("us-west-2", ACCESS_KEY));
    assert_eq!(Some(calls[0].request_id.as_str()), reply.request_id());
    assert_eq!((calls[0].outcome.clone(), calls[0].changed), (Outcome::Ok, true));
    assert_eq!(calls[1].outcome.error_code(), Some("ClientException"));
    assert!(calls[0].at <= calls[1].at && calls[0].sequence < calls[1].sequence);
    ecs.clear_log();
    describe(&client, "cpu-wave").await.expect("the family has ACTIVE revisions");
    let described = ecs.wait_for_calls(Action::DescribeTaskDefinition, 1, DEADLINE).await;
    assert_eq!((described.len(), described[0].sequence), (1, 3));
    assert!(ecs.calls_of(DEREGISTER).is_empty());
}
