//! Token bucket with a FIFO wait queue, for ECS quotas that are shared with deployments.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// Minimum wait for the next permit. It avoids busy-waiting on rounding errors.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How long a granted permit is valid before it expires.
const PERMIT_LIFETIME: Duration = Duration::from_secs(10);

/// Time in which the rate doubles after a throttled call.
const RECOVERY: Duration = Duration::from_mins(1);

/// Lower bound of the share of the configured rate that is left after throttled calls.
const MIN_SHARE: f64 = 1.0 / 32.0;

/// Rate and burst of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pacing {
    /// Sustained calls per second. ECS allows one deregistration per second for all clients of an
    /// account and region, deployments included.
    pub per_second: f64,
    /// Maximum number of calls at once after an idle period.
    pub burst: u32,
}

/// Half of the ECS bucket "task definition read", which has a burst of 50 and 20 calls per second.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const READS: Pacing = Pacing { per_second: 10.0, burst: 25 };

/// Number of `DescribeTaskDefinition` calls per deregistration: before queueing, with the permit,
/// and afterwards.
const READS_PER_DEREGISTRATION: f64 = 3.0;

impl Pacing {
    /// Returns the pacing of the reads for deregistrations at this pacing. The read rate scales
    /// with a raised quota.
    #[must_use]
    pub fn reads(self) -> Self {
        Self { per_second: READS.per_second.max(READS_PER_DEREGISTRATION * self.per_second), ..READS }
    }
}

/// Permits of one bucket in one account and region. `K` is the key of a waiter.
///
/// # Guarantees
/// - FIFO: a key that has used a permit and needs another is queued again.
/// - A waiter is granted a permit once it is available, and does not need to poll for it.
/// - Unused permits and queue positions are passed to the next waiter.
/// - A new bucket is empty, so that a crash loop does not exceed the rate.
#[derive(Debug)]
pub struct PermitQueue<K> {
    pacing: Pacing,
    tokens: f64,
    counted_at: Instant,
    waiting: VecDeque<K>,
    /// Granted permits that are not used yet, and when they expire.
    granted: HashMap<K, Instant>,
    /// When ECS last throttled a call, and the share of the rate that was left then.
    throttled: Option<(Instant, f64)>,
}

/// Result of [`PermitQueue::acquire`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acquire {
    /// The permit is acquired.
    Acquired,
    /// The key is queued. [`PermitQueue::grant`] returns it once a permit is available.
    Queued,
}

/// Position in the wait queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueuePosition {
    /// Number of waiters ahead.
    pub ahead: usize,
    /// Number of all waiters, this one included.
    pub waiting: usize,
    /// Current rate in permits per second.
    pub per_second: f64,
}

impl<K: Clone + Eq + Hash> PermitQueue<K> {
    /// Creates an empty bucket at `now`.
    #[must_use]
    pub fn new(pacing: Pacing, now: Instant) -> Self {
        Self {
            pacing,
            tokens: 0.0,
            counted_at: now,
            waiting: VecDeque::new(),
            granted: HashMap::new(),
            throttled: None,
        }
    }

    #[cfg(test)]
    pub(super) fn pacing(&self) -> Pacing {
        self.pacing
    }

    /// Changes the rate and the burst at `now`. Tokens gained until then are kept up to the new
    /// burst.
    pub fn set_pacing(&mut self, pacing: Pacing, now: Instant) {
        self.refill(now);
        self.pacing = pacing;
        self.tokens = self.tokens.min(f64::from(pacing.burst));
    }

