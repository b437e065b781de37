//! AWS outages: status and `/readyz` name the cause, with the same text on every attempt.

use std::{fs, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use testkit::{
    process::{Folder, Process, free_port},
    simulated_ecs::{Action, Fault},
};
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep},
};

use crate::support::{DEADLINE, World, page, peer::Peer, wait_for_page, wait_for_response};

const IDENTITY: Action = Action::GetCallerIdentity;
const DESCRIBE: Action = Action::DescribeTaskDefinition;

const REFUSAL_OF_PROXY: &str =
    "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

const PAUSE: Duration = Duration::from_millis(100);

/// Number of consecutive attempts that must be reported with the same text.
const ATTEMPTS: u32 = 4;

/// Returns the number of calls without a response.
async fn unanswered(metrics: &str) -> u32 {
    let (_, text) = page(&format!("{metrics}/metrics")).await.expect("metrics are served");
    let lines = text.lines().filter(|line| line.starts_with("ecs_retirement_aws_calls_total"));
    let lines = lines.filter(|line| line.contains("code=\"NoAnswer\""));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).sum()
}

/// Returns the URL of the test API server, and the path of the CA, which no system trusts.
fn api_server(world: &World<'_>) -> (String, String) {
    let kubeconfig = fs::read_to_string(world.namespace.control_plane().kubeconfig()).expect("a kubeconfig");
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).expect("JSON");
    let cluster = &kubeconfig["clusters"][0]["cluster"];
    let text = |field: &str| cluster[field].as_str().expect("text").to_owned();
    (text("server"), text("certificate-authority"))
}

/// Starts a controller in `environment`. Asserts that status and `/readyz` report `cause`, and that
/// it is written and logged once.
async fn expect_outage(world: &World<'_>, environment: &[(&str, &str)], cause: &str) -> Process {
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let address = || format!("127.0.0.1:{}", free_port().expect("a port"));
    let (metrics, probes) = (address(), address());
    let mut variables =
        vec![("METRICS_BIND_ADDRESS", metrics.as_str()), ("HEALTH_PROBE_BIND_ADDRESS", probes.as_str())];
    variables.extend(environment);
    let controller = world.start_with(&variables);
    let seen = world.wait("web", cause, |seen| seen.reason("web:1") == "Unavailable").await;
    let message = format!("AWS could not be reached: {cause}");
    assert_eq!(seen.message("web:1"), message, "{}", controller.log());

    let began = Instant::now();
    while unanswered(&metrics).await < ATTEMPTS {
        assert!(began.elapsed() < DEADLINE, "too few attempts: {}", controller.log());
        sleep(PAUSE).await;
    }
    assert_eq!(world.seen("web").await.version(), seen.version(), "no write while nothing changes");
    let log = controller.log();
    let logged = |operation: &str| {
        let lines = log.lines().filter(|line| line.contains("no response from AWS"));
        lines.filter(|line| line.contains(operation)).count()
    };
    let operations = ["GetCallerIdentity", "DescribeTaskDefinition"];
    assert!(operations.into_iter().map(logged).all(|lines| lines <= 1), "{log}");
    assert!(log.contains(&message) && operations.into_iter().map(logged).sum::<usize>() >= 1, "{log}");
    if log.contains("identity not verified") {
        wait_for_response(&format!("{probes}/readyz"), 503, &message).await;
    }
    controller
}

#[tokio::test]
async fn closed_port_is_reported_as_connection_refused() {
    let world = World::new().await;
    // A bound socket that does not listen: no other test listens on its port.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
    expect_outage(&world, &[("AWS_ENDPOINT_URL", &endpoint)], "connection refused").await;
}

