//! The journal of a run: every request in the order in which it took effect, and the violations
//! found during the run.

use std::{collections::BTreeMap, time::Duration};

use super::schedule::{Slot, Window};
use crate::support::invariants::Entry;

#[derive(Debug, Default)]
pub struct Journal {
    pub entries: Vec<Entry>,
    pub violations: Vec<String>,
    /// Number of injected faults by kind.
    pub injected: BTreeMap<String, u64>,
    /// Number of delivered watch events.
    pub events: u64,
    /// Pauses: the replica, and when its pause began and ended.
    pub paused: Vec<(Slot, Duration, Duration)>,
    pub crashes: u32,
    pub handovers: u32,
    /// The longest time that a replica waited for a response.
    pub longest_wait: Duration,
    /// Number of deploys, and number of throttled deploys.
    pub deploys: (u64, u64),
}

impl Journal {
    pub fn record_injected(&mut self, window: &Window) {
        let effect = format!("{:?}", window.effect);
        let kind = effect.split('(').next().unwrap_or_default();
        *self.injected.entry(format!("{:?} {kind}", window.target)).or_default() += 1;
    }

    pub fn record_violation(&mut self, invariant: &str, detail: &str) {
        self.violations.push(format!("{invariant}: {detail}"));
    }

    /// Returns true if the replica was paused at any time between `from` and `until`.
    pub fn was_paused(&self, slot: Slot, from: Duration, until: Duration) -> bool {
        self.paused.iter().any(|(it, begin, end)| *it == slot && *begin <= until && from <= *end)
    }
}
