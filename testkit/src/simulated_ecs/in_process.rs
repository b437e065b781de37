//! The simulation without a socket: calls are carried out where they are made, and a clock of the test says when.

use super::{
    ACCESS_KEY, SimulatedEcs,
    request::Request,
    simulation::{Delivery, Moment, Simulation},
};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecs::config::{Credentials, SharedCredentialsProvider, SharedHttpClient, http::HttpResponse};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue},
};
use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use jiff::Timestamp;
use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// A call as it leaves the SDK.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The headers, of which the signature and the target count.
    pub headers: HeaderMap,
    /// JSON for ECS, a form for STS.
    pub body: Bytes,
}

/// What a call is answered with.
#[derive(Clone, Debug)]
pub struct Received {
    /// The HTTP status.
    pub status: u16,
    /// The headers that the SDK looks at.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, XML or, of a load balancer, HTML.
    pub body: String,
}

/// How an answer gets to the caller, or does not.
#[derive(Clone, Debug)]
pub enum Answer {
    /// At once.
    Now(Received),
    /// After that long.
    Late(Duration, Received),
    /// The connection is cut instead.
    CutConnection,
    /// Never.
    Never,
}

impl SimulatedEcs {
    /// A simulation that has nothing yet, and is called by [`Self::answer`] only. `clock` tells it the time.
    #[must_use]
    pub fn in_process(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (began, since) = (Instant::now(), clock());
        let moment = move || {
            let time = clock();
            let passed = Duration::try_from(time.duration_since(since)).unwrap_or_default();
            Moment { at: began + passed, time }
        };
        Self::of(Arc::new(Simulation::new(moment)), None)
    }

    /// Carries a call out. Hooks are not run.
    #[must_use]
    pub fn answer(&self, sent: &Sent) -> Answer {
        match self.simulation.carry_out(&Request::read(&sent.headers, &sent.body)) {
            Delivery::Now(reply) => Answer::Now(reply.into()),
            Delivery::Late(delay, reply) => Answer::Late(delay, reply.into()),
            Delivery::CutConnection => Answer::CutConnection,
            Delivery::Never => Answer::Never,
        }
    }
}

/// How calls get from the SDK to [`SimulatedEcs::answer`]; `None` is a connection that broke.
pub type Transport = Arc<dyn Fn(Sent) -> BoxFuture<'static, Option<Received>> + Send + Sync>;

impl SimulatedEcs {
    /// Carries calls out, hooks included, and delivers each answer as its fault has it, by tokio's clock.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let simulation = Arc::clone(&self.simulation);
        Arc::new(move |sent| {
            let request = Request::read(&sent.headers, &sent.body);
            let delivery = Arc::clone(&simulation).take_call(request);
            async move {
                match delivery.await {
                    Delivery::Now(reply) => Some(reply.into()),
                    Delivery::Late(delay, reply) => {
                        sleep(delay).await;
                        Some(reply.into())
                    }
                    Delivery::CutConnection => None,
                    Delivery::Never => pending().await,
                }
            }
            .boxed()
        })
    }
}

/// The configuration of an SDK in a region, with the credentials of [`ACCESS_KEY`].
#[must_use]
pub fn config(region: &'static str, transport: Transport) -> SdkConfig {
    let credentials = Credentials::new(ACCESS_KEY, "secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(region))
        .endpoint_url("http://ecs.test")
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http_client(transport))
        .build()
}

/// An HTTP client for the configuration of the SDK.
fn http_client(transport: Transport) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(Connector(transport));
    http_client_fn(move |_, _| connector.clone())
}

struct Connector(Transport);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let headers = request.headers().iter().filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
        });
        let body = Bytes::copy_from_slice(request.body().bytes().unwrap_or_default());
        let answer = (self.0)(Sent { headers: headers.collect(), body });
        HttpConnectorFuture::new(async move {
            let broken = || ConnectorError::io(io::Error::from(io::ErrorKind::ConnectionReset).into());
            let received = answer.await.ok_or_else(broken)?;
            let status = received.status.try_into().map_err(|_| broken())?;
            let mut response = HttpResponse::new(status, received.body.into());
            for (name, value) in received.headers {
                response.headers_mut().insert(name, value);
            }
            Ok(response)
        })
    }
}
