//! Roles in the simulated STS, as the AWS SDK for Rust assumes them.

mod support;

use aws_config::{BehaviorVersion, SdkConfig, sts::AssumeRoleProvider};
use aws_sdk_ecs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sts::operation::assume_role::builders::AssumeRoleFluentBuilder;
use std::time::{Duration, SystemTime};
use support::{Refusal, config, refusal};
use testkit::{
    sdk,
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Role, SimulatedEcs},
};

const OTHER_ACCOUNT: &str = "111122223333";
const ROLE: &str = "arn:aws:iam::111122223333:role/ecs/ecs-retirement";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/ecs-retirement/controller";
const USER_KEY: &str = "AKIAI44QH8DHBEXAMPLE";
const USER: &str = "arn:aws:iam::012345678910:user/admin";

/// Returns a server with a role that trusts the default account, and the configuration of a caller
/// of that account.
async fn start() -> (SimulatedEcs, Role, SdkConfig) {
    let ecs = SimulatedEcs::start().await;
    let role = ecs.role(ROLE).trust(ACCOUNT);
    let config = config(&ecs, ACCESS_KEY, "us-west-2");
    (ecs, role, config)
}

fn call(config: &SdkConfig, role: &str) -> AssumeRoleFluentBuilder {
    aws_sdk_sts::Client::new(config).assume_role().role_arn(role).role_session_name("controller")
}

/// Assumes a role and returns the configuration of the session.
async fn send(config: &SdkConfig, call: AssumeRoleFluentBuilder) -> Result<SdkConfig, Refusal> {
    let reply = call.send().await.map_err(|error| refusal(&error))?;
    let issued = reply.credentials().expect("the response has credentials");
    let (id, secret, token) = (issued.access_key_id(), issued.secret_access_key(), issued.session_token());
    Ok(with_credentials(config, Credentials::new(id, secret, Some(token.to_owned()), None, "test")))
}

async fn assume(config: &SdkConfig, role: &str) -> Result<SdkConfig, Refusal> {
    send(config, call(config, role)).await
}

fn with_credentials(config: &SdkConfig, credentials: Credentials) -> SdkConfig {
    let provider = SharedCredentialsProvider::new(credentials);
    config.clone().into_builder().credentials_provider(provider).build()
}

/// Returns the account and the ARN of the caller.
async fn identity(config: &SdkConfig) -> Result<(String, String), Refusal> {
    let reply = aws_sdk_sts::Client::new(config).get_caller_identity().send().await;
    let reply = reply.map_err(|error| refusal(&error))?;
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    Ok((text(reply.account()), text(reply.arn())))
}

async fn describe(config: &SdkConfig, revision: &str) -> Result<(), Refusal> {
    let call = aws_sdk_ecs::Client::new(config).describe_task_definition().task_definition(revision);
    call.send().await.map(|_| ()).map_err(|error| refusal(&error))
}

/// Returns the error for a caller that a role does not trust.
fn not_authorized(caller: &str, role: &str) -> Refusal {
    let message = format!("User: {caller} is not authorized to perform: sts:AssumeRole on resource: {role}");
    ("AccessDenied".to_owned(), message)
}

fn controller() -> String {
    format!("arn:aws:sts::{ACCOUNT}:assumed-role/controller/session")
}

#[tokio::test]
async fn session_acts_in_the_account_of_its_role() {
    let (ecs, _role, config) = start().await;
    ecs.account(OTHER_ACCOUNT).region("us-west-2").register("web");
    let reply = call(&config, ROLE).send().await.expect("the role trusts the caller");
    let user = reply.assumed_role_user().expect("the response names the session");
    assert_eq!(user.arn(), SESSION);
    assert!(user.assumed_role_id().ends_with(":controller"));
    let access_key = reply.credentials().expect("the response has credentials").access_key_id().to_owned();
    assert!(access_key.starts_with("ASIA") && access_key.len() == 20, "{access_key}");

    let session = assume(&config, ROLE).await.expect("the role trusts the caller");
    assert_eq!(identity(&session).await, Ok((OTHER_ACCOUNT.to_owned(), SESSION.to_owned())));
    assert_eq!(identity(&config).await, Ok((ACCOUNT.to_owned(), controller())));
    assert_eq!(describe(&session, "web:1").await, Ok(()));
    assert_eq!(
        describe(&config, "web:1").await.expect_err("the revision is in the other account").0,
        "ClientException"
    );
}

