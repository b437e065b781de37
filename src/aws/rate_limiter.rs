//! Rate limiter of one ECS bucket: requeues a resource once a permit is available.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

use crate::aws::permit_queue::{Acquire, Pacing, PermitQueue};

pub use crate::aws::permit_queue::QueuePosition;

/// Metric of the available tokens, by `account`, `region` and `bucket`.
pub const TOKENS: &str = "ecs_retirement_pacer_tokens";

/// Metric of the current rate in calls per second, by `account`, `region` and `bucket`. It is lower
/// than configured while ECS throttles.
pub const RATE: &str = "ecs_retirement_pacer_rate";

/// Metric of the resources that wait for a permit, by `account`, `region` and `bucket`.
pub const WAITING: &str = "ecs_retirement_pacer_waiting";

/// Namespace and name of a resource.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ResourceKey {
    pub namespace: String,
    pub name: String,
}

/// Callback that requeues a resource.
#[derive(Clone)]
pub struct RequeueTrigger(pub Arc<dyn Fn(&ResourceKey) + Send + Sync>);

/// Rate limiter of one ECS bucket in one account and region.
pub struct RateLimiter {
    bucket: &'static str,
    account: String,
    region: String,
    queue: Mutex<PermitQueue<ResourceKey>>,
    changed: Notify,
}

/// RAII permit. Returned on drop unless it is spent or kept.
#[must_use = "an unused permit is returned on drop"]
pub struct Permit<'a> {
    limiter: &'a RateLimiter,
    is_spent: bool,
}

impl RateLimiter {
    /// Creates a limiter, and spawns a task that requeues resources with permits for as long as the
    /// limiter lives. `bucket` is ECS's name of the bucket.
    #[must_use]
    pub fn spawn(
        bucket: &'static str,
        account: &str,
        region: &str,
        pacing: Pacing,
        requeue_trigger: RequeueTrigger,
    ) -> Arc<Self> {
        let queue = Mutex::new(PermitQueue::new(pacing, Instant::now()));
        let (account, region) = (account.to_owned(), region.to_owned());
        let limiter = Arc::new(Self { bucket, account, region, queue, changed: Notify::new() });
        tokio::spawn(grant(Arc::downgrade(&limiter), requeue_trigger));
        limiter
    }

    /// Acquires a permit. Queues the resource and returns `None` if there is none.
    pub fn acquire(&self, key: &ResourceKey) -> Option<Permit<'_>> {
        let acquired = self.lock().acquire(key, Instant::now());
        self.changed.notify_one();
        // Constructed lazily because dropping an unissued permit would add a token.
        (acquired == Acquire::Acquired).then(|| Permit { limiter: self, is_spent: false })
    }

    /// Consumes a token without queueing. For calls that are already limited by another bucket.
    pub fn acquire_unqueued(&self) {
        self.lock().acquire_unqueued(Instant::now());
    }

    /// Returns how many permits the resource can acquire now.
    #[must_use]
    pub fn available(&self, key: &ResourceKey) -> usize {
        self.lock().available(key, Instant::now())
    }

    /// Returns true if a permit is granted to the resource.
    #[must_use]
    pub fn has_permit(&self, key: &ResourceKey) -> bool {
        self.lock().has_permit(key)
    }

    /// Returns the time until a permit is available for any of the resources that `is_wanted`
    /// selects. `None` if none of them is queued or has a permit.
    #[must_use]
    pub fn until_permit(&self, is_wanted: impl Fn(&ResourceKey) -> bool) -> Option<Duration> {
        self.lock().until_permit(is_wanted, Instant::now())
    }

    /// Removes a resource from the wait queue, or returns its granted permit.
    pub fn leave(&self, key: &ResourceKey) {
        self.lock().leave(key, Instant::now());
        self.changed.notify_one();
    }

    #[cfg(test)]
    pub(super) fn pacing(&self) -> Pacing {
        self.lock().pacing()
    }

    /// Changes the rate and the burst. Waiters keep their positions.
    pub(super) fn set_pacing(&self, pacing: Pacing) {
        self.lock().set_pacing(pacing, Instant::now());
        self.changed.notify_one();
    }

    /// Returns the queue position of a resource, or `None` if it is not queued.
    #[must_use]
    pub fn queue_position(&self, key: &ResourceKey) -> Option<QueuePosition> {
        self.lock().position(key, Instant::now())
    }

    /// Handles a call that ECS throttled: reduces the rate and revokes the granted permits.
    pub fn throttled(&self) {
        let mut queue = self.lock();
        queue.throttled(Instant::now());
        tracing::warn!(
            account = self.account,
            region = self.region,
            bucket = self.bucket,
            per_second = queue.per_second(Instant::now()),
            "throttled by ECS, reducing the rate"
        );
    }

    /// Updates the metrics.
    pub fn measure(&self) {
        let (queue, now) = (self.lock(), Instant::now());
        let labels = [
            ("account", self.account.clone()),
            ("bucket", self.bucket.to_owned()),
            ("region", self.region.clone()),
        ];
        metrics::gauge!(TOKENS, &labels).set(queue.tokens_at(now));
        metrics::gauge!(RATE, &labels).set(queue.per_second(now));
        metrics::gauge!(WAITING, &labels).set(u32::try_from(queue.waiting()).unwrap_or(u32::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, PermitQueue<ResourceKey>> {
        self.queue.lock()
    }
}

impl Permit<'_> {
    /// Grants the permit again to a resource that cannot use it yet, with the full lifetime.
    pub fn keep(mut self, key: &ResourceKey) {
        self.is_spent = true;
        self.limiter.lock().keep(key, Instant::now());
        self.limiter.changed.notify_one();
    }

    /// Consumes the permit. The caller makes the call now.
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

async fn grant(limiter: Weak<RateLimiter>, requeue_trigger: RequeueTrigger) {
    while let Some(limiter) = limiter.upgrade() {
        let now = Instant::now();
        let granted = limiter.lock().grant(now);
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
