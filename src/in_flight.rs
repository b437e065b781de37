//! Registry of API calls in flight. The liveness probe fails if one exceeds its timeout.
//!
//! A request to the API server has two timeouts. The layer of the Kubernetes client applies to
//! every request, watches included, and covers it until the head of the response arrives. The
//! timeout of [`kubernetes`] covers the response body as well. The registry detects a timeout that
//! does not take effect, because the task or the async runtime is blocked and no timer fires.

use std::{
    collections::HashMap,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Timeout of a request to the API server, including the response body.
pub const KUBERNETES_LIMIT: Duration = Duration::from_secs(10);

/// The calls in flight, with the time by which each must end.
static IN_FLIGHT: LazyLock<Mutex<HashMap<u64, InFlight>>> = LazyLock::new(Mutex::default);

struct InFlight {
    call: &'static str,
    due: Instant,
}

/// A registered call in flight. Dropping it removes it from the registry.
#[derive(Debug)]
#[must_use = "the call counts as in flight until this is dropped"]
pub struct Call {
    number: u64,
}

impl Call {
    /// Registers a call that has a timeout of `limit`.
    pub fn begin(call: &'static str, limit: Duration) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight { call, due: Instant::now() + limit };
        IN_FLIGHT.lock().insert(number, in_flight);
        Self { number }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        IN_FLIGHT.lock().remove(&self.number);
    }
}

/// Returns the names of calls that exceeded their timeout by more than `grace`, which means that
/// the timeout did not take effect.
#[must_use]
pub fn overdue(grace: Duration) -> Vec<&'static str> {
    let in_flight = IN_FLIGHT.lock();
    in_flight.values().filter(|it| it.due + grace < Instant::now()).map(|it| it.call).collect()
}

/// Runs a call to the API server with a timeout of [`KUBERNETES_LIMIT`].
///
/// # Errors
/// Returns the error of the call, or [`kube::Error::Service`] if it exceeds the timeout.
pub async fn kubernetes<T>(
    name: &'static str,
    call: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    let _call = Call::begin(name, KUBERNETES_LIMIT);
    tokio::time::timeout(KUBERNETES_LIMIT, call)
        .await
        .unwrap_or_else(|elapsed| Err(kube::Error::Service(Box::new(elapsed))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_to_kubernetes_without_response_times_out() {
        let result = kubernetes("GET a test", std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(result, Err(kube::Error::Service(_))));
        assert!(!overdue(Duration::ZERO).contains(&"GET a test"));
    }

    #[test]
    fn overdue_call_is_reported_until_it_ends() {
        let call = Call::begin("GET an overdue test", Duration::ZERO);
        assert!(overdue(Duration::ZERO).contains(&"GET an overdue test"));
        assert!(!overdue(Duration::from_hours(1)).contains(&"GET an overdue test"));
        drop(call);
        assert!(!overdue(Duration::ZERO).contains(&"GET an overdue test"));
    }
}