#[tokio::test]
async fn role_is_assumed_only_by_trusted_principals() {
    let (ecs, role, config) = start().await;
    ecs.set_user(USER_KEY, USER);
    let user = support::config(&ecs, USER_KEY, "us-west-2");
    assert_eq!(identity(&user).await, Ok((ACCOUNT.to_owned(), USER.to_owned())));
    assume(&user, ROLE).await.expect("the role trusts the account");

    role.clear_trust();
    assert_eq!(
        assume(&config, ROLE).await.expect_err("the caller is not trusted"),
        not_authorized(&controller(), ROLE)
    );
    role.trust(&format!("arn:aws:iam::{ACCOUNT}:role/controller"));
    let session = assume(&config, ROLE).await.expect("the role trusts the caller again");
    assert_eq!(assume(&user, ROLE).await.expect_err("the caller is not trusted"), not_authorized(USER, ROLE));

    let missing = "arn:aws:iam::111122223333:role/missing";
    assert_eq!(
        assume(&config, missing).await.expect_err("the role does not exist"),
        not_authorized(&controller(), missing)
    );
    role.remove();
    assert_eq!(
        assume(&config, ROLE).await.expect_err("the role does not exist"),
        not_authorized(&controller(), ROLE)
    );
    assert_eq!(
        describe(&session, "web:1").await.expect_err("the role does not exist").0,
        "UnrecognizedClientException"
    );
    assert_eq!(identity(&session).await.expect_err("the role does not exist").0, "InvalidClientTokenId");
}

#[tokio::test]
async fn external_id_must_match_if_the_role_requires_one() {
    let (_ecs, role, config) = start().await;
    send(&config, call(&config, ROLE).external_id("unneeded")).await.expect("no external ID is required");
    role.external_id("tenant/42");
    send(&config, call(&config, ROLE).external_id("tenant/42")).await.expect("the external ID is right");
    for refused in [call(&config, ROLE), call(&config, ROLE).external_id("tenant/43")] {
        assert_eq!(
            send(&config, refused).await.expect_err("the external ID is wrong"),
            not_authorized(&controller(), ROLE)
        );
    }
    role.external_id(None);
    assume(&config, ROLE).await.expect("no external ID is required any more");
}

#[tokio::test]
async fn role_can_be_assumed_by_a_session_of_another_role() {
    const NEXT: &str = "arn:aws:iam::222233334444:role/next";
    let (ecs, _role, config) = start().await;
    ecs.role(NEXT).trust(ROLE);
    assert_eq!(
        assume(&config, NEXT).await.expect_err("the caller is not trusted"),
        not_authorized(&controller(), NEXT)
    );
    let first = assume(&config, ROLE).await.expect("the role trusts the caller");
    let second = assume(&first, NEXT).await.expect("the role trusts the session");
    let arn = "arn:aws:sts::222233334444:assumed-role/next/controller";
    assert_eq!(identity(&second).await, Ok(("222233334444".to_owned(), arn.to_owned())));
    assert_eq!(ecs.role(ROLE).calls()[0].role_to_assume.as_deref(), Some(NEXT));
}

#[tokio::test]
async fn acts_in_sets_the_account_of_new_sessions() {
    let (_ecs, role, config) = start().await;
    let before = assume(&config, ROLE).await.expect("the role trusts the caller");
    role.acts_in("222233334444");
    let after = assume(&config, ROLE).await.expect("the role trusts the caller");
    let arn = "arn:aws:sts::222233334444:assumed-role/ecs-retirement/controller";
    assert_eq!(identity(&after).await, Ok(("222233334444".to_owned(), arn.to_owned())));
    assert_eq!(identity(&before).await, Ok((OTHER_ACCOUNT.to_owned(), SESSION.to_owned())));
}

/// Returns in how many seconds the issued credentials expire.
async fn lifetime(call: AssumeRoleFluentBuilder) -> u64 {
    let reply = call.send().await.expect("the role trusts the caller");
    let expiration = reply.credentials().expect("the response has credentials").expiration().secs();
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is right").as_secs();
    expiration.unsigned_abs() - now
}

