//! The client of Kubernetes: no call pends for ever, no failure is hidden by retries, and each request is counted.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Bytes, HttpBody},
    http::{Request, Response},
};
use futures::{FutureExt, future::BoxFuture};
use kube::{
    Config,
    client::{Body, ClientBuilder},
};
use tower::{Service, layer::layer_fn, timeout::TimeoutLayer};
use tower_http::timeout::ResponseBodyTimeoutLayer;

use crate::{calls, operator::Error};

/// Requests to the API server, by `method` and `code`: the status, or `<error>` as in client-go.
pub const REST_CLIENT_REQUESTS: &str = "rest_client_requests_total";

/// How long the API server may be silent in the middle of an answer. A watch ends before, and is then asked for again.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How the environment reaches Kubernetes: `KUBECONFIG`, the default kubeconfig, or the pod's service account.
///
/// # Errors
/// Where none of them does; the message names what was tried.
pub async fn config() -> Result<Config, Error> {
    let mut config = Config::infer().await.map_err(|error| Error::Kubernetes(chain(&error)))?;
    config.default_retry = false;
    Ok(config)
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
        .with_layer(&TimeoutLayer::new(calls::KUBERNETES_LIMIT))
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
