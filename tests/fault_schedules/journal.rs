//! The journal of a run: every request in the order in which it took effect, and the violations
//! found during the run.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::Value;
use testkit::simulated_ecs::Outcome;

use super::schedule::{Slot, Window};

/// A process: its replica, and the number of earlier processes of that replica.
pub type Process = (Slot, u32);

/// One request that took effect.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Duration,
    pub by: Process,
    pub operation: Operation,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3?} {:?} ", self.at, self.by)?;
        match &self.operation {
            Operation::Read { name, object: None } => write!(f, "read {name}: not found"),
            Operation::Read { name, object: Some(object) } => {
                let (metadata, status) = (&object["metadata"], &object["status"]);
                write!(f, "read {name}: generation {}, {}", metadata["generation"], status["progress"])
            }
            Operation::Wrote { name, code } => write!(f, "wrote {name}: {code}"),
            Operation::Described { revision, actual } => write!(f, "described {revision}: {actual}"),
            Operation::Deregistered(call) => write!(f, "{call:?}"),
            Operation::Called(action) => f.write_str(action),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// An uncached read of a resource. `object` is `None` if the resource does not exist.
    Read {
        name: String,
        object: Option<Value>,
    },
    /// A write of a status, with the response code.
    Wrote {
        name: String,
        code: u16,
    },
    Described {
        revision: String,
        actual: String,
    },
    Deregistered(Deregistered),
    /// Any other call to AWS.
    Called(&'static str),
}

/// A `DeregisterTaskDefinition` call.
#[derive(Clone, Debug)]
pub struct Deregistered {
    pub revision: String,
    pub outcome: Outcome,
    /// True if the revision was ACTIVE before the call.
    pub changed: bool,
    /// Holder of the lease at the time of the call.
    pub lease_holder: Option<String>,
    /// How long the revision had been in use. `None` if it was unused.
    pub used_for: Option<Duration>,
}

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
