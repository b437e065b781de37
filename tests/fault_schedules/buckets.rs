//! The rate of deregistrations: one token bucket for each AWS account and region, which all sources
//! of credentials share.

use std::{collections::BTreeMap, time::Duration};

use ecs_retirement_controller::aws::permit_queue::Pacing;

use super::journal::Journal;
use crate::support::invariants::{Process, deregistrations};

/// Returns the token buckets that a process has overdrawn by more than `tolerance` tokens.
pub fn overdrawn(journal: &Journal, pacing: Pacing, tolerance: f64) -> Vec<String> {
    let mut buckets: BTreeMap<(Process, &str, &str), Vec<Duration>> = BTreeMap::new();
    for (index, by, call) in deregistrations(&journal.entries) {
        let Some(caller) = &call.caller else { continue };
        let key = (by, caller.account.as_str(), caller.region.as_str());
        buckets.entry(key).or_default().push(journal.entries[index].at);
    }
    let lowest = buckets.into_iter().map(|(key, calls)| (key, lowest_level(&calls, pacing)));
    let overdrawn = lowest.filter(|(_, level)| *level < -tolerance);
    overdrawn.map(|(key, level)| format!("rate: {key:?} overdrew its token bucket to {level:.2}")).collect()
}

/// Returns the lowest level of a token bucket after these calls.
fn lowest_level(calls: &[Duration], pacing: Pacing) -> f64 {
    let burst = f64::from(pacing.burst);
    let (mut level, mut lowest, mut before) = (burst, burst, Duration::ZERO);
    for at in calls {
        let gained = at.saturating_sub(before).as_secs_f64() * pacing.per_second;
        level = (level + gained).min(burst) - 1.0;
        (lowest, before) = (lowest.min(level), *at);
    }
    lowest
}
