//! What a run leaves behind: each request as it took effect, in order, and what broke a promise on the spot.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::Value;
use testkit::simulated_ecs::Outcome;

use super::schedule::{Slot, Window};

/// A process: a replica, and how many it had before.
pub type Process = (Slot, u32);

/// One request that took effect.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Duration,
    pub by: Process,
    pub what: What,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3?} {:?} ", self.at, self.by)?;
        match &self.what {
            What::Read { name, object: None } => write!(f, "read {name}: not there"),
            What::Read { name, object: Some(object) } => {
                let (metadata, status) = (&object["metadata"], &object["status"]);
                write!(f, "read {name}: generation {}, {}", metadata["generation"], status["progress"])
            }
            What::Wrote { name, code } => write!(f, "wrote {name}: {code}"),
            What::Described { revision, truth } => write!(f, "described {revision}: {truth}"),
            What::Deregistered(call) => write!(f, "{call:?}"),
            What::Called(action) => f.write_str(action),
        }
    }
}

#[derive(Clone, Debug)]
pub enum What {
    /// A resource was read, uncached; `None`: there is none.
    Read {
        name: String,
        object: Option<Value>,
    },
    /// A status was applied, or refused.
    Wrote {
        name: String,
        code: u16,
    },
    Described {
        revision: String,
        truth: String,
    },
    Deregistered(Deregistered),
    /// Any other call to AWS.
    Called(&'static str),
}

/// A call that cannot be undone.
#[derive(Clone, Debug)]
pub struct Deregistered {
    pub revision: String,
    pub outcome: Outcome,
    /// Whether the revision was ACTIVE until then.
    pub changed: bool,
    /// Who held the lease.
    pub holder: Option<String>,
    /// For how long somebody had been using the revision.
    pub used_for: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Journal {
    pub entries: Vec<Entry>,
    pub violations: Vec<String>,
    /// How often a fault struck.
    pub struck: BTreeMap<String, u64>,
    /// How many events the watches gave.
    pub events: u64,
    /// When each replica was last stopped in its tracks, until when.
    pub paused: Vec<(Slot, Duration, Duration)>,
    pub crashes: u32,
    pub handovers: u32,
    /// The longest that a replica waited for an answer.
    pub longest_wait: Duration,
    /// Deploys, and how many of them were throttled.
    pub deploys: (u64, u64),
}

impl Journal {
    pub fn note_struck(&mut self, window: &Window) {
        let effect = format!("{:?}", window.effect);
        let kind = effect.split('(').next().unwrap_or_default();
        *self.struck.entry(format!("{:?} {kind}", window.target)).or_default() += 1;
    }

    pub fn broken(&mut self, promise: &str, what: &str) {
        self.violations.push(format!("{promise}: {what}"));
    }

    /// Whether a replica was stopped at any time between.
    pub fn was_paused(&self, slot: Slot, from: Duration, until: Duration) -> bool {
        self.paused.iter().any(|(it, begin, end)| *it == slot && *begin <= until && from <= *end)
    }
}