#[tokio::test]
async fn session_expires_after_its_duration() {
    let (_ecs, role, config) = start().await;
    assert!((3_595..=3_600).contains(&lifetime(call(&config, ROLE)).await));
    assert!((1_795..=1_800).contains(&lifetime(call(&config, ROLE).duration_seconds(1_800)).await));
    role.session_lifetime(Duration::from_mins(1));
    assert!((55..=60).contains(&lifetime(call(&config, ROLE).duration_seconds(1_800)).await));

    role.session_lifetime(Duration::ZERO);
    let session = assume(&config, ROLE).await.expect("the role trusts the caller");
    let expired = |code: &str| {
        let message = "The security token included in the request is expired";
        (code.to_owned(), message.to_owned())
    };
    assert_eq!(describe(&session, "web:1").await, Err(expired("ExpiredTokenException")));
    assert_eq!(identity(&session).await.expect_err("the session has expired"), expired("ExpiredToken"));
    assert_eq!(assume(&session, ROLE).await.expect_err("the session has expired"), expired("ExpiredToken"));
}

#[tokio::test]
async fn session_of_a_role_is_limited_to_an_hour_by_role_chaining() {
    let (ecs, role, config) = start().await;
    let longer = |config: &SdkConfig| call(config, ROLE).duration_seconds(3_601);
    let chained = (
        "ValidationError".to_owned(),
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."
            .to_owned(),
    );
    let session = assume(&config, ROLE).await.expect("the role trusts the caller");
    role.trust(OTHER_ACCOUNT).max_session_duration(Duration::from_hours(12));
    for caller in [&config, &session] {
        assert_eq!(send(caller, longer(caller)).await.expect_err("the duration exceeds an hour"), chained);
    }
    ecs.set_user(USER_KEY, USER);
    let user = support::config(&ecs, USER_KEY, "us-west-2");
    send(&user, longer(&user)).await.expect("role chaining does not limit a user");
    role.max_session_duration(Duration::from_hours(1));
    let (code, message) = send(&user, longer(&user)).await.expect_err("the role allows an hour");
    assert!(code == "ValidationError" && message.contains("MaxSessionDuration"), "{message}");
}

#[tokio::test]
async fn assume_role_rejects_invalid_parameters() {
    let (ecs, _role, config) = start().await;
    for invalid in [
        call(&config, ROLE).role_session_name("a"),
        call(&config, ROLE).role_session_name("a b"),
        call(&config, ROLE).role_session_name("x".repeat(65)),
        call(&config, ROLE).duration_seconds(899),
        call(&config, ROLE).duration_seconds(-1),
        call(&config, "ecs-retirement"),
    ] {
        assert_eq!(send(&config, invalid).await.expect_err("the parameter is invalid").0, "ValidationError");
    }
    assert_eq!(ecs.calls_of(Action::AssumeRole).len(), 6);
}

#[tokio::test]
async fn access_key_of_a_session_needs_its_token() {
    let (ecs, _role, config) = start().await;
    let reply = call(&config, ROLE).send().await.expect("the role trusts the caller");
    let access_key = reply.credentials().expect("the response has credentials").access_key_id();
    for token in [None, Some("token-of-another-session".to_owned())] {
        let credentials = Credentials::new(access_key, "secret", token, None, "test");
        let (code, _) =
            identity(&with_credentials(&config, credentials)).await.expect_err("the token is wrong");
        assert_eq!(code, "InvalidClientTokenId");
    }
    assert!(ecs.account(OTHER_ACCOUNT).ecs_calls().is_empty());
}

#[tokio::test]
async fn credentials_provider_of_the_sdk_assumes_the_role_once() {
    let (ecs, role, config) = start().await;
    role.external_id("tenant+42");
    ecs.account(OTHER_ACCOUNT).region("us-west-2").register("web");
    let base = aws_config::defaults(BehaviorVersion::latest())
        .http_client(sdk::http_client())
        .endpoint_url(ecs.endpoint())
        .region("us-west-2")
        .credentials_provider(Credentials::new(ACCESS_KEY, "secret", None, None, "test"));
    let provider = AssumeRoleProvider::builder(ROLE).session_name("controller").external_id("tenant+42");
    let provider = provider.configure(&base.load().await).build().await;
    let provider = SharedCredentialsProvider::new(provider);
    let session = config.into_builder().credentials_provider(provider).build();
    let client = aws_sdk_ecs::Client::new(&session);
    for _ in 0..2 {
        let described = client.describe_task_definition().task_definition("web:1").send().await;
        described.expect("the session may describe the revision");
    }
    assert_eq!(ecs.calls_of(Action::AssumeRole).len(), 1);
    assert_eq!(role.calls().len(), 2);
}
