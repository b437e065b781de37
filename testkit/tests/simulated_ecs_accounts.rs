//! Several accounts in the simulated ECS: their state, token buckets, calls and faults.

mod support;

use aws_config::SdkConfig;
use aws_sdk_ecs::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
    types::ContainerDefinition,
};
use std::time::Duration;
use support::{Refusal, config, refusal};
use testkit::simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Fault, Outcome, SimulatedEcs, Status};

const DEADLINE: Duration = Duration::from_secs(10);
const DEREGISTER: Action = Action::DeregisterTaskDefinition;
const PROD: &str = "111122223333";
const PROD_ROLE: &str = "arn:aws:iam::111122223333:role/ecs-retirement";
const TEST: &str = "222233334444";
const TEST_ROLE: &str = "arn:aws:iam::222233334444:role/ecs-retirement";

/// Returns a server with `web:1` to `web:50` in two regions of two accounts whose roles trust the
/// default account.
async fn start() -> SimulatedEcs {
    let ecs = SimulatedEcs::start().await;
    for (account, role) in [(PROD, PROD_ROLE), (TEST, TEST_ROLE)] {
        ecs.role(role).trust(ACCOUNT);
        for region in ["us-west-2", "eu-west-1"] {
            ecs.account(account).region(region).register_many("web", 50);
        }
    }
    ecs
}

async fn assume(config: &SdkConfig, role: &str) -> Result<SdkConfig, Refusal> {
    let sts = aws_sdk_sts::Client::new(config);
    let reply = sts.assume_role().role_arn(role).role_session_name("controller").send().await;
    let reply = reply.map_err(|error| refusal(&error))?;
    let issued = reply.credentials().expect("the response has credentials");
    let token = Some(issued.session_token().to_owned());
    let credentials =
        Credentials::new(issued.access_key_id(), issued.secret_access_key(), token, None, "test");
    let provider = SharedCredentialsProvider::new(credentials);
    Ok(config.clone().into_builder().credentials_provider(provider).build())
}

/// Returns a client with a session of a role.
async fn client(ecs: &SimulatedEcs, role: &str, region: &'static str) -> Client {
    let session = assume(&config(ecs, ACCESS_KEY, region), role).await;
    Client::new(&session.expect("the role trusts the caller"))
}

async fn deregister(client: &Client, revision: &str) -> Result<(), Refusal> {
    let call = client.deregister_task_definition().task_definition(revision);
    call.send().await.map(|_| ()).map_err(|error| refusal(&error))
}

/// Returns the error code of a call.
fn code<T>(reply: Result<T, Refusal>) -> String {
    reply.err().map(|(code, _)| code).expect("the call fails")
}

#[tokio::test]
async fn state_belongs_to_an_account_and_region() {
    let ecs = start().await;
    let prod = client(&ecs, PROD_ROLE, "us-west-2").await;
    assert_eq!(deregister(&prod, "web:1").await, Ok(()));
    for (account, region, status) in [
        (PROD, "us-west-2", Status::Inactive),
        (PROD, "eu-west-1", Status::Active),
        (TEST, "us-west-2", Status::Active),
    ] {
        assert_eq!(ecs.account(account).region(region).status("web:1"), Some(status), "{account} {region}");
    }
    assert_eq!(ecs.region(ACCOUNT, "us-west-2").status("web:1"), None);
    let arn = ecs.account(TEST).region("us-west-2").arn("web:2");
    let (code, message) = deregister(&prod, &arn).await.expect_err("the revision is in another account");
    assert_eq!(code, "InvalidParameterException");
    assert_eq!(message, "Identifier is for 222233334444. Your accountId is 111122223333");

    let container = ContainerDefinition::builder().name("app").image("busybox").build();
    let call = prod.register_task_definition().family("api").container_definitions(container);
    let reply = call.send().await.expect("the request is valid");
    let registered_by = reply.task_definition().and_then(|it| it.registered_by());
    let session = "arn:aws:sts::111122223333:assumed-role/ecs-retirement/controller";
    assert_eq!(registered_by, Some(session));
}

#[tokio::test]
async fn bucket_is_shared_by_all_callers_of_an_account_and_region() {
    let ecs = start().await;
    ecs.role("arn:aws:iam::111122223333:role/deploy").trust(ACCOUNT);
    ecs.set_account("AKIAI44QH8DHBEXAMPLE", PROD);
    let callers = [
        client(&ecs, PROD_ROLE, "us-west-2").await,
        client(&ecs, "arn:aws:iam::111122223333:role/deploy", "us-west-2").await,
        Client::new(&config(&ecs, "AKIAI44QH8DHBEXAMPLE", "us-west-2")),
    ];
    ecs.throttle(1.0e-6);
    for number in 0..20 {
        let revision = format!("web:{}", number + 1);
        assert_eq!(deregister(&callers[number % 3], &revision).await, Ok(()), "{revision}");
    }
    for caller in &callers {
        assert_eq!(code(deregister(caller, "web:21").await), "ThrottlingException");
    }
    for (role, region) in [(PROD_ROLE, "eu-west-1"), (TEST_ROLE, "us-west-2")] {
        assert_eq!(deregister(&client(&ecs, role, region).await, "web:21").await, Ok(()), "{role} {region}");
    }
}

