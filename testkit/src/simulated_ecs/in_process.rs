//! The simulation without a socket: calls are carried out in process, with a clock of the test.

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

/// A request sent by the SDK.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The headers. Only the signature and the target matter.
    pub headers: HeaderMap,
    /// JSON for ECS, a form for STS.
    pub body: Bytes,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Received {
    /// The HTTP status.
    pub status: u16,
    /// The headers that the SDK reads.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, XML, or the HTML of a load balancer.
    pub body: String,
}

/// How a response is delivered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Immediate delivery.
    Now(Received),
    /// Delivery after a delay.
    Late(Duration, Received),
    /// The connection is closed instead.
    CutConnection,
    /// No response.
    Never,
}

impl SimulatedEcs {
    /// Creates an empty simulation without a server. `clock` returns the current time.
    #[must_use]
    pub fn in_process(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (start, clock_start) = (Instant::now(), clock());
        let moment = move || {
            let time = clock();
            let passed = Duration::try_from(time.duration_since(clock_start)).unwrap_or_default();
            Moment { at: start + passed, time }
        };
        Self::with_server(Arc::new(Simulation::new(moment)), None)
    }

    /// Carries out a call without hooks.
    #[must_use]
    pub fn answer(&self, sent: &Sent) -> Answer {
        match self.simulation.carry_out(&Request::read(&sent.headers, &sent.body)) {
            Delivery::Immediate(reply) => Answer::Now(reply.into()),
            Delivery::Delayed(delay, reply) => Answer::Late(delay, reply.into()),
            Delivery::CutConnection => Answer::CutConnection,
            Delivery::NoResponse => Answer::Never,
        }
    }
}

/// Carries a request of the SDK to the simulation; `None` is a broken connection.
pub type Transport = Arc<dyn Fn(Sent) -> BoxFuture<'static, Option<Received>> + Send + Sync>;

impl SimulatedEcs {
    /// Returns a transport that runs hooks, carries out calls, and delivers responses by tokio's
    /// clock.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let simulation = Arc::clone(&self.simulation);
        Arc::new(move |sent| {
            let request = Request::read(&sent.headers, &sent.body);
            let delivery = Arc::clone(&simulation).process(request);
            async move {
                match delivery.await {
                    Delivery::Immediate(reply) => Some(reply.into()),
                    Delivery::Delayed(delay, reply) => {
                        sleep(delay).await;
                        Some(reply.into())
                    }
                    Delivery::CutConnection => None,
                    Delivery::NoResponse => pending().await,
                }
            }
            .boxed()
        })
    }
}

/// Returns an SDK configuration for a region, with the credentials of [`ACCESS_KEY`].
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

/// Returns an HTTP client for the configuration of the SDK.
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
