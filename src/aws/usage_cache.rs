//! Shared usage cache: scans while resources wait, and requeues those whose usage changed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use crate::{
    aws::{
        error::rejects_credentials,
        freshness::Purpose,
        rate_limiter::{RateLimiter, RequeueTrigger, ResourceKey},
        response_clock::AwsClock,
        usage::{Scan, Use, next_second},
        usage_scanner::UsageScanner,
    },
    task_definition::Arn,
};

/// Metric of the usage scans, by `region` and `result`: `success` or `error`.
pub const SCANS: &str = "ecs_retirement_usage_scans_total";

/// Metric of the duration of usage scans in seconds, by `region`.
pub const SCAN_SECONDS: &str = "ecs_retirement_usage_scan_duration_seconds";

/// Metric of the age of the cached usage in seconds, by `region`. It is 0 while no resource waits.
pub const AGE: &str = "ecs_retirement_usage_age_seconds";

/// Predicate that is true while this process may call AWS.
pub type IsActive = Arc<dyn Fn() -> bool + Send + Sync>;

/// Usage of the revisions in one account and region, shared by all resources.
///
/// # Guarantees
/// - No scan runs while no resource waits. One scan at a time serves all waiting resources.
/// - A result is fresh enough for its purpose (see [`Scan::of`]); stale results are never returned.
/// - Scans are exactly as frequent as the most urgent purpose needs.
pub struct UsageCache {
    region: String,
    requeue_trigger: RequeueTrigger,
    /// The rate limiter of deregistrations.
    deregistrations: Arc<RateLimiter>,
    clock: Arc<AwsClock>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    last: Option<Scan>,
    waiting: HashMap<ResourceKey, Waiting>,
    /// Revisions that a resource waits for and that another resource has retired.
    invalidated: HashSet<(ResourceKey, Arn)>,
    /// The access key with which the cached usage was read.
    access_key: Option<String>,
    /// Incremented to discard the result of a scan in progress.
    epoch: u64,
    /// Whether AWS has rejected the credentials of a scan since the last call of
    /// [`UsageCache::take_rejection`].
    has_rejected: bool,
}

/// The interest of a resource in usage.
#[derive(Default)]
struct Waiting {
    /// The purpose for each revision, and the usage that was last reported. `None` if there was
    /// none.
    revisions: HashMap<Arn, (Purpose, Option<Use>)>,
    /// Whether the resource waits for a permit to deregister, or has one.
    wants_permit: bool,
}