#[tokio::test]
async fn log_names_the_account_and_the_caller_of_each_call() {
    let ecs = start().await;
    let prod = client(&ecs, PROD_ROLE, "eu-west-1").await;
    deregister(&prod, "web:1").await.expect("the revision is ACTIVE");
    let [assumed, deregistered] = ecs.calls().try_into().expect("there were two calls");
    let controller = "arn:aws:sts::012345678910:assumed-role/controller/session";
    assert_eq!((assumed.account.as_deref(), assumed.caller.as_deref()), (Some(ACCOUNT), Some(controller)));
    assert_eq!(assumed.role.as_deref(), Some("arn:aws:iam::012345678910:role/controller"));
    assert_eq!(assumed.role_to_assume.as_deref(), Some(PROD_ROLE));
    let session = "arn:aws:sts::111122223333:assumed-role/ecs-retirement/controller";
    assert_eq!(
        (deregistered.account.as_deref(), deregistered.caller.as_deref()),
        (Some(PROD), Some(session))
    );
    assert_eq!((deregistered.role.as_deref(), deregistered.role_to_assume), (Some(PROD_ROLE), None));
    assert!(deregistered.access_key.starts_with("ASIA"));

    assert_eq!(ecs.account(PROD).ecs_calls().len(), 1);
    assert!(ecs.account(ACCOUNT).ecs_calls().is_empty() && ecs.account(TEST).ecs_calls().is_empty());
    assert_eq!(ecs.role(PROD_ROLE).calls()[0].sequence, deregistered.sequence);
    assert!(ecs.role(TEST_ROLE).calls().is_empty());
    ecs.role(PROD_ROLE).remove();
    deregister(&prod, "web:2").await.expect_err("the session was revoked");
    let call = ecs.last_call().expect("there was a call");
    assert_eq!((call.account, call.caller, call.role), (None, None, None));
}

#[tokio::test]
async fn fault_can_be_restricted_to_an_account_a_region_or_a_role() {
    let ecs = start().await;
    ecs.role("arn:aws:iam::111122223333:role/deploy").trust(ACCOUNT);
    let prod = client(&ecs, PROD_ROLE, "us-west-2").await;
    let prod_eu = client(&ecs, PROD_ROLE, "eu-west-1").await;
    let deploy = client(&ecs, "arn:aws:iam::111122223333:role/deploy", "us-west-2").await;
    let test = client(&ecs, TEST_ROLE, "us-west-2").await;
    let on = || Fault::on(DEREGISTER);
    for (fault, affected) in [
        (on().account(PROD).server_error(), [true, true, true, false]),
        (on().role(PROD_ROLE).access_denied(), [true, true, false, false]),
        (on().region("us-west-2").throttle(), [true, false, true, true]),
        (on().role(PROD_ROLE).region("eu-west-1").unavailable(), [false, true, false, false]),
    ] {
        ecs.fault(fault.clone());
        let mut failed = Vec::new();
        for client in [&prod, &prod_eu, &deploy, &test] {
            failed.push(deregister(client, "web:1").await.is_err());
        }
        assert_eq!(failed, affected, "{fault:?}");
        ecs.clear_faults();
    }
    ecs.fault(on().role(PROD_ROLE).access_denied());
    let (_, message) = deregister(&prod, "web:2").await.expect_err("the role is denied the call");
    let session = "arn:aws:sts::111122223333:assumed-role/ecs-retirement/controller";
    assert!(message.starts_with(&format!("User: {session} is not authorized to perform: ecs:")), "{message}");
}

#[tokio::test]
async fn fault_of_assume_role_applies_to_the_role_to_assume() {
    let ecs = start().await;
    let base = config(&ecs, ACCESS_KEY, "us-west-2");
    for (fault, expected) in [
        (Fault::on(Action::AssumeRole).role(PROD_ROLE).throttle(), "Throttling"),
        (Fault::on(Action::AssumeRole).account(PROD).access_denied(), "AccessDenied"),
        (Fault::on(Action::AssumeRole).account(PROD).server_error(), "InternalFailure"),
    ] {
        ecs.fault(fault);
        assert_eq!(code(assume(&base, PROD_ROLE).await), expected);
        assume(&base, TEST_ROLE).await.expect("the fault applies to the other role");
        ecs.clear_faults();
    }
    ecs.fault(Fault::on(Action::GetCallerIdentity).account(PROD).access_denied());
    let prod = assume(&base, PROD_ROLE).await.expect("the role trusts the caller");
    let identity = aws_sdk_sts::Client::new(&prod).get_caller_identity().send().await;
    assert_eq!(refusal(&identity.expect_err("the account is denied the call")).0, "AccessDenied");
    let identity = aws_sdk_sts::Client::new(&base).get_caller_identity().send().await;
    assert_eq!(identity.expect("the fault applies to the other account").account(), Some(ACCOUNT));
}

#[tokio::test]
async fn assume_role_of_one_role_can_hang() {
    let ecs = start().await;
    let base = config(&ecs, ACCESS_KEY, "us-west-2");
    ecs.fault(Fault::on(Action::AssumeRole).role(PROD_ROLE).hang());
    let pending = tokio::spawn({
        let base = base.clone();
        async move { assume(&base, PROD_ROLE).await.map(|_| ()) }
    });
    let calls = ecs.wait_for_calls(Action::AssumeRole, 1, DEADLINE).await;
    assert_eq!(calls[0].outcome, Outcome::Hung);
    assume(&base, TEST_ROLE).await.expect("the fault applies to the other role");
    assert!(!pending.is_finished());
    drop(ecs);
    pending.await.expect("the task ends").expect_err("there was no response");
}

#[tokio::test]
async fn role_can_change_in_a_hook_before_its_call() {
    let ecs = start().await;
    let role = ecs.role(PROD_ROLE);
    ecs.before(Action::AssumeRole, 2, async move {
        role.clear_trust();
    });
    let base = config(&ecs, ACCESS_KEY, "us-west-2");
    assume(&base, PROD_ROLE).await.expect("the role still trusts the caller");
    assert_eq!(code(assume(&base, PROD_ROLE).await), "AccessDenied");
}
