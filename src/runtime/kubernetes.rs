//! Kubernetes client with timeouts and request metrics, and with client-side retries disabled.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Bytes, HttpBody},
    http::{Request, Response, Uri},
};
use futures::{FutureExt, future::BoxFuture};
use hyper_util::client::proxy::matcher::Matcher;
use kube::{
    Config,
    client::{Body, ClientBuilder},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{Service, layer::layer_fn, timeout::TimeoutLayer};
use tower_http::timeout::ResponseBodyTimeoutLayer;

use crate::{in_flight, runtime::Error};

/// Requests to the API server, by `method` and `code`: the HTTP status, or `<error>` as in
/// client-go.
pub const REST_CLIENT_REQUESTS: &str = "rest_client_requests_total";

/// Timeout for the next data of a response body. A watch request ends earlier and is then renewed.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Returns the client configuration from `KUBECONFIG`, the default kubeconfig, or the pod's service
/// account.
///
/// # Errors
/// Returns `Error::Kubernetes` if none of them can be used. The message names what was tried.
pub async fn config() -> Result<Config, Error> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(mut config) => {
            config.proxy_url = proxy(&config.cluster_url)?;
            config
        }
        // With a pod's service account, no proxy is used.
        Err(kubeconfig) => Config::incluster().map_err(|in_cluster| {
            let (kubeconfig, in_cluster) = (error_chain(&kubeconfig), error_chain(&in_cluster));
            Error::Kubernetes(format!("kubeconfig: {kubeconfig}; service account: {in_cluster}"))
        })?,
    };
    config.apply_debug_overrides();
    config.default_retry = false;
    Ok(config)
}

/// Returns the proxy for `server`: that of the kubeconfig, or otherwise that of the environment.
fn proxy(server: &Uri) -> Result<Option<Uri>, Error> {
    let configured = Kubeconfig::read().ok().as_ref().and_then(kubeconfig_proxy);
    let Some((name, proxy)) = configured.or_else(|| environment_proxy(server)) else { return Ok(None) };
    proxy.parse().map(Some).map_err(|error| Error::Kubernetes(format!("{name}: {error}")))
}

/// Returns the proxy of the kubeconfig's current cluster. As in kubectl, `NO_PROXY` does not apply
/// to it.
fn kubeconfig_proxy(kubeconfig: &Kubeconfig) -> Option<(&'static str, String)> {
    let name = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|it| it.name == *name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|it| it.name == context.cluster)?.cluster.as_ref()?;
    cluster
        .proxy_url
        .clone()
        .filter(|proxy| !proxy.is_empty())
        .map(|proxy| ("proxy-url of the kubeconfig", proxy))
}

/// Returns the proxy that the environment sets for `server`. `kube` cannot be used for this: it
/// compares `NO_PROXY` with the proxy instead of the server.
fn environment_proxy(server: &Uri) -> Option<(&'static str, String)> {
    let variable = |names: [&'static str; 2]| {
        let values = names.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?)));
        values.into_iter().find(|(_, value)| !value.trim().is_empty())
    };
    let proxy = variable(["HTTPS_PROXY", "https_proxy"])?;
    let no_proxy = variable(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default();
    is_proxied(server, &no_proxy).then_some(proxy)
}

/// Returns true if `NO_PROXY` does not match `server`. The matcher supports hosts, domains,
/// addresses and networks. This function also supports ports, and `*.` before a domain.
fn is_proxied(server: &Uri, no_proxy: &str) -> bool {
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
    matcher.intercept(server).is_some()
}

/// Returns a client for `config`.
///
/// # Errors
/// Returns `Error::Kubernetes` if its certificates, keys or proxy cannot be used.
pub fn client(config: Config) -> Result<kube::Client, Error> {
    Ok(bounded(ClientBuilder::try_from(config).map_err(|error| Error::Kubernetes(error_chain(&error)))?))
}

/// Returns a client from `builder` that applies timeouts to requests and counts them.
pub fn bounded<S, B>(builder: ClientBuilder<S>) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Send + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    builder
        .with_layer(&TimeoutLayer::new(in_flight::KUBERNETES_LIMIT))
        .with_layer(&ResponseBodyTimeoutLayer::new(SILENCE_LIMIT))
        .with_layer(&layer_fn(|inner| Counted { inner }))
        .build()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A service that counts requests.
#[derive(Clone, Debug)]
struct Counted<S> {
    inner: S,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().to_string();
        let response = self.inner.call(request);
        async move {
            let response = response.await;
            let code = response.as_ref().map_or("<error>".to_owned(), |it| it.status().as_u16().to_string());
            metrics::counter!(REST_CLIENT_REQUESTS, "method" => method, "code" => code).increment(1);
            response
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("https://10.0.0.1:6443", "10.0.0.1"),
            ("https://10.0.0.1:6443", "10.0.0.1:6443"),
            ("https://10.0.0.1:6443", "10.0.0.0/8"),
            ("https://[fd00::1]:6443", "fd00::1"),
            ("https://[fd00::1]:6443", "[fd00::1]"),
            ("https://[fd00::1]:6443", "[fd00::1]:6443"),
            ("https://[fd00::1]:6443", "fd00::/8"),
        ];
        for (server, no_proxy) in matching {
            assert!(!is_proxied(&server.parse().expect("a URI"), no_proxy), "{server} in {no_proxy}");
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
            let server = "https://k8s.example.com:6443".parse().expect("a URI");
            assert!(is_proxied(&server, no_proxy), "{no_proxy}");
        }
        assert!(is_proxied(
            &"https://10.0.0.1:6443".parse().expect("a URI"),
            "10.0.0.1:443,10.0.0.10,11.0.0.0/8"
        ));
    }
}
