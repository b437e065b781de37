//! Calls that leave the process: each has a limit, and health knows of those that are past theirs.

use std::{
    collections::HashMap,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long the API server may take for a whole answer.
pub const KUBERNETES_LIMIT: Duration = Duration::from_secs(10);

/// When each call in flight must have ended.
static IN_FLIGHT: LazyLock<Mutex<HashMap<u64, InFlight>>> = LazyLock::new(Mutex::default);

struct InFlight {
    call: &'static str,
    due: Instant,
}

/// A call in flight, until dropped.
#[derive(Debug)]
#[must_use = "the call is in flight while this lives"]
pub struct Call {
    number: u64,
}

impl Call {
    /// Begins a call that bounds itself to `limit`.
    pub fn begin(call: &'static str, limit: Duration) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight { call, due: Instant::now() + limit };
        IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner).insert(number, in_flight);
        Self { number }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The names of the calls that were due more than `grace` ago: whatever bounds them has failed.
#[must_use]
pub fn overdue(grace: Duration) -> Vec<&'static str> {
    let in_flight = IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner);
    in_flight.values().filter(|it| it.due + grace < Instant::now()).map(|it| it.call).collect()
}

/// Runs a call to Kubernetes, at most [`KUBERNETES_LIMIT`] long.
///
/// # Errors
/// Those of the call, and [`kube::Error::Service`] where it takes longer.
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
    async fn a_call_to_kubernetes_that_is_never_answered_ends() {
        let answer = kubernetes("GET a test", std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(answer, Err(kube::Error::Service(_))));
        assert!(!overdue(Duration::ZERO).contains(&"GET a test"));
    }

    #[test]
    fn health_knows_of_a_call_that_is_past_its_limit_until_it_ends() {
        let call = Call::begin("GET an overdue test", Duration::ZERO);
        assert!(overdue(Duration::ZERO).contains(&"GET an overdue test"));
        assert!(!overdue(Duration::from_hours(1)).contains(&"GET an overdue test"));
        drop(call);
        assert!(!overdue(Duration::ZERO).contains(&"GET an overdue test"));
    }
}
