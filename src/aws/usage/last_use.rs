//! When unused revisions were last used, as far as usage scans have found it. No I/O.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{Found, Scan};
use crate::aws::response_clock::Bounds;

/// How long the last use of a revision is remembered after a scan last found it. It exceeds the
/// longest gap between two scans.
const LAST_USE_KEPT: Duration = Duration::from_hours(2);

/// The last use of a revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastUse {
    /// By AWS's clock and rounded up.
    pub(super) time: Timestamp,
    /// When a scan last found it. Unlike AWS's clock, this cannot be wrong.
    found: Instant,
}

/// Returns the last use of each unused revision, as found by this scan or earlier ones. This one
/// ended at `ended`, and at `at` by AWS's clock.
pub(super) fn last_used(
    found: &Found,
    (ended, at): (Instant, Option<Bounds>),
    previous: Option<&Scan>,
) -> HashMap<String, LastUse> {
    let now = at.map(latest);
    let mut last_used: HashMap<String, LastUse> = HashMap::new();
    let mut note = |name: &String, last: LastUse| {
        // ECS may report a time in the future.
        let last = LastUse { time: now.map_or(last.time, |now| now.min(last.time)), ..last };
        let is_recent = ended.saturating_duration_since(last.found) < LAST_USE_KEPT;
        if is_recent && !found.users.contains_key(name) {
            let known = last_used.entry(name.clone()).or_insert(last);
            *known = LastUse { time: last.time.max(known.time), found: last.found.max(known.found) };
        }
    };
    for (name, stopped) in &found.stopped {
        // The task may have stopped just now if ECS does not report the time.
        if let Some(time) = stopped.map(next_second).or(now) {
            note(name, LastUse { time, found: ended });
        }
    }
    if let Some(previous) = previous {
        previous.last_used.iter().for_each(|(name, last)| note(name, *last));
        if let (Ok(users), Some(at)) = (&previous.users, previous.at) {
            for name in users.keys() {
                note(name, LastUse { time: latest(at), found: previous.timing.ended });
            }
        }
    }
    last_used
}

/// Returns the latest time, rounded up, because a cool-down starts then.
pub(in crate::aws) fn latest(at: Bounds) -> Timestamp {
    next_second(at.latest)
}

/// Returns the next full second, because Kubernetes timestamps have no fractions of a second.
fn next_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second() + 1).unwrap_or(time)
}
