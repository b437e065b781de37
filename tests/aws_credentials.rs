//! AWS credentials: failures are reported and retried slowly, and rejected ones are replaced.

use std::{fs, path::PathBuf};

use serde_json::json;
use testkit::{
    process::{Folder, Process, free_port},
    simulated_ecs::{ACCESS_KEY, ACCOUNT, Action, Fault},
};

use crate::support::{DEADLINE, World, page, peer::Peer, wait_for_page, wait_for_response};

const ASSUME_ROLE: Action = Action::AssumeRoleWithWebIdentity;
const DESCRIBE: Action = Action::DescribeTaskDefinition;
const IDENTITY: Action = Action::GetCallerIdentity;

/// A controller with the web identity of a role.
pub struct WebIdentity {
    _folder: Folder,
    role: String,
    token: PathBuf,
    metrics: String,
    probes: String,
}

impl WebIdentity {
    pub fn new() -> Self {
        let folder = Folder::create().expect("a folder");
        let token = folder.join("token");
        fs::write(&token, "a-token").expect("the file can be written");
        let address = || format!("127.0.0.1:{}", free_port().expect("a port"));
        let role = format!("arn:aws:iam::{ACCOUNT}:role/controller");
        Self { _folder: folder, role, token, metrics: address(), probes: address() }
    }

    /// Returns the environment of a controller with this identity.
    pub fn environment(&self) -> [(&str, &str); 6] {
        [
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", self.token.to_str().expect("the path is UTF-8")),
            ("AWS_ROLE_ARN", &self.role),
            ("METRICS_BIND_ADDRESS", &self.metrics),
            ("HEALTH_PROBE_BIND_ADDRESS", &self.probes),
        ]
    }

    fn start(&self, world: &World<'_>) -> Process {
        world.start_with(&self.environment())
    }

    async fn metrics(&self) -> String {
        page(&format!("{}/metrics", self.metrics)).await.expect("metrics are served").1
    }
}

#[tokio::test]
async fn refusal_by_a_trust_policy_is_access_denied_and_retried_for_all_resources_at_once() {
    let world = World::new().await;
    world.west.register_many("web", 5);
    world.ecs.fault(Fault::on(ASSUME_ROLE).access_denied());
    for number in 1..=5 {
        world.declare(&format!("web-{number}"), &[&format!("web:{number}")]).await;
    }
    let identity = WebIdentity::new();
    let _controller = identity.start(&world);
    let expected = format!(
        "cannot assume {}: AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity",
        identity.role
    );
    for number in 1..=5 {
        let seen = world.wait_until_blocked(&format!("web-{number}")).await;
        assert_eq!(seen.ready_reason(), "AccessDenied", "{seen}");
        let row = seen.row(&format!("web:{number}"));
        assert_eq!(row["message"], expected, "{seen}");
        assert_eq!(row["error"]["operation"], "AssumeRoleWithWebIdentity", "{seen}");
        assert_eq!(row["error"]["code"], "AccessDenied", "{seen}");
    }
    assert!(world.ecs.calls_of(ASSUME_ROLE).len() <= 2, "one call for all: {:#?}", world.ecs.calls());
    assert!(world.ecs.calls().iter().all(|call| call.action == ASSUME_ROLE), "{:#?}", world.ecs.calls());
    let counted =
        "ecs_retirement_aws_calls_total{operation=\"AssumeRoleWithWebIdentity\",code=\"AccessDenied\"}";
    let metrics = identity.metrics().await;
    assert!(metrics.contains(counted), "{metrics}");
    wait_for_response(&format!("{}/readyz", identity.probes), 503, &expected).await;

    world.ecs.clear_faults();
    for number in 1..=5 {
        world.wait_ready(&format!("web-{number}")).await;
    }
    wait_for_page(&format!("{}/readyz", identity.probes), "ok").await;
    assert_eq!(world.ecs.calls_of(IDENTITY).len(), 1);
}

#[tokio::test]
async fn failing_sts_is_unavailable_and_retried_soon() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.fault(Fault::on(ASSUME_ROLE).server_error());
    world.declare("web", &["web:1"]).await;
    let identity = WebIdentity::new();
    let controller = identity.start(&world);
    world.wait("web", "Unavailable", |seen| seen.reason("web:1") == "Unavailable").await;
    world.ecs.wait_for_calls(ASSUME_ROLE, 8, DEADLINE).await;
    let log = controller.log();
    assert_eq!(log.matches("no response from AWS").count(), 1, "logged when it changes: {log}");
    assert!(!log.contains("aws_config"), "and only by the controller: {log}");
    world.ecs.clear_faults();
    world.wait_ready("web").await;
}

#[tokio::test]
async fn missing_token_file_is_access_denied_until_it_exists() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let identity = WebIdentity::new();
    fs::remove_file(&identity.token).expect("it exists");
    let _controller = identity.start(&world);
    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
    let expected = format!("cannot read the token file {}: entity not found", identity.token.display());
    assert_eq!(seen.message("web:1"), expected);
    assert!(identity.metrics().await.contains("code=\"NoCredentials\""));
    fs::write(&identity.token, "a-token").expect("the file can be written");
    world.wait_ready("web").await;
}

