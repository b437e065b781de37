//! The breaker before ECS in one region: while ECS does not answer, one call at a time finds out whether it does again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::aws::response::{Failure, FailureKind};

/// How long after a call without an answer the next one is tried.
const HOLD: Duration = Duration::from_secs(1);

/// Without it, every worker would wait for a region that does not answer, and none would be left for the others.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    state_of_breaker: Breaker,
    /// When ECS last answered.
    answered: Option<Instant>,
}

#[derive(Debug, Default)]
enum Breaker {
    #[default]
    Closed,
    /// Closed by a call that got no answer; the first to come after `until` may try.
    Open { until: Instant, failure: Failure },
    /// Closed, and somebody tries.
    HalfOpen { failure: Failure },
}

/// Leave to make one call.
#[derive(Debug)]
pub struct CallGuard<'a> {
    breaker: &'a CircuitBreaker,
    began: Instant,
    is_recorded: bool,
}

impl CircuitBreaker {
    /// Asks for leave to make a call at `now`.
    ///
    /// # Errors
    /// Why the last call got no answer, while that still holds.
    pub fn admit(&self, now: Instant) -> Result<CallGuard<'_>, Failure> {
        let state_of_breaker = &mut self.lock().state_of_breaker;
        match state_of_breaker {
            Breaker::Closed => {}
            Breaker::Open { until, failure } if *until <= now => {
                *state_of_breaker = Breaker::HalfOpen { failure: failure.clone() };
            }
            Breaker::Open { failure, .. } | Breaker::HalfOpen { failure } => return Err(failure.clone()),
        }
        Ok(CallGuard { breaker: self, began: now, is_recorded: false })
    }

    /// Whether a call at `now` would be turned away.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        match &self.lock().state_of_breaker {
            Breaker::Closed => false,
            Breaker::Open { until, .. } => now < *until,
            Breaker::HalfOpen { .. } => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallGuard<'_> {
    /// Tells what came of the call: any answer opens the breaker. None closes it, unless others have been answered since the call
    /// began: then it is the trouble of that call alone.
    pub fn record<T>(mut self, answer: &Result<T, Failure>, now: Instant) {
        self.is_recorded = true;
        let mut state = self.breaker.lock();
        match answer {
            Err(failure) if failure.kind == FailureKind::Unavailable => {
                if state.answered.is_none_or(|at| at <= self.began) {
                    state.state_of_breaker = Breaker::Open { until: now + HOLD, failure: failure.clone() };
                }
            }
            _ => *state = State { state_of_breaker: Breaker::Closed, answered: Some(now) },
        }
    }
}

impl Drop for CallGuard<'_> {
    /// Of a call that was given up nothing is known: another may try at once.
    fn drop(&mut self) {
        let state_of_breaker = &mut self.breaker.lock().state_of_breaker;
        if let (false, Breaker::HalfOpen { .. }) = (self.is_recorded, &*state_of_breaker) {
            *state_of_breaker = Breaker::Closed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_answer() -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Unavailable, "no answer"))
    }

    #[test]
    fn after_a_call_without_an_answer_one_at_a_time_tries_until_there_is_one() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let (first, second) = (breaker.admit(now).expect("open"), breaker.admit(now).expect("open for many"));
        first.record(&no_answer(), now);
        assert!(breaker.is_open(now));
        assert_eq!(breaker.admit(now).expect_err("closed").message, "no answer");

        let later = now + HOLD;
        assert!(!breaker.is_open(later));
        let trying = breaker.admit(later).expect("one may try");
        assert!(breaker.is_open(later));
        breaker.admit(later).expect_err("and only one");
        trying.record(&no_answer(), later);
        breaker.admit(later).expect_err("closed again");

        second.record(&Ok(()), later);
        breaker.admit(later).expect("any answer opens it");
    }

    #[test]
    fn a_call_without_an_answer_closes_nothing_where_others_were_answered_meanwhile() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let hanging = breaker.admit(now).expect("open");
        breaker.admit(now + HOLD).expect("open").record(&Ok(()), now + HOLD);
        hanging.record(&no_answer(), now + 2 * HOLD);
        let next = breaker.admit(now + 2 * HOLD).expect("the trouble of that one call");
        next.record(&no_answer(), now + 3 * HOLD);
        breaker.admit(now + 3 * HOLD).expect_err("nobody was answered since it began");
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        let refusal = Failure::new(FailureKind::ServerFault, "a fault");
        breaker.admit(now).expect("open").record::<()>(&Err(refusal), now);
        breaker.admit(now).expect("still open");
    }

    #[test]
    fn a_try_that_is_given_up_leaves_the_gate_to_the_next() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        breaker.admit(now).expect("open").record(&no_answer(), now);
        drop(breaker.admit(now + HOLD).expect("one may try"));
        breaker.admit(now + HOLD).expect("the next may");
    }
}
