//! The time of a run: virtual, one for all, and never backwards.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Where the wall clocks of all runs begin: 2026-01-01.
const BEGIN: i64 = 1_767_225_600;

/// How far a run has come. Each replica has a paused clock of its own, which is in step at the ends of its turns.
#[derive(Debug, Default)]
pub struct Time(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// The turn of a replica: when it began, here and by the replica's own clock.
    turn: Option<(Duration, Instant)>,
}

impl Time {
    pub fn now(&self) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((here, there)) = state.turn {
            state.now = state.now.max(here + there.elapsed());
        }
        state.now
    }

    pub fn wall(&self) -> Timestamp {
        let begin = Timestamp::from_second(BEGIN).unwrap_or(Timestamp::UNIX_EPOCH);
        begin.checked_add(self.now()).unwrap_or(Timestamp::MAX)
    }

    /// Begins the turn of a replica at `here`, which is `there` by its own clock.
    pub fn begin_turn(&self, here: Duration, there: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn = Some((here, there));
    }

    /// Nobody's turn.
    pub fn set(&self, now: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn = None;
        state.now = state.now.max(now);
    }
}