#[tokio::test]
async fn refusal_by_a_credentials_endpoint_is_access_denied() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let agent = Peer::responding(Some(refusal)).await;
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let endpoint = format!("http://127.0.0.1:{}/v1/credentials", agent.port());
    let _controller = world.start_with(&[
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"),
    ]);
    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
    assert_eq!(seen.message("web:1"), "the endpoint for AWS credentials returned HTTP status 403");
}

#[tokio::test]
async fn refusal_to_assume_the_role_of_a_profile_is_access_denied() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let folder = Folder::create().expect("a folder");
    let config = folder.join("config");
    let keys = format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = secret\n");
    let role = format!("role_arn = arn:aws:iam::{ACCOUNT}:role/r\nsource_profile = base\n");
    let profile = format!("[default]\n{role}[profile base]\n{keys}");
    fs::write(&config, profile).expect("the file can be written");
    let file = config.display().to_string();
    let _controller = world.start_with(&[
        ("AWS_CONFIG_FILE", file.as_str()),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ]);
    let seen = world.wait_until_blocked("web").await;
    assert_eq!(seen.reason("web:1"), "AccessDenied", "{seen}");
    assert!(seen.message("web:1").starts_with("cannot assume the role: AccessDenied: "), "{seen}");
    assert_eq!(seen.row("web:1")["error"]["operation"], "AssumeRole", "{seen}");
}

#[tokio::test]
async fn rejected_credentials_are_replaced_before_they_expire() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.declare("first", &["web:1"]).await;
    let identity = WebIdentity::new();
    let mut controller = identity.start(&world);
    world.wait_ready("first").await;
    let key = world.ecs.last_call().expect("a call").access_key;
    controller
        .wait_for_log(&format!("arn:aws:sts::{ACCOUNT}:assumed-role/controller"), DEADLINE)
        .await
        .expect("the principal is logged");

    world.ecs.revoke(&key);
    world.declare("second", &["web:2"]).await;
    world.wait_ready("second").await;
    assert_eq!(world.ecs.calls_of(ASSUME_ROLE).len(), 2, "{:#?}", world.ecs.calls());
}

#[tokio::test]
async fn credentials_that_only_one_region_rejects_are_kept() {
    let world = World::new().await;
    world.west.register("web");
    let rejection = "The security token included in the request is invalid.";
    world.ecs.fault(Fault::on(DESCRIBE).error("UnrecognizedClientException", rejection));
    world.declare("web", &["web:1"]).await;
    let identity = WebIdentity::new();
    let _controller = identity.start(&world);
    world.wait_until_blocked("web").await;
    world.ecs.wait_for_calls(DESCRIBE, 3, DEADLINE).await;
    assert_eq!(world.ecs.calls_of(ASSUME_ROLE).len(), 1);
    assert!(world.ecs.calls_of(IDENTITY).len() <= 2, "{:#?}", world.ecs.calls());
}

#[tokio::test]
async fn credentials_that_sts_rejects_only_outside_of_the_default_region_are_kept() {
    let world = World::new().await;
    world.ecs.region(ACCOUNT, "eu-west-1").register("web");
    world.ecs.fault(Fault::on(IDENTITY).times(1).error("InvalidClientTokenId", "Not enabled."));
    world
        .apply("web", json!({ "revisions": ["web:1"], "region": "eu-west-1" }))
        .await
        .expect("the resource is admitted");
    let identity = WebIdentity::new();
    let _controller = identity.start(&world);
    world.wait_ready("web").await;
    let regions: Vec<String> = world.ecs.calls_of(IDENTITY).into_iter().map(|call| call.region).collect();
    assert_eq!(regions, ["eu-west-1", "us-west-2", "eu-west-1"]);
    assert_eq!(world.ecs.calls_of(ASSUME_ROLE).len(), 1);
}

#[tokio::test]
async fn varying_aws_error_texts_cause_no_status_writes_and_no_events() {
    let world = World::new().await;
    world.west.register("web");
    for attempt in 1..=9 {
        let text =
            format!("User: arn:aws:sts::{ACCOUNT}:assumed-role/controller/{attempt} is not authorized");
        world.ecs.fault(Fault::on(DESCRIBE).revision("web:1").times(1).error("AccessDeniedException", text));
    }
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();
    let first = world.wait_until_blocked("web").await;
    assert!(first.message("web:1").contains("controller/1 is"), "{first}");
    world.ecs.wait_for_calls(DESCRIBE, 3, DEADLINE).await;
    world.wait_until_all_is_seen().await;
    assert_eq!(world.seen("web").await.version(), first.version(), "no write");

    // A requested reconcile reports the text of the latest attempt.
    world.request("web", "now").await;
    let latest = world
        .wait("web", "another text", |seen| {
            seen.reason("web:1") == "AccessDenied" && seen.message("web:1") != first.message("web:1")
        })
        .await;
    assert!(latest.is_current(), "{latest}");
}
