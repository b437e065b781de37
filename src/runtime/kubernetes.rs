//! The client of Kubernetes: no call pends for ever, no failure is hidden by retries, and each request is counted.

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

/// Requests to the API server, by `method` and `code`: the status, or `<error>` as in client-go.
pub const REST_CLIENT_REQUESTS: &str = "rest_client_requests_total";

/// How long the API server may be silent in the middle of an answer. A watch ends before, and is then asked for again.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How the environment reaches Kubernetes: `KUBECONFIG`, the default kubeconfig, or the pod's service account.
///
/// # Errors
/// Where none of them does; the message names what was tried.
pub async fn config() -> Result<Config, Error> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(mut config) => {
            config.proxy_url = proxy(&config.cluster_url)?;
            config
        }
        // A pod's service account goes by no proxy.
        Err(kubeconfig) => Config::incluster().map_err(|in_cluster| {
            let (kubeconfig, in_cluster) = (chain(&kubeconfig), chain(&in_cluster));
            Error::Kubernetes(format!("kubeconfig: {kubeconfig}; service account: {in_cluster}"))
        })?,
    };
    config.apply_debug_overrides();
    config.default_retry = false;
    Ok(config)
}

/// The proxy by which a kubeconfig's `server` is reached: the kubeconfig's own, or that of the environment.
fn proxy(server: &Uri) -> Result<Option<Uri>, Error> {
    let own = Kubeconfig::read().ok().as_ref().and_then(own_proxy);
    let Some((name, proxy)) = own.or_else(|| proxy_of_environment(server)) else { return Ok(None) };
    proxy.parse().map(Some).map_err(|error| Error::Kubernetes(format!("{name}: {error}")))
}

/// The proxy that the kubeconfig names for its current cluster. As in kubectl, `NO_PROXY` does not apply to it.
fn own_proxy(kubeconfig: &Kubeconfig) -> Option<(&'static str, String)> {
    let name = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|it| it.name == *name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|it| it.name == context.cluster)?.cluster.as_ref()?;
    cluster
        .proxy_url
        .clone()
        .filter(|proxy| !proxy.is_empty())
        .map(|proxy| ("proxy-url of the kubeconfig", proxy))
}

/// The proxy by which the environment reaches `server`. `kube` compares `NO_PROXY` with the proxy instead of the server.
fn proxy_of_environment(server: &Uri) -> Option<(&'static str, String)> {
    let variable = |names: [&'static str; 2]| {
        let values = names.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?)));
        values.into_iter().find(|(_, value)| !value.trim().is_empty())
    };
    let proxy = variable(["HTTPS_PROXY", "https_proxy"])?;
    let no_proxy = variable(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default();
    is_proxied(server, &no_proxy).then_some(proxy)
}

/// Returns true if `NO_PROXY` does not name `server`. The matcher knows hosts, domains, addresses and networks; ports are
/// compared here, and an entry for a whole domain may begin with `*.`.
fn is_proxied(server: &Uri, no_proxy: &str) -> bool {
    let default = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let port = server.port_u16().unwrap_or(default);
    let separators = |c: char| c == ',' || c.is_whitespace();
    let entries = no_proxy.split(separators).filter_map(|entry| match entry.rsplit_once(':') {
        // A colon within an IPv6 address is no port.
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

/// A client for `config`.
///
/// # Errors
/// Where its certificates, keys or proxy cannot be used.
pub fn client(config: Config) -> Result<kube::Client, Error> {
    Ok(bounded(ClientBuilder::try_from(config).map_err(|error| Error::Kubernetes(chain(&error)))?))
}

/// A client over what `builder` has, whose calls end and are counted.
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

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Counts the requests that pass.
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
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or("<error>".to_owned(), |it| it.status().as_u16().to_string());
            metrics::counter!(REST_CLIENT_REQUESTS, "method" => method, "code" => code).increment(1);
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_the_api_server_in_every_form() {
        let named = [
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
        for (server, no_proxy) in named {
            assert!(!is_proxied(&server.parse().expect("a URI"), no_proxy), "{server} in {no_proxy}");
        }
    }

    #[test]
    fn no_proxy_of_others_leaves_the_api_server_to_the_proxy() {
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
