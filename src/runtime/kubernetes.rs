//! Kubernetes client with timeouts and request metrics, and with client-side retries disabled.

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

use crate::{in_flight, runtime::Error};

/// Requests to the API server, by `method` and `code`: the HTTP status, or `<error>` as in
/// client-go.
pub const REST_CLIENT_REQUESTS: &str = "rest_client_requests_total";

/// Timeout for the next data of a response body. A watch request ends earlier and is then renewed.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

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

pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
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