#[tokio::test]
async fn unresolvable_host_name_is_reported_as_unknown_host() {
    let world = World::new().await;
    let proxy = Peer::responding(Some(REFUSAL_OF_PROXY)).await;
    let url = format!("http://localhost:{}", proxy.port());
    let environment = [
        ("AWS_ENDPOINT_URL", "http://nothing.invalid"),
        ("HTTP_PROXY", url.as_str()),
        ("NO_PROXY", "nothing.invalid:443 *.invalid"),
    ];
    expect_outage(&world, &environment, "unknown host").await;
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

#[tokio::test]
async fn certificate_of_an_unknown_ca_is_trusted_only_if_the_ca_bundle_contains_the_ca() {
    let world = World::new().await;
    let (server, authority) = api_server(&world);
    let environment = [("AWS_ENDPOINT_URL", server.as_str())];
    drop(expect_outage(&world, &environment, "untrusted certificate").await);

    world.delete("web").await;
    let environment = [environment[0], ("AWS_CA_BUNDLE", authority.as_str())];
    expect_outage(&world, &environment, "unexpected response that is not from AWS (HTTP status 403)").await;
}

#[tokio::test]
async fn refusal_by_a_proxy_is_reported_and_the_api_server_is_reached_without_the_proxy() {
    let world = World::new().await;
    let proxy = Peer::responding(Some(REFUSAL_OF_PROXY)).await;
    let url = format!("http://localhost:{}", proxy.port());
    let environment = [
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("HTTPS_PROXY", ""),
        ("https_proxy", url.as_str()),
        // Other programs accept these values, too.
        ("NO_PROXY", "k8s.example.com, ,a b,"),
    ];
    expect_outage(&world, &environment, "HTTP 407 from the proxy").await;
    let requests = proxy.requests();
    let expected = "CONNECT sts-fips.us-west-2.amazonaws.com:443 HTTP/1.1";
    assert!(requests.iter().all(|line| line == expected), "{requests:?}");
}

#[tokio::test]
async fn endpoint_settings_apply_to_web_identity_too() {
    let folder = Folder::create().expect("a folder");
    let token = folder.join("token");
    fs::write(&token, "a-token").expect("the file can be written");
    let token = token.display().to_string();
    for (variable, host) in [
        ("AWS_USE_FIPS_ENDPOINT", "sts-fips.us-west-2.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "sts.us-west-2.api.aws"),
    ] {
        let world = World::new().await;
        let proxy = Peer::responding(Some(REFUSAL_OF_PROXY)).await;
        let url = format!("http://localhost:{}", proxy.port());
        world.west.register("web");
        world.declare("web", &["web:1"]).await;
        let controller = world.start_with(&[
            ("AWS_ENDPOINT_URL", ""),
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_ROLE_ARN", "arn:aws:iam::012345678910:role/controller"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
            (variable, "true"),
            ("HTTPS_PROXY", url.as_str()),
            ("NO_PROXY", "127.0.0.1"),
        ]);
        let seen = world.wait("web", "Unavailable", |seen| seen.reason("web:1") == "Unavailable").await;
        assert_eq!(seen.message("web:1"), "AWS could not be reached: HTTP 407 from the proxy");
        let expected = format!("CONNECT {host}:443 HTTP/1.1");
        let requests = proxy.requests();
        assert!(requests.iter().all(|line| *line == expected), "{requests:?}: {}", controller.log());
    }
}

#[tokio::test]
async fn endpoints_on_loopback_are_called_without_a_proxy() {
    let world = World::new().await;
    let proxy = Peer::responding(Some(REFUSAL_OF_PROXY)).await;
    let url = format!("http://localhost:{}", proxy.port());
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let proxies = [("HTTP_PROXY", url.as_str()), ("ALL_PROXY", url.as_str())];
    let _controller = world.start_with(&proxies);
    world.wait_ready("web").await;
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

#[tokio::test]
async fn hanging_server_is_reported_as_no_response_in_time() {
    let world = World::new().await;
    let server = Peer::responding(None).await;
    let endpoint = format!("http://127.0.0.1:{}", server.port());
    expect_outage(&world, &[("AWS_ENDPOINT_URL", &endpoint)], "no response in time").await;
}

#[tokio::test]
async fn server_that_hangs_up_is_reported_as_connection_closed() {
    let world = World::new().await;
    let server = Peer::responding(Some("")).await;
    let endpoint = format!("http://127.0.0.1:{}", server.port());
    expect_outage(&world, &[("AWS_ENDPOINT_URL", &endpoint)], "connection closed").await;
}

#[tokio::test]
async fn html_pages_are_reported_as_not_from_aws() {
    for (action, status) in
        [(IDENTITY, 403), (IDENTITY, 503), (DESCRIBE, 403), (DESCRIBE, 500), (DESCRIBE, 200)]
    {
        let world = World::new().await;
        world.ecs.fault(Fault::on(action).page(status));
        let cause = format!("unexpected response that is not from AWS (HTTP status {status})");
        let _controller = expect_outage(&world, &[], &cause).await;
        world.ecs.clear_faults();
        world.wait_ready("web").await;
    }
}

#[tokio::test]
async fn unreadable_ca_bundle_ends_the_process_with_its_path() {
    let world = World::new().await;
    let mut controller = world.start_with(&[("AWS_CA_BUNDLE", "/nowhere/ca.pem")]);
    let status = controller.wait(DEADLINE).await.expect("the process exits");
    assert!(!status.success());
    let log = controller.log();
    assert!(log.contains("error: AWS_CA_BUNDLE: cannot read /nowhere/ca.pem: "), "{log}");
}

#[tokio::test]
async fn readiness_returns_once_aws_responds() {
    let world = World::new().await;
    world.ecs.fault(Fault::on(IDENTITY).page(503));
    let probes = format!("127.0.0.1:{}", free_port().expect("a port"));
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let _controller = world.start_with(&[("HEALTH_PROBE_BIND_ADDRESS", &probes)]);
    world.wait("web", "Unavailable", |seen| seen.reason("web:1") == "Unavailable").await;
    world.ecs.clear_faults();
    world.wait_ready("web").await;
    wait_for_page(&format!("{probes}/readyz"), "ok").await;
}
