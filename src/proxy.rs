//! Proxies of the environment, for calls to Kubernetes and to AWS.

use std::{env, net::IpAddr};

use axum::http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// The URL of a proxy, and the environment variable that sets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    pub variable: &'static str,
    pub url: String,
}

/// The proxies of the environment.
#[derive(Debug)]
pub struct Proxies {
    pub https: Option<Proxy>,
    pub http: Option<Proxy>,
    /// The proxy for URLs without one of their scheme.
    pub all: Option<Proxy>,
    no_proxy: String,
}

impl Proxies {
    /// Reads the environment. Of the two spellings of a variable, the first that is not empty
    /// counts.
    #[must_use]
    pub fn from_env() -> Self {
        Self::read(|name| env::var(name).ok())
    }

    fn read(value: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|variable| {
                let value = value(variable)?.trim().to_owned();
                (!value.is_empty()).then_some((variable, value))
            })
        };
        let proxy = |names| {
            let (variable, value) = first(names)?;
            let url = if value.contains("://") { value } else { format!("http://{value}") };
            Some(Proxy { variable, url })
        };
        Self {
            https: proxy(["HTTPS_PROXY", "https_proxy"]),
            http: proxy(["HTTP_PROXY", "http_proxy"]),
            all: proxy(["ALL_PROXY", "all_proxy"]),
            no_proxy: first(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default(),
        }
    }

    /// Returns true if requests to `server` go through a proxy, if there is one: it is not local,
    /// and `NO_PROXY` does not match it.
    #[must_use]
    pub fn apply_to(&self, server: &Uri) -> bool {
        !server.host().is_some_and(is_local) && !matches(&self.no_proxy, server)
    }
}

/// Returns true for loopback addresses, and for the link-local addresses at which ECS, EKS Pod
/// Identity and EC2 serve credentials. A proxy would return its own credentials or leak the
/// controller's.
/// Source: "Container credential provider" and "IMDS credential provider", AWS SDKs and Tools
/// Reference Guide; for loopback addresses, `ProxyFromEnvironment` of Go, which kubectl uses.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Returns true if `NO_PROXY` matches `server`. The matcher supports hosts, domains, addresses and
/// networks. This function also supports ports, and `*.` before a domain.
fn matches(no_proxy: &str, server: &Uri) -> bool {
    let default = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let port = server.port_u16().unwrap_or(default);
    let separators = |c: char| c == ',' || c.is_whitespace();
    let entries = no_proxy.split(separators).filter_map(|entry| match entry.rsplit_once(':') {
        // A colon within an IPv6 address does not begin a port.
        Some((host, entry_port)) if !host.contains(':') || host.ends_with(']') => {
            (entry_port.parse() == Ok(port)).then_some(host)
        }
        _ => Some(entry),
    });
    let entries = entries.map(|entry| entry.trim_matches(['[', ']']));
    let entries: Vec<&str> =
        entries.map(|entry| entry.strip_prefix('*').filter(|it| !it.is_empty()).unwrap_or(entry)).collect();
    let matcher = Matcher::builder().all("http://proxy").no(entries.join(",")).build();
    matcher.intercept(server).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns true if requests to `server` go through a proxy.
    fn is_proxied(server: &str, no_proxy: &str) -> bool {
        let proxies = Proxies::read(|name| (name == "NO_PROXY").then(|| no_proxy.to_owned()));
        proxies.apply_to(&server.parse().expect("a URI"))
    }

    #[test]
    fn first_spelling_of_a_variable_that_is_not_empty_counts() {
        let read = |variables: &[(&str, &str)]| {
            let variables = variables.to_vec();
            Proxies::read(move |name| {
                variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let lower = read(&[("HTTPS_PROXY", " "), ("https_proxy", "http://a:1"), ("no_proxy", "b")]);
        assert_eq!(lower.https, Some(Proxy { variable: "https_proxy", url: "http://a:1".to_owned() }));
        assert_eq!((lower.http, lower.all, lower.no_proxy.as_str()), (None, None, "b"));
        let upper = read(&[("HTTP_PROXY", "a:1"), ("http_proxy", "http://b"), ("ALL_PROXY", "")]);
        assert_eq!(upper.http, Some(Proxy { variable: "HTTP_PROXY", url: "http://a:1".to_owned() }));
        assert_eq!((upper.https, upper.all), (None, None));
    }

    #[test]
    fn local_addresses_are_those_of_this_host_and_its_link() {
        for host in ["127.0.0.1", "127.1.2.3", "localhost", "[::1]", "169.254.170.2", "169.254.169.254"] {
            assert!(is_local(host), "{host}");
            assert!(!is_proxied(&format!("https://{host}:6443"), ""), "{host}");
        }
        assert!(is_local("[fd00:ec2::23]") && is_local("[fd00:ec2::254]") && is_local("[::ffff:127.0.0.1]"));
        for host in
            ["10.0.0.1", "169.253.1.1", "sts.us-west-2.amazonaws.com", "[fd00:ec3::1]", "localhost.example"]
        {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn no_proxy_matches_hosts_domains_addresses_networks_and_ports() {
        let matching = [
            ("https://k8s.example.com:6443", "k8s.example.com"),
            ("https://k8s.example.com:6443", "K8S.example.com:6443"),
            ("https://k8s.example.com:6443", "example.com"),
            ("https://k8s.example.com:6443", ".example.com"),
            ("https://k8s.example.com:6443", "*.example.com"),
            ("https://k8s.example.com:6443", "localhost, ,.example.com,"),
            ("https://k8s.example.com:6443", "localhost k8s.example.com"),
            ("https://k8s.example.com", "k8s.example.com:443"),
            ("https://k8s.example.com:6443", "*"),
            ("https://k8s.example.com:6443", "localhost,*"),
            ("https://10.0.0.1:6443", "10.0.0.1"),
            ("https://10.0.0.1:6443", "10.0.0.1:6443"),
            ("https://10.0.0.1:6443", "10.0.0.0/8"),
            ("https://[fd00::1]:6443", "fd00::1"),
            ("https://[fd00::1]:6443", "[fd00::1]"),
            ("https://[fd00::1]:6443", "[fd00::1]:6443"),
            ("https://[fd00::1]:6443", "fd00::/8"),
        ];
        for (server, no_proxy) in matching {
            assert!(!is_proxied(server, no_proxy), "{server} in {no_proxy}");
        }
    }

    #[test]
    fn no_proxy_does_not_match_other_hosts_ports_and_networks() {
        for no_proxy in [
            "",
            "proxy.example.com",
            "ample.com",
            "k8s.example.com:443",
            "10.0.0.0/8",
            "fd00::/8",
            "169.254.169.254",
        ] {
            assert!(is_proxied("https://k8s.example.com:6443", no_proxy), "{no_proxy}");
        }
        assert!(is_proxied("https://10.0.0.1:6443", "10.0.0.1:443,10.0.0.10,11.0.0.0/8"));
    }
}
