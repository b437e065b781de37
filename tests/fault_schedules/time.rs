//! The virtual time of a run. It is shared by all replicas and monotonic.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Wall clock at the beginning of every run: 2026-01-01.
const BEGIN: i64 = 1_767_225_600;

/// The time since the beginning of a run. The paused clock of each replica is synchronized with it
/// at the end of each step.
#[derive(Debug, Default)]
pub struct Time(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// Start of the current step, in the time of the run and on the clock of the replica.
    step: Option<(Duration, Instant)>,
}

impl Time {
    pub fn now(&self) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((run_time, replica_time)) = state.step {
            state.now = state.now.max(run_time + replica_time.elapsed());
        }
        state.now
    }

    pub fn wall(&self) -> Timestamp {
        Self::wall_at(self.now())
    }

    /// Returns the wall clock at a time of the run.
    pub fn wall_at(time: Duration) -> Timestamp {
        let begin = Timestamp::from_second(BEGIN).unwrap_or(Timestamp::UNIX_EPOCH);
        begin.checked_add(time).unwrap_or(Timestamp::MAX)
    }

    /// Begins a step of a replica. `run_time` and `replica_time` denote the same instant.
    pub fn begin_step(&self, run_time: Duration, replica_time: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.step = Some((run_time, replica_time));
    }

    /// Ends the current step, if any, and advances the time to `now`.
    pub fn set(&self, now: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.step = None;
        state.now = state.now.max(now);
    }
}