impl UsageCache {
    /// Creates a cache, and spawns a task that scans while resources wait and `is_active` returns
    /// true.
    #[must_use]
    pub fn spawn(
        config: &SdkConfig,
        region: &str,
        deregistrations: Arc<RateLimiter>,
        requeue_trigger: RequeueTrigger,
        is_active: IsActive,
        clock: Arc<AwsClock>,
    ) -> Arc<Self> {
        let cache = Arc::new(Self {
            region: region.to_owned(),
            requeue_trigger,
            deregistrations,
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        tokio::spawn(scan(cache.clone(), UsageScanner::new(config), is_active));
        cache
    }

    /// Returns the usage of a revision, or `None` if no result is fresh enough for `purpose`.
    /// Subscribes the resource: it is requeued after the next scan with another result.
    ///
    /// An unused revision is reported as of now, and not as of a scan before the resource
    /// subscribed.
    #[must_use]
    pub fn of(&self, key: &ResourceKey, arn: &Arn, purpose: Purpose) -> Option<Use> {
        let mut state = self.lock();
        let now = Instant::now();
        let known = match state.last.as_ref().and_then(|scan| scan.of(arn, purpose, now)) {
            Some(Use::Unused { last_used, .. }) => Some(Use::Unused { at: self.time(now), last_used }),
            known => known,
        };
        let waiting = state.waiting.entry(key.clone()).or_default();
        waiting.wants_permit |= purpose == Purpose::Deregister;
        waiting.revisions.insert(arn.clone(), (purpose, known.clone()));
        self.changed.notify_one();
        known
    }

    /// Records that a resource waits for a permit to deregister. Scans become frequent once that is
    /// near.
    pub fn expect_permit(&self, key: &ResourceKey) {
        self.lock().waiting.entry(key.clone()).or_default().wants_permit = true;
        self.changed.notify_one();
    }

    /// Returns when the last scan ended, by AWS's clock. `None` unless it resolved every reference.
    #[must_use]
    pub fn scanned_at(&self) -> Option<Timestamp> {
        self.lock().last.as_ref().and_then(Scan::scanned_at)
    }

    /// Returns true if there is no fresh result yet and a scan is pending.
    #[must_use]
    pub fn is_first_scan_pending(&self) -> bool {
        let state = self.lock();
        let is_known = |scan: &Scan| scan.is_known(Purpose::Report, Instant::now());
        let is_fresh = state.last.as_ref().is_some_and(is_known);
        !is_fresh && !state.waiting.is_empty()
    }

    /// Unsubscribes a resource.
    pub fn leave(&self, key: &ResourceKey) {
        self.lock().waiting.remove(key);
    }

    /// Removes a resource that is deleted or final.
    pub fn forget(&self, key: &ResourceKey) {
        let mut state = self.lock();
        state.waiting.remove(key);
        state.invalidated.retain(|(other, _)| other != key);
    }

    /// Discards the cached usage if the access key has changed, because the new one may belong to
    /// another account.
    pub fn reset_for(&self, access_key: &str) {
        let mut state = self.lock();
        if state.access_key.as_deref() != Some(access_key) {
            state.access_key = Some(access_key.to_owned());
            state.last = None;
            state.epoch += 1;
        }
    }

    /// Marks a revision that resource `by` has retired as invalidated for all other waiting
    /// resources, and requeues them.
    pub fn invalidate(&self, by: &ResourceKey, arn: &Arn) {
        let mut state = self.lock();
        let waiting = state.waiting.iter().filter(|(key, it)| *key != by && it.revisions.contains_key(arn));
        let keys: Vec<ResourceKey> = waiting.map(|(key, _)| key.clone()).collect();
        for key in keys {
            (self.requeue_trigger.0)(&key);
            state.invalidated.insert((key, arn.clone()));
        }
    }

    /// Returns true if another resource has retired the revision, and clears that mark.
    #[must_use]
    pub fn take_invalidated(&self, key: &ResourceKey, arn: &Arn) -> bool {
        self.lock().invalidated.remove(&(key.clone(), arn.clone()))
    }

    /// Returns true if AWS has rejected the credentials of a scan since the last call of this
    /// function.
    #[must_use]
    pub(crate) fn take_rejection(&self) -> bool {
        std::mem::take(&mut self.lock().has_rejected)
    }

    /// Updates the metric of the age of the cached usage.
    pub fn measure(&self) {
        let state = self.lock();
        let age = match &state.last {
            Some(scan) if !state.waiting.is_empty() => scan.age(Instant::now()),
            _ => Duration::ZERO,
        };
        metrics::gauge!(AGE, "region" => self.region.clone()).set(age.as_secs_f64());
    }

    /// Returns AWS's time at `at`, rounded up. `None` while it is unknown.
    fn time(&self, at: Instant) -> Option<Timestamp> {
        self.clock.at(at).map(|bounds| next_second(bounds.latest))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the next scan is due, or `None` while no resource waits.
    fn next(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        if state.waiting.is_empty() {
            return None;
        }
        let Some(last) = &state.last else { return Some(now) };
        if let Some(retry) = last.retry() {
            return Some(retry);
        }
        let timing = last.timing();
        let revisions = state.waiting.values().flat_map(|waiting| waiting.revisions.values());
        let due = revisions.map(|(purpose, _)| match purpose {
            // Scans become more frequent only once a permit is near; see `next_for_permit` below.
            Purpose::Deregister => timing.next(Purpose::Report),
            purpose => timing.next(*purpose),
        });
        let wants_permit = |key: &ResourceKey| state.waiting.get(key).is_some_and(|it| it.wants_permit);
        let permit = self.deregistrations.until_permit(wants_permit);
        due.chain(permit.map(|wait| timing.next_for_permit(wait, now))).min()
    }

    /// Stores a scan, and returns the resources whose usage changed. Discards the scan if `epoch`
    /// is outdated.
    fn store(&self, scan: Scan, epoch: u64) -> Vec<ResourceKey> {
        let mut state = self.lock();
        if state.epoch != epoch {
            return Vec::new();
        }
        let now = Instant::now();
        let has_changed = |(arn, (purpose, reported)): (&Arn, &(Purpose, Option<Use>))| match reported {
            None => true,
            Some(reported) => scan.of(arn, *purpose, now).is_some_and(|usage| !usage.is_equivalent(reported)),
        };
        let is_affected = |waiting: &Waiting| waiting.revisions.iter().any(has_changed);
        let woken = state.waiting.iter().filter(|(_, waiting)| is_affected(waiting));
        let woken = woken.map(|(key, _)| key.clone()).collect();
        state.last = Some(scan);
        woken
    }

    fn record_scan(&self, duration: Duration, is_error: bool) {
        let region = self.region.clone();
        let result = if is_error { "error" } else { "success" };
        metrics::counter!(SCANS, "region" => region.clone(), "result" => result).increment(1);
        metrics::histogram!(SCAN_SECONDS, "region" => region).record(duration);
    }
}

async fn scan(cache: Arc<UsageCache>, mut scanner: UsageScanner, is_active: IsActive) {
    loop {
        if !is_active() {
            cache.lock().waiting.clear();
        }
        match cache.next(Instant::now()) {
            None => cache.changed.notified().await,
            Some(next) if next > Instant::now() => {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = cache.changed.notified() => {}
                }
            }
            Some(_) => {
                let epoch = cache.lock().epoch;
                let began = Instant::now();
                let found = scanner.scan().await;
                let ended = Instant::now();
                if let Err(failure) = &found {
                    cache.lock().has_rejected |= failure.code.as_deref().is_some_and(rejects_credentials);
                }
                cache.record_scan(ended.saturating_duration_since(began), found.is_err());
                let at = cache.time(ended);
                let scan = Scan::new(began, (ended, at), found, cache.lock().last.as_ref());
                for key in cache.store(scan, epoch) {
                    (cache.requeue_trigger.0)(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
