//! AWS's time: the `Date` of its responses, plus the monotonic time since.
//!
//! A response bounds AWS's time from both sides because `Date` has whole seconds and was written
//! between request and response. Each use takes the bound that never overstates elapsed time: the
//! latest time when a cool-down starts, and the earliest time when it is checked. Both bounds span
//! several recent responses. A wrong `Date`, for example of a cache or of a host with a wrong
//! clock, can therefore delay a retirement but never hasten it.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use aws_sdk_ecs::{
    config::{
        RuntimeComponents, SharedHttpClient,
        http::{HttpRequest, HttpResponse},
    },
    primitives::{DateTime, DateTimeFormat},
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::clock::Clock;

/// Metric of the seconds by which the clock of this pod is ahead of AWS's.
pub const CLOCK_SKEW: &str = "ecs_retirement_clock_skew_seconds";

/// Maximum clock skew that is not logged.
const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// Maximum round trip. Responses that took longer are ignored because they are too inaccurate.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

/// Number of recent responses on which an estimate is based.
const RESPONSES: usize = 16;

/// Minimum number of responses for an estimate, because the `Date` of a single one may be wrong.
const QUORUM: usize = 2;

/// Headers of AWS's request id. A response without one is not from AWS.
const REQUEST_ID: [&str; 3] = ["x-amzn-requestid", "x-amz-request-id", "x-amzn-request-id"];

/// Bounds of AWS's time at one instant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// The `Date` of one response, and the monotonic times between which AWS wrote it.
#[derive(Clone, Copy, Debug)]
struct Response {
    date: Timestamp,
    sent: Instant,
    received: Instant,
}

impl Response {
    fn earliest(&self, at: Instant) -> Timestamp {
        shifted(self.date, self.received, at)
    }

    fn latest(&self, at: Instant) -> Timestamp {
        shifted(self.date, self.sent, at)
            .saturating_add(SignedDuration::from_secs(1))
            .unwrap_or(Timestamp::MAX)
    }
}

/// Returns `time` plus the time from `from` to `at`, which may be negative.
fn shifted(time: Timestamp, from: Instant, at: Instant) -> Timestamp {
    let (later, earlier) = (at.saturating_duration_since(from), from.saturating_duration_since(at));
    let moved = time.saturating_add(later).and_then(|time| time.saturating_sub(earlier));
    moved.unwrap_or(time)
}

/// Estimate of AWS's time from recent responses.
#[derive(Debug, Default)]
pub struct Estimate {
    recent: VecDeque<Response>,
}

impl Estimate {
    /// Adds the `Date` of a response that was received at `received` to a request sent at `sent`.
    pub fn observe(&mut self, date: Timestamp, sent: Instant, received: Instant) {
        if received.saturating_duration_since(sent) >= LONGEST_ROUND_TRIP {
            return;
        }
        self.recent.push_back(Response { date, sent, received });
        if self.recent.len() > RESPONSES {
            self.recent.pop_front();
        }
    }

    /// Returns the bounds of AWS's time at `at`, or `None` until there are enough responses.
    #[must_use]
    pub fn at(&self, at: Instant) -> Option<Bounds> {
        let responses = Some(&self.recent).filter(|recent| recent.len() >= QUORUM)?;
        let earliest = responses.iter().map(|response| response.earliest(at)).min()?;
        let latest = responses.iter().map(|response| response.latest(at)).max()?;
        Some(Bounds { earliest, latest })
    }

    /// Returns the median of the responses for AWS's time at `at`. For reports only.
    fn median(&self, at: Instant) -> Option<Timestamp> {
        let mut times: Vec<Timestamp> = self.recent.iter().map(|response| response.earliest(at)).collect();
        times.sort();
        times.get(times.len() / 2).copied()
    }
}

/// Clock of AWS's time, shared by all clients of the process.
pub struct AwsClock {
    state: Mutex<State>,
    pod: Clock,
}

#[derive(Default)]
struct State {
    estimate: Estimate,
    is_skewed: bool,
}

impl AwsClock {
    /// Creates a clock without a time. `pod` is the clock whose skew is reported.
    #[must_use]
    pub fn new(pod: Clock) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), pod })
    }

    /// Returns the bounds of AWS's time at `at`, or `None` until AWS has reported the time.
    #[must_use]
    pub fn at(&self, at: Instant) -> Option<Bounds> {
        self.lock().estimate.at(at)
    }

    /// Returns the bounds of AWS's time now, or `None` until AWS has reported the time.
    #[must_use]
    pub fn now(&self) -> Option<Bounds> {
        self.at(Instant::now())
    }

    /// Returns the latest possible time by AWS's clock at `at` or, until AWS has reported the time,
    /// that of the pod. For decisions that can be repeated only.
    #[must_use]
    pub fn latest_or_pod(&self, at: Instant) -> Timestamp {
        self.at(at).map_or_else(|| (self.pod)(), |bounds| bounds.latest)
    }

    /// Updates the metric of the pod's clock skew.
    pub fn measure(&self) {
        if let Some(skew) = self.skew(&self.lock().estimate, Instant::now()) {
            metrics::gauge!(CLOCK_SKEW).set(skew.as_secs_f64().round());
        }
    }

    /// Returns an HTTP client that wraps `client` and reads the time from its responses.
    #[must_use]
    pub fn observing(self: &Arc<Self>, client: SharedHttpClient) -> SharedHttpClient {
        SharedHttpClient::new(Observed { clock: self.clone(), inner: client })
    }

    fn skew(&self, estimate: &Estimate, now: Instant) -> Option<SignedDuration> {
        Some((self.pod)().duration_since(estimate.median(now)?))
    }

    fn observe(&self, response: &HttpResponse, sent: Instant, received: Instant) {
        let Some(date) = date(response) else { return };
        let mut state = self.lock();
        state.estimate.observe(date, sent, received);
        let Some(skew) = self.skew(&state.estimate, received) else { return };
        let is_skewed = skew.abs() > TOLERATED_SKEW;
        if is_skewed == state.is_skewed {
            return;
        }
        state.is_skewed = is_skewed;
        let seconds = skew.as_secs();
        if is_skewed {
            tracing::warn!(
                seconds,
                "the clock of this pod differs from that of AWS by more than a minute: correct the clock of the node"
            );
        } else {
            tracing::info!(seconds, "the clock of this pod agrees with that of AWS again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl fmt::Debug for AwsClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsClock")
    }
}

/// Returns the `Date` of a successful response of AWS; `None` for all other responses.
fn date(response: &HttpResponse) -> Option<Timestamp> {
    let headers = response.headers();
    let is_from_aws =
        response.status().is_success() && REQUEST_ID.iter().any(|name| headers.get(*name).is_some());
    let text = headers.get("date").filter(|_| is_from_aws)?;
    let date = DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?;
    Timestamp::from_second(date.secs()).ok()
}

/// HTTP client or connector whose responses are observed by `clock`.
struct Observed<T> {
    clock: Arc<AwsClock>,
    inner: T,
}

impl<T> fmt::Debug for Observed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observed")
    }
}

impl HttpClient for Observed<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Observed { clock: self.clock.clone(), inner })
    }
}

impl HttpConnector for Observed<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (clock, sent) = (self.clock.clone(), Instant::now());
        let response = self.inner.call(request);
        HttpConnectorFuture::new(async move {
            let response = response.await?;
            clock.observe(&response, sent, Instant::now());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests;
