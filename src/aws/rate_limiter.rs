//! The shell of the pacer in one account and region: calls those whose permit has come, and holds no worker meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::aws::permit_queue::{Pacing, PermitQueue, QueuePosition, Turn};

/// Calls that could be made at once, by `region` and `bucket`.
pub const TOKENS: &str = "ecs_retirement_pacer_tokens";

/// Calls a second as things are now, by `region` and `bucket`: less than configured while ECS throttles.
pub const RATE: &str = "ecs_retirement_pacer_rate";

/// Resources that wait for a permit, by `region` and `bucket`.
pub const WAITING: &str = "ecs_retirement_pacer_waiting";

/// A resource, as far as the queue is concerned: its namespace and its name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ResourceKey {
    pub namespace: String,
    pub name: String,
}

/// Wakes a resource whose permit has come.
#[derive(Clone)]
pub struct RequeueTrigger(pub Arc<dyn Fn(&ResourceKey) + Send + Sync>);

/// The limiter at one of ECS's buckets in one account and region.
pub struct RateLimiter {
    bucket: &'static str,
    region: String,
    queue: Mutex<PermitQueue<ResourceKey>>,
    changed: Notify,
}

/// A permit that was taken: used up, or given on when dropped.
#[must_use = "a permit that is not used is given on"]
pub struct Permit<'a> {
    limiter: &'a RateLimiter,
    is_spent: bool,
}

impl RateLimiter {
    /// Begins, and calls for as long as the value lives. `bucket` is ECS's name for it.
    #[must_use]
    pub fn begin(
        bucket: &'static str,
        region: &str,
        pacing: Pacing,
        requeue_trigger: RequeueTrigger,
    ) -> Arc<Self> {
        let queue = Mutex::new(PermitQueue::new(pacing, Instant::now()));
        let limiter = Arc::new(Self { bucket, region: region.to_owned(), queue, changed: Notify::new() });
        tokio::spawn(call(Arc::downgrade(&limiter), requeue_trigger));
        limiter
    }

    /// Takes a permit, or queues up for one.
    pub fn take(&self, key: &ResourceKey) -> Option<Permit<'_>> {
        let permit = self.lock().take(key, Instant::now());
        self.changed.notify_one();
        // Made only when it is handed out: dropped unused, it would give on a permit that nobody had.
        (permit == Turn::Now).then(|| Permit { limiter: self, is_spent: false })
    }

    /// Takes a permit at once, for what is bounded by another queue already.
    pub fn acquire_unqueued(&self) {
        self.lock().acquire_unqueued(Instant::now());
    }

    /// Whether it is the permit of a resource.
    #[must_use]
    pub fn has_permit(&self, key: &ResourceKey) -> bool {
        self.lock().has_permit(key)
    }

    /// Returns how long until a permit is available for any of the resources that `is_wanted` selects.
    #[must_use]
    pub fn until_permit(&self, is_wanted: impl Fn(&ResourceKey) -> bool) -> Option<Duration> {
        self.lock().until_permit(is_wanted, Instant::now())
    }

    /// Gives up the place of a resource that has nothing to wait for.
    pub fn leave(&self, key: &ResourceKey) {
        self.lock().leave(key, Instant::now());
        self.changed.notify_one();
    }

    /// Where a resource stands in the queue, if it does.
    #[must_use]
    pub fn place(&self, key: &ResourceKey) -> Option<QueuePosition> {
        self.lock().place(key, Instant::now())
    }

    /// Notes that ECS throttled a call.
    pub fn throttled(&self) {
        let mut queue = self.lock();
        queue.throttled(Instant::now());
        tracing::warn!(
            region = self.region,
            bucket = self.bucket,
            per_second = queue.per_second(Instant::now()),
            "ECS throttles: somebody else needs the account's rate, stepping back"
        );
    }

    /// Tells the metrics how things are.
    pub fn measure(&self) {
        let (queue, now) = (self.lock(), Instant::now());
        let labels = [("bucket", self.bucket.to_owned()), ("region", self.region.clone())];
        metrics::gauge!(TOKENS, &labels).set(queue.tokens_at(now));
        metrics::gauge!(RATE, &labels).set(queue.per_second(now));
        metrics::gauge!(WAITING, &labels).set(u32::try_from(queue.waiting()).unwrap_or(u32::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, PermitQueue<ResourceKey>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Keeps the permit for a resource that cannot use it yet: it is as if it had just been granted.
    pub fn keep(mut self, key: &ResourceKey) {
        self.is_spent = true;
        self.limiter.lock().keep(key, Instant::now());
        self.limiter.changed.notify_one();
    }

    /// Uses the permit up: the call is made now.
    pub fn spend(mut self) {
        self.is_spent = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.is_spent {
            self.limiter.lock().return_permit(Instant::now());
            self.limiter.changed.notify_one();
        }
    }
}

async fn call(limiter: Weak<RateLimiter>, requeue_trigger: RequeueTrigger) {
    while let Some(limiter) = limiter.upgrade() {
        let now = Instant::now();
        let granted = limiter.lock().call(now);
        for key in &granted {
            (requeue_trigger.0)(key);
        }
        let next = limiter.lock().next_grant(now).unwrap_or(now + Duration::from_mins(1));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = limiter.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests;
