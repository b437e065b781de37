//! Shared usage cache: scans while resources wait, and requeues those whose usage changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

use crate::{
    aws::{
        ecs_client::Ecs,
        freshness::Purpose,
        identity::Identity,
        rate_limiter::{RateLimiter, RequeueTrigger, ResourceKey},
        response::Failure,
        response_clock::AwsClock,
        usage::{Found, Scan, Use, latest},
        usage_scanner::{ScanBuckets, UsageScanner},
    },
    task_definition::Arn,
};

/// Metric of the usage scans, by `account`, `region` and `result`: `success`, `incomplete` or
/// `error`.
pub const SCANS: &str = "ecs_retirement_usage_scans_total";

/// Metric of the duration of usage scans in seconds, by `account` and `region`.
pub const SCAN_SECONDS: &str = "ecs_retirement_usage_scan_duration_seconds";

/// Metric of the age of the cached usage in seconds, by `account` and `region`. It is 0 while no
/// resource waits.
pub const AGE: &str = "ecs_retirement_usage_age_seconds";

/// Predicate that is true while this process may call AWS.
pub type IsActive = Arc<dyn Fn() -> bool + Send + Sync>;

/// Usage of the revisions that one source of credentials sees in one account and region, shared by
/// all resources.
///
/// # Guarantees
/// - No scan runs while no resource waits. One scan at a time serves all waiting resources.
/// - A result is fresh enough for its purpose (see [`Scan::of`]); stale results are never returned.
/// - Scans are exactly as frequent as the most urgent purpose needs.
pub struct UsageCache {
    identity: Identity,
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
    /// Creates a cache. It is empty unless [`Self::scan_while_awaited`] runs.
    ///
    /// `deregistrations` is the rate limiter of deregistrations: scans become frequent once a
    /// permit is near.
    #[must_use]
    pub fn new(
        identity: &Identity,
        deregistrations: Arc<RateLimiter>,
        requeue_trigger: RequeueTrigger,
        clock: Arc<AwsClock>,
    ) -> Self {
        let (identity, state, changed) = (identity.clone(), Mutex::default(), Notify::new());
        Self { identity, requeue_trigger, deregistrations, clock, state, changed }
    }

    /// Subscribes a resource to the usage of a revision: it is requeued after the next scan with
    /// another result. Returns the usage, or `None` if no result is fresh enough for `purpose`.
    ///
    /// An unused revision is reported as of now, and not as of a scan before the resource
    /// subscribed.
    #[must_use]
    pub fn subscribe(&self, key: &ResourceKey, arn: &Arn, purpose: Purpose) -> Option<Use> {
        let mut state = self.lock();
        let now = Instant::now();
        let known = match state.last.as_ref().and_then(|scan| scan.of(arn, purpose, now)) {
            Some(Use::Unused { last_used, .. }) => {
                Some(Use::Unused { at: self.clock.at(now).map(latest), last_used })
            }
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

    /// Returns the earliest time at which the last scan may have ended, by AWS's clock. `None`
    /// unless it resolved every reference.
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
    pub fn unsubscribe(&self, key: &ResourceKey) {
        self.lock().waiting.remove(key);
    }

    /// Removes a resource that waits no longer.
    pub(super) fn forget(&self, key: &ResourceKey) {
        let mut state = self.lock();
        state.waiting.remove(key);
        state.invalidated.retain(|(other, _)| other != key);
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

    /// Returns the age of the cached usage, or zero while no resource waits.
    fn age(&self) -> Duration {
        let state = self.lock();
        match &state.last {
            Some(scan) if !state.waiting.is_empty() => scan.age(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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

    /// Stores a scan, and returns the resources whose usage changed.
    fn store(&self, scan: Scan) -> Vec<ResourceKey> {
        let mut state = self.lock();
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

    /// Records the result of a scan in the metrics and, if it differs from that of the last scan,
    /// in the log.
    fn record_scan(&self, duration: Duration, found: &Result<Found, Failure>, last: &mut Option<Failure>) {
        let Identity { account, region, .. } = self.identity.clone();
        let (result, failure) = match found {
            Ok(found) => match found.unresolved() {
                None => ("success", None),
                unresolved => ("incomplete", unresolved),
            },
            Err(failure) => ("error", Some(failure.clone())),
        };
        let is_same = match (&failure, last.as_ref()) {
            (Some(failure), Some(last)) => failure.is_same_error(last),
            (failure, last) => failure.is_none() && last.is_none(),
        };
        if !is_same {
            if let Some(failure) = &failure {
                tracing::warn!(account, region, result, message = failure.message, "usage scan failed");
            } else {
                tracing::info!(account, region, "usage scans succeed again");
            }
            *last = failure;
        }
        let labels = [("account", account), ("region", region)];
        metrics::histogram!(SCAN_SECONDS, &labels).record(duration);
        let [account, region] = labels;
        metrics::counter!(SCANS, &[account, region, ("result", result.to_owned())]).increment(1);
    }

    /// Scans with `ecs` while resources wait and `is_active` returns true. Never ends.
    pub(super) async fn scan_while_awaited(
        &self,
        ecs: Arc<Ecs>,
        buckets: Arc<ScanBuckets>,
        is_active: IsActive,
    ) {
        let (mut scanner, mut last_failure) = (UsageScanner::new(ecs, buckets), None);
        loop {
            if !is_active() {
                self.lock().waiting.clear();
            }
            match self.next(Instant::now()) {
                None => self.changed.notified().await,
                Some(next) if next > Instant::now() => {
                    tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Some(_) => {
                    let began = Instant::now();
                    let found = scanner.scan().await;
                    let ended = Instant::now();
                    self.record_scan(ended.saturating_duration_since(began), &found, &mut last_failure);
                    let at = self.clock.at(ended);
                    let scan = Scan::new(began, (ended, at), found, self.lock().last.as_ref());
                    for key in self.store(scan) {
                        (self.requeue_trigger.0)(&key);
                    }
                }
            }
        }
    }
}

/// Updates the metric of the age of the cached usage. If several sources of credentials belong to
/// one account, the oldest counts.
pub(super) fn measure(caches: &[Arc<UsageCache>]) {
    let mut ages: BTreeMap<(&str, &str), Duration> = BTreeMap::new();
    for cache in caches {
        let Identity { account, region, .. } = &cache.identity;
        let age = ages.entry((account, region)).or_default();
        *age = cache.age().max(*age);
    }
    for ((account, region), age) in ages {
        let labels = [("account", account.to_owned()), ("region", region.to_owned())];
        metrics::gauge!(AGE, &labels).set(age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
