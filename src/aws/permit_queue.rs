//! RateLimiter at the call that a whole account shares with its deploys: a token bucket with a line before it. Pure: the clock is an argument.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// What is missing of a turn may be less than a clock can tell.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// For how long a turn is kept for one that was called.
const PERMIT_LIFETIME: Duration = Duration::from_secs(10);

/// How long it takes after a throttle until the rate has doubled again.
const RECOVERY: Duration = Duration::from_mins(1);

/// The least that is left of the rate, however often ECS throttles.
const MIN_SHARE: f64 = 1.0 / 32.0;

/// How fast the account's revisions may be deregistered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pacing {
    /// Calls a second, on the long run. ECS itself gives one a second to all of an account and region, deploys included.
    pub per_second: f64,
    /// Calls at once after a pause.
    pub burst: u32,
}

/// Half of the bucket "task definition read" of ECS, 50 at once and 20 a second.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const READS: Pacing = Pacing { per_second: 10.0, burst: 25 };

/// How many `DescribeTaskDefinition` calls a deregistration takes: before it queues, with its permit, and afterwards.
const READS_PER_DEREGISTRATION: f64 = 3.0;

impl Pacing {
    /// Returns the pacing of the reads that these deregistrations need: it scales with a raised quota.
    #[must_use]
    pub fn reads(self) -> Self {
        Self { per_second: READS.per_second.max(READS_PER_DEREGISTRATION * self.per_second), ..READS }
    }
}

/// The turns in one account and region. `K` stands for who waits.
///
/// # Guarantees
/// - First come, first served: whoever has had a turn and wants another queues up again.
/// - One that waits is called once, when its turn has come; nobody asks in vain meanwhile.
/// - A turn or a place that is not used is given on.
/// - A new line has no turns to give: a process that crashes again and again gets no more than one that does not.
#[derive(Debug)]
pub struct PermitQueue<K> {
    pacing: Pacing,
    tokens: f64,
    counted_at: Instant,
    waiting: VecDeque<K>,
    called: HashMap<K, Instant>,
    /// When ECS last throttled, and the share of the rate that was left then.
    throttled: Option<(Instant, f64)>,
}

/// What one gets who asks for a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    Now,
    /// It is called once its turn has come.
    Later,
}

/// Where one stands who waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueuePosition {
    /// How many are called before.
    pub ahead: usize,
    /// How many wait in all, oneself included.
    pub waiting: usize,
    /// RateLimiter a second, as things are now.
    pub per_second: f64,
}

impl<K: Clone + Eq + Hash> PermitQueue<K> {
    #[must_use]
    pub fn new(pacing: Pacing, now: Instant) -> Self {
        Self {
            pacing,
            tokens: 0.0,
            counted_at: now,
            waiting: VecDeque::new(),
            called: HashMap::new(),
            throttled: None,
        }
    }

    /// Asks for a turn, which is taken at once if it is `who`'s, or queued for.
    pub fn take(&mut self, who: &K, now: Instant) -> Turn {
        self.refill(now);
        if self.called.remove(who).is_some() {
            return Turn::Now;
        }
        if self.waiting.is_empty() && self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Turn::Now;
        }
        if !self.waiting.contains(who) {
            self.waiting.push_back(who.clone());
        }
        Turn::Later
    }

    /// Takes a turn at once, even one that is still to come: for what is bounded by another line already.
    pub fn acquire_unqueued(&mut self, now: Instant) {
        self.refill(now);
        self.tokens -= 1.0;
    }

    /// Whether it is `who`'s turn.
    #[must_use]
    pub fn has_permit(&self, who: &K) -> bool {
        self.called.contains_key(who)
    }

    /// Gives back a turn that was taken and not used.
    pub fn return_permit(&mut self, now: Instant) {
        self.refill(now);
        self.tokens += 1.0;
    }

    /// Keeps the permit that was acquired and not used for its key, for as long as one that has just been called.
    pub fn keep(&mut self, who: &K, now: Instant) {
        self.called.insert(who.clone(), now + PERMIT_LIFETIME);
    }

    /// Returns how long until a permit is available for any of those that `is_wanted` selects, or `None` if none of
    /// them waits or has one.
    #[must_use]
    pub fn until_permit(&self, is_wanted: impl Fn(&K) -> bool, now: Instant) -> Option<Duration> {
        if self.called.keys().any(&is_wanted) {
            return Some(Duration::ZERO);
        }
        let ahead = self.waiting.iter().position(is_wanted)?;
        let missing = (as_float(ahead + 1) - self.tokens_at(now)).max(0.0);
        Some(Duration::try_from_secs_f64(missing / self.per_second(now)).unwrap_or(Duration::MAX))
    }

    /// Gives up the place or the turn of one that wants none any more.
    pub fn leave(&mut self, who: &K, now: Instant) {
        self.waiting.retain(|other| other != who);
        if self.called.remove(who).is_some() {
            self.return_permit(now);
        }
    }

    /// Calls those whose turn has come.
    pub fn call(&mut self, now: Instant) -> Vec<K> {
        self.refill(now);
        let before = self.called.len();
        self.called.retain(|_, until| now < *until);
        self.tokens += as_float(before - self.called.len());
        let mut called = Vec::new();
        while self.tokens >= 1.0 {
            let Some(who) = self.waiting.pop_front() else { break };
            self.tokens -= 1.0;
            self.called.insert(who.clone(), now + PERMIT_LIFETIME);
            called.push(who);
        }
        called
    }

    /// When [`Self::call`] has something to do next; `None` until somebody queues up.
    #[must_use]
    pub fn next_grant(&self, now: Instant) -> Option<Instant> {
        let kept = self.called.values().min().copied();
        let turn = (!self.waiting.is_empty()).then(|| {
            let missing = (1.0 - self.tokens_at(now)).max(0.0);
            now + Duration::from_secs_f64(missing / self.per_second(now)).max(SHORTEST_WAIT)
        });
        turn.into_iter().chain(kept.filter(|_| !self.waiting.is_empty())).min()
    }

    /// Where one stands who waits; `None` for one that does not.
    #[must_use]
    pub fn place(&self, who: &K, now: Instant) -> Option<QueuePosition> {
        let ahead = self.waiting.iter().position(|other| other == who)?;
        Some(QueuePosition { ahead, waiting: self.waiting.len(), per_second: self.per_second(now) })
    }

    /// Notes that ECS throttled a call: somebody else is deploying. All step back, those too whose turn it was, to half of
    /// the rate they had, and come back slowly.
    pub fn throttled(&mut self, now: Instant) {
        self.refill(now);
        let mut called: Vec<(K, Instant)> = self.called.drain().collect();
        called.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
        for (who, _) in called {
            self.waiting.push_front(who);
        }
        let share = (self.share(now) / 2.0).max(MIN_SHARE);
        self.throttled = Some((now, share));
        self.tokens = 0.0;
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// RateLimiter that could be taken at `now`.
    #[must_use]
    pub fn tokens_at(&self, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(self.counted_at).as_secs_f64() * self.per_second(now);
        (self.tokens + refilled).min(f64::from(self.pacing.burst))
    }

    /// RateLimiter a second, as things are at `now`.
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

#[expect(clippy::cast_precision_loss, reason = "a line is never so long")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
