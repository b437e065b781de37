//! The gate before ECS in one region: while ECS does not answer, one call at a time finds out whether it does again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::ecs::answer::{Failure, FailureKind};

/// How long after a call without an answer the next one is tried.
const HOLD: Duration = Duration::from_secs(1);

/// Without it, every worker would wait for a region that does not answer, and none would be left for the others.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    door: Door,
    /// When ECS last answered.
    answered: Option<Instant>,
}

#[derive(Debug, Default)]
enum Door {
    #[default]
    Open,
    /// Closed by a call that got no answer; the first to come after `until` may try.
    Closed { until: Instant, failure: Failure },
    /// Closed, and somebody tries.
    Tried { failure: Failure },
}

/// Leave to make one call.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
    began: Instant,
    is_settled: bool,
}

impl Gate {
    /// Asks for leave to make a call at `now`.
    ///
    /// # Errors
    /// Why the last call got no answer, while that still holds.
    pub fn enter(&self, now: Instant) -> Result<Pass<'_>, Failure> {
        let door = &mut self.lock().door;
        match door {
            Door::Open => {}
            Door::Closed { until, failure } if *until <= now => {
                *door = Door::Tried { failure: failure.clone() };
            }
            Door::Closed { failure, .. } | Door::Tried { failure } => return Err(failure.clone()),
        }
        Ok(Pass { gate: self, began: now, is_settled: false })
    }

    /// Whether a call at `now` would be turned away.
    #[must_use]
    pub fn is_closed(&self, now: Instant) -> bool {
        match &self.lock().door {
            Door::Open => false,
            Door::Closed { until, .. } => now < *until,
            Door::Tried { .. } => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Tells what came of the call: any answer opens the gate. None closes it, unless others have been answered since the call
    /// began: then it is the trouble of that call alone.
    pub fn settle<T>(mut self, answer: &Result<T, Failure>, now: Instant) {
        self.is_settled = true;
        let mut state = self.gate.lock();
        match answer {
            Err(failure) if failure.kind == FailureKind::Unavailable => {
                if state.answered.is_none_or(|at| at <= self.began) {
                    state.door = Door::Closed { until: now + HOLD, failure: failure.clone() };
                }
            }
            _ => *state = State { door: Door::Open, answered: Some(now) },
        }
    }
}

impl Drop for Pass<'_> {
    /// Of a call that was given up nothing is known: another may try at once.
    fn drop(&mut self) {
        let door = &mut self.gate.lock().door;
        if let (false, Door::Tried { .. }) = (self.is_settled, &*door) {
            *door = Door::Open;
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
        let (gate, now) = (Gate::default(), Instant::now());
        let (first, second) = (gate.enter(now).expect("open"), gate.enter(now).expect("open for many"));
        first.settle(&no_answer(), now);
        assert!(gate.is_closed(now));
        assert_eq!(gate.enter(now).expect_err("closed").message, "no answer");

        let later = now + HOLD;
        assert!(!gate.is_closed(later));
        let trying = gate.enter(later).expect("one may try");
        assert!(gate.is_closed(later));
        gate.enter(later).expect_err("and only one");
        trying.settle(&no_answer(), later);
        gate.enter(later).expect_err("closed again");

        second.settle(&Ok(()), later);
        gate.enter(later).expect("any answer opens it");
    }

    #[test]
    fn a_call_without_an_answer_closes_nothing_where_others_were_answered_meanwhile() {
        let (gate, now) = (Gate::default(), Instant::now());
        let hanging = gate.enter(now).expect("open");
        gate.enter(now + HOLD).expect("open").settle(&Ok(()), now + HOLD);
        hanging.settle(&no_answer(), now + 2 * HOLD);
        let next = gate.enter(now + 2 * HOLD).expect("the trouble of that one call");
        next.settle(&no_answer(), now + 3 * HOLD);
        gate.enter(now + 3 * HOLD).expect_err("nobody was answered since it began");
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let (gate, now) = (Gate::default(), Instant::now());
        let refusal = Failure::new(FailureKind::ServerFault, "a fault");
        gate.enter(now).expect("open").settle::<()>(&Err(refusal), now);
        gate.enter(now).expect("still open");
    }

    #[test]
    fn a_try_that_is_given_up_leaves_the_gate_to_the_next() {
        let (gate, now) = (Gate::default(), Instant::now());
        gate.enter(now).expect("open").settle(&no_answer(), now);
        drop(gate.enter(now + HOLD).expect("one may try"));
        gate.enter(now + HOLD).expect("the next may");
    }
}