    /// Acquires a permit if one is granted to `key` or is free, otherwise queues `key`.
    pub fn acquire(&mut self, key: &K, now: Instant) -> Acquire {
        self.refill(now);
        if self.granted.remove(key).is_some() {
            return Acquire::Acquired;
        }
        if self.waiting.is_empty() && self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Acquire::Acquired;
        }
        if !self.waiting.contains(key) {
            self.waiting.push_back(key.clone());
        }
        Acquire::Queued
    }

    /// Consumes a token without queueing, even if the bucket is empty. For calls that are already
    /// limited by another bucket.
    pub fn acquire_unqueued(&mut self, now: Instant) {
        self.refill(now);
        self.tokens -= 1.0;
    }

    /// Returns how many permits `key` can acquire at `now`.
    #[must_use]
    pub fn available(&self, key: &K, now: Instant) -> usize {
        let granted = usize::from(self.granted.contains_key(key));
        let is_free = self.waiting.is_empty();
        let tokens = (1..=self.pacing.burst).take_while(|&it| f64::from(it) <= self.tokens_at(now)).count();
        granted + if is_free { tokens } else { 0 }
    }

    /// Returns true if a permit is granted to `key`.
    #[must_use]
    pub fn has_permit(&self, key: &K) -> bool {
        self.granted.contains_key(key)
    }

    /// Returns an acquired permit that was not used.
    pub fn return_permit(&mut self, now: Instant) {
        self.refill(now);
        self.tokens += 1.0;
    }

    /// Grants an acquired permit that was not used to `key` again, with the full lifetime.
    pub fn keep(&mut self, key: &K, now: Instant) {
        self.granted.insert(key.clone(), now + PERMIT_LIFETIME);
    }

    /// Returns the time until a permit is available for any of the keys that `is_wanted` selects.
    /// `None` if none of them is queued or has a permit.
    #[must_use]
    pub fn until_permit(&self, is_wanted: impl Fn(&K) -> bool, now: Instant) -> Option<Duration> {
        if self.granted.keys().any(&is_wanted) {
            return Some(Duration::ZERO);
        }
        let ahead = self.waiting.iter().position(is_wanted)?;
        let missing = (as_float(ahead + 1) - self.tokens_at(now)).max(0.0);
        Some(Duration::try_from_secs_f64(missing / self.per_second(now)).unwrap_or(Duration::MAX))
    }

    /// Removes `key` from the wait queue, or returns its granted permit.
    pub fn leave(&mut self, key: &K, now: Instant) {
        self.waiting.retain(|other| other != key);
        if self.granted.remove(key).is_some() {
            self.return_permit(now);
        }
    }

    /// Expires old permits, grants the available ones to the next waiters, and returns their keys.
    pub fn grant(&mut self, now: Instant) -> Vec<K> {
        self.refill(now);
        let before = self.granted.len();
        self.granted.retain(|_, until| now < *until);
        self.tokens += as_float(before - self.granted.len());
        let mut granted = Vec::new();
        while self.tokens >= 1.0 {
            let Some(key) = self.waiting.pop_front() else { break };
            self.tokens -= 1.0;
            self.granted.insert(key.clone(), now + PERMIT_LIFETIME);
            granted.push(key);
        }
        granted
    }

    /// Returns when [`Self::grant`] is due next. `None` while the queue is empty.
    #[must_use]
    pub fn next_grant(&self, now: Instant) -> Option<Instant> {
        let expiry = self.granted.values().min().copied();
        let permit = (!self.waiting.is_empty()).then(|| {
            let missing = (1.0 - self.tokens_at(now)).max(0.0);
            now + Duration::from_secs_f64(missing / self.per_second(now)).max(SHORTEST_WAIT)
        });
        permit.into_iter().chain(expiry.filter(|_| !self.waiting.is_empty())).min()
    }

    /// Returns the queue position of `key`, or `None` if it is not queued.
    #[must_use]
    pub fn position(&self, key: &K, now: Instant) -> Option<QueuePosition> {
        let ahead = self.waiting.iter().position(|other| other == key)?;
        Some(QueuePosition { ahead, waiting: self.waiting.len(), per_second: self.per_second(now) })
    }

    /// Handles a throttled call: halves the rate and revokes the granted permits. The rate then
    /// doubles every minute until it is restored.
    pub fn throttled(&mut self, now: Instant) {
        self.refill(now);
        let mut revoked: Vec<(K, Instant)> = self.granted.drain().collect();
        revoked.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
        for (key, _) in revoked {
            self.waiting.push_front(key);
        }
        let share = (self.share(now) / 2.0).max(MIN_SHARE);
        self.throttled = Some((now, share));
        self.tokens = 0.0;
    }

    /// Returns the number of waiters.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of available tokens at `now`. Negative after [`Self::acquire_unqueued`]
    /// on an empty bucket.
    #[must_use]
    pub fn tokens_at(&self, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(self.counted_at).as_secs_f64() * self.per_second(now);
        (self.tokens + refilled).min(f64::from(self.pacing.burst))
    }

    /// Returns the current rate in permits per second at `now`.
    #[must_use]
    pub fn per_second(&self, now: Instant) -> f64 {
        self.pacing.per_second * self.share(now)
    }

    fn refill(&mut self, now: Instant) {
        self.tokens = self.tokens_at(now);
        self.counted_at = self.counted_at.max(now);
    }

    fn share(&self, now: Instant) -> f64 {
        self.throttled.map_or(1.0, |(since, share)| {
            let doublings = now.saturating_duration_since(since).as_secs_f64() / RECOVERY.as_secs_f64();
            (share * doublings.exp2()).min(1.0)
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "queues are far shorter than 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
