//! Circuit breaker for ECS in one region, by source of credentials, with a single half-open probe.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::aws::response::{Failure, FailureKind};

/// How long the breaker stays open before a probe.
pub(super) const OPEN_DURATION: Duration = Duration::from_secs(1);

/// Circuit breaker of ECS for one source of credentials in one region. It prevents an unavailable
/// region from blocking all workers.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    breaker: BreakerState,
    /// When ECS last responded.
    responded_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum BreakerState {
    #[default]
    Closed,
    /// A call got no response. The first call after `until` becomes the probe.
    Open { until: Instant, failure: Failure },
    /// A probe is in flight.
    HalfOpen { failure: Failure },
}

/// Permission to make one call.
#[derive(Debug)]
pub struct CallGuard<'a> {
    breaker: &'a CircuitBreaker,
    began: Instant,
    is_recorded: bool,
}

impl CircuitBreaker {
    /// Admits a call at `now`.
    ///
    /// # Errors
    /// Returns the failure that opened the breaker if the breaker is open or a probe is in flight.
    pub fn admit(&self, now: Instant) -> Result<CallGuard<'_>, Failure> {
        let breaker = &mut self.lock().breaker;
        match breaker {
            BreakerState::Closed => {}
            BreakerState::Open { until, failure } if *until <= now => {
                *breaker = BreakerState::HalfOpen { failure: failure.clone() };
            }
            BreakerState::Open { failure, .. } | BreakerState::HalfOpen { failure } => {
                return Err(failure.clone());
            }
        }
        Ok(CallGuard { breaker: self, began: now, is_recorded: false })
    }

    /// Returns true if a call at `now` would be rejected.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        match &self.lock().breaker {
            BreakerState::Closed => false,
            BreakerState::Open { until, .. } => now < *until,
            BreakerState::HalfOpen { .. } => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl CallGuard<'_> {
    /// Records the failure of the call, or that it succeeded. Any response closes the breaker. A
    /// call without a response opens it, unless another call got a response after this one began.
    pub fn record(mut self, failure: Option<&Failure>, now: Instant) {
        self.is_recorded = true;
        let mut state = self.breaker.lock();
        match failure {
            Some(failure) if failure.kind == FailureKind::Unavailable => {
                if state.responded_at.is_none_or(|at| at <= self.began) {
                    let until = now + OPEN_DURATION;
                    state.breaker = BreakerState::Open { until, failure: failure.clone() };
                }
            }
            _ => *state = State { breaker: BreakerState::Closed, responded_at: Some(now) },
        }
    }
}

impl Drop for CallGuard<'_> {
    /// Closes the breaker if the call was a probe that was cancelled, so that the next call is
    /// admitted.
    fn drop(&mut self) {
        let breaker = &mut self.breaker.lock().breaker;
        if let (false, BreakerState::HalfOpen { .. }) = (self.is_recorded, &*breaker) {
            *breaker = BreakerState::Closed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_response() -> Failure {
        Failure::new(FailureKind::Unavailable, "no response")
    }

    #[test]
    fn open_breaker_admits_one_probe_at_a_time_until_a_response() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let (first, second) =
            (breaker.admit(now).expect("closed"), breaker.admit(now).expect("still closed"));
        first.record(Some(&no_response()), now);
        assert!(breaker.is_open(now));
        assert_eq!(breaker.admit(now).expect_err("open").message, "no response");

        let later = now + OPEN_DURATION;
        assert!(!breaker.is_open(later));
        let probe = breaker.admit(later).expect("probe is admitted");
        assert!(breaker.is_open(later));
        breaker.admit(later).expect_err("a probe is in flight");
        probe.record(Some(&no_response()), later);
        breaker.admit(later).expect_err("open again");

        second.record(None, later);
        breaker.admit(later).expect("any response closes it");
    }

    #[test]
    fn breaker_stays_closed_if_another_call_got_a_response_meanwhile() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let hanging = breaker.admit(now).expect("closed");
        breaker.admit(now + OPEN_DURATION).expect("closed").record(None, now + OPEN_DURATION);
        hanging.record(Some(&no_response()), now + 2 * OPEN_DURATION);
        let next = breaker.admit(now + 2 * OPEN_DURATION).expect("still closed");
        next.record(Some(&no_response()), now + 3 * OPEN_DURATION);
        breaker.admit(now + 3 * OPEN_DURATION).expect_err("no response since the call began");
    }

    #[test]
    fn server_fault_counts_as_a_response() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let fault = Failure::new(FailureKind::ServerFault, "a fault");
        breaker.admit(now).expect("closed").record(Some(&fault), now);
        breaker.admit(now).expect("still closed");
    }

    #[test]
    fn cancelled_probe_is_followed_by_the_next_call() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        breaker.admit(now).expect("closed").record(Some(&no_response()), now);
        drop(breaker.admit(now + OPEN_DURATION).expect("probe is admitted"));
        breaker.admit(now + OPEN_DURATION).expect("next call is admitted");
    }
}
