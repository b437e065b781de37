//! Metrics and probes are served on IPv4 and IPv6, regardless of the host's defaults.

use std::process::Command;

use testkit::process::{self, Folder};

use crate::support::DEADLINE;

/// Runs in a new network namespace, where `:PORT` and `[::]:PORT` are IPv6 only unless a program
/// requests both.
const IN_NETWORK_NAMESPACE: &str = r#"
echo 1 > /proc/sys/net/ipv6/bindv6only
ip link set lo up
"$0" run --leader-elect=false --metrics-bind-address='[::]:8080' &
for address in 127.0.0.1/8081 ::1/8081 127.0.0.1/8080; do
  until exec 3<>"/dev/tcp/$address"; do sleep 0.1; done
  printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
  echo "$address: $(head -1 <&3)"
done
kill $!
"#;

const KUBECONFIG: &str = r#"{
    "apiVersion": "v1", "kind": "Config", "current-context": "none",
    "clusters": [{ "name": "none", "cluster": { "server": "http://127.0.0.1:1" } }],
    "users": [{ "name": "none", "user": {} }],
    "contexts": [{ "name": "none", "context": { "cluster": "none", "user": "none" } }]
}"#;

#[tokio::test]
async fn bind_address_without_a_host_is_served_on_ipv4_and_ipv6() {
    let folder = Folder::create().expect("a folder");
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&kubeconfig, KUBECONFIG).expect("the file can be written");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net", "bash", "-c", IN_NETWORK_NAMESPACE])
        .arg(env!("CARGO_BIN_EXE_ecs-retirement-controller"))
        .envs([("KUBECONFIG", kubeconfig.display().to_string().as_str()), ("AWS_REGION", "us-west-2")]);
    let output = process::output(&command, DEADLINE).await.expect("unshare runs and exits");
    let (responses, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("unshare failed") {
        println!("skipped: this machine allows no network namespaces: {errors}");
        return;
    }
    for line in
        ["127.0.0.1/8081: HTTP/1.1 200 OK", "::1/8081: HTTP/1.1 200 OK", "127.0.0.1/8080: HTTP/1.1 404"]
    {
        assert!(responses.contains(line), "{responses}\n{errors}");
    }
}
