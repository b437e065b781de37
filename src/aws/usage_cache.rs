//! The shell of the view of use in one account and region: scans while somebody waits, and wakes whoever has something to learn.

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

/// Scans of who uses revisions, by `region` and `result`: `success` or `error`.
pub const SCANS: &str = "ecs_retirement_usage_scans_total";

/// How long the scans took, by `region`, in seconds.
pub const SCAN_SECONDS: &str = "ecs_retirement_usage_scan_duration_seconds";

/// How old what is known of use is, by `region`, in seconds; 0 while nobody waits for it.
pub const AGE: &str = "ecs_retirement_usage_age_seconds";

/// Whether this process may act.
pub type IsActive = Arc<dyn Fn() -> bool + Send + Sync>;

/// Who uses the revisions of one account and region, as all resources see it.
///
/// # Guarantees
/// - Nothing is scanned while nobody waits, and one scan at a time serves all who do.
/// - What it says is recent enough for its purpose (see [`Scan::of`]), or it says nothing.
/// - Scans are as frequent as the most urgent purpose needs, and no more.
pub struct UsageCache {
    region: String,
    requeue_trigger: RequeueTrigger,
    /// The wait queue for permits to deregister.
    deregistrations: Arc<RateLimiter>,
    clock: Arc<AwsClock>,
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    last: Option<Scan>,
    waiting: HashMap<ResourceKey, Waiting>,
    /// Revisions that a resource waits for, and that another resource has retired.
    invalidated: HashSet<(ResourceKey, Arn)>,
    /// The access key that all this was learned by.
    owner: Option<String>,
    /// Rises whenever what a scan under way finds is of no use any more.
    epoch: u64,
    /// Whether AWS has rejected the credentials of a scan since the last time that this was read.
    has_rejected: bool,
}

/// What a resource waits for.
#[derive(Default)]
struct Waiting {
    /// What usage of each revision is needed for, and what was last reported; `None`: nothing yet.
    revisions: HashMap<Arn, (Purpose, Option<Use>)>,
    /// Whether it waits for a permit to deregister, or has one.
    wants_permit: bool,
}

impl UsageCache {
    /// Begins, and scans for as long as somebody waits and the process may act.
    #[must_use]
    pub fn begin(
        config: &SdkConfig,
        region: &str,
        deregistrations: Arc<RateLimiter>,
        requeue_trigger: RequeueTrigger,
        is_active: IsActive,
        clock: Arc<AwsClock>,
    ) -> Arc<Self> {
        let view = Arc::new(Self {
            region: region.to_owned(),
            requeue_trigger,
            deregistrations,
            clock,
            state: Mutex::default(),
            asked: Notify::new(),
        });
        tokio::spawn(scan(view.clone(), UsageScanner::new(config), is_active));
        view
    }

    /// Returns the usage of a revision, or `None` if nothing is known that is recent enough for `purpose`. The resource
    /// is woken by the next scan that shows anything else.
    ///
    /// An unused revision is so as of now, and not of a scan before the resource took an interest in it.
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
        self.asked.notify_one();
        known
    }

    /// Notes that a resource waits for a permit to deregister: once that is near, scans are frequent.
    pub fn expect_permit(&self, key: &ResourceKey) {
        self.lock().waiting.entry(key.clone()).or_default().wants_permit = true;
        self.asked.notify_one();
    }

    /// Returns when the last successful scan ended, by AWS's clock.
    #[must_use]
    pub fn scanned_at(&self) -> Option<Timestamp> {
        self.lock().last.as_ref().and_then(Scan::scanned_at)
    }

    /// Whether nothing is known yet, and somebody waits already: the scan for them will tell.
    #[must_use]
    pub fn is_first_scan_pending(&self) -> bool {
        let state = self.lock();
        let is_known = |scan: &Scan| scan.is_known(Purpose::Report, Instant::now());
        let is_fresh = state.last.as_ref().is_some_and(is_known);
        !is_fresh && !state.waiting.is_empty()
    }

    /// Notes that a resource waits for nothing here any more.
    pub fn leave(&self, key: &ResourceKey) {
        self.lock().waiting.remove(key);
    }

    /// Notes that a resource is gone, or settled.
    pub fn forget(&self, key: &ResourceKey) {
        let mut state = self.lock();
        state.waiting.remove(key);
        state.invalidated.retain(|(doubting, _)| doubting != key);
    }

    /// Notes by which access key calls are made now. Another one may be of another account, and so all is to be learned again.
    pub fn reset_for(&self, access_key: &str) {
        let mut state = self.lock();
        if state.owner.as_deref() != Some(access_key) {
            state.owner = Some(access_key.to_owned());
            state.last = None;
            state.epoch += 1;
        }
    }

    /// Notes that a resource has retired a revision, and wakes the others that wait for the end of its use.
    pub fn invalidate(&self, by: &ResourceKey, arn: &Arn) {
        let mut state = self.lock();
        let waiting = state.waiting.iter().filter(|(key, it)| *key != by && it.revisions.contains_key(arn));
        let keys: Vec<ResourceKey> = waiting.map(|(key, _)| key.clone()).collect();
        for key in keys {
            (self.requeue_trigger.0)(&key);
            state.invalidated.insert((key, arn.clone()));
        }
    }

    /// Whether another resource has retired a revision since the last time this was asked.
    #[must_use]
    pub fn take_invalidated(&self, key: &ResourceKey, arn: &Arn) -> bool {
        self.lock().invalidated.remove(&(key.clone(), arn.clone()))
    }

    /// Returns true if AWS has rejected the credentials of a scan since the last time that this was called.
    #[must_use]
    pub(crate) fn take_rejection(&self) -> bool {
        std::mem::take(&mut self.lock().has_rejected)
    }

    /// Tells the metrics how old what is known is.
    pub fn measure(&self) {
        let state = self.lock();
        let age = match &state.last {
            Some(scan) if !state.waiting.is_empty() => scan.age(Instant::now()),
            _ => Duration::ZERO,
        };
        metrics::gauge!(AGE, "region" => self.region.clone()).set(age.as_secs_f64());
    }

    /// AWS's time at `at`, rounded up.
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
            // Frequent scans are for those who are about to have a permit.
            Purpose::Deregister => timing.next(Purpose::Report),
            purpose => timing.next(*purpose),
        });
        let wants_permit = |key: &ResourceKey| state.waiting.get(key).is_some_and(|it| it.wants_permit);
        let permit = self.deregistrations.until_permit(wants_permit);
        due.chain(permit.map(|wait| timing.next_for_permit(wait, now))).min()
    }

    /// Takes what a scan has found, and gives those who have something to learn from it.
    fn learn(&self, scan: Scan, epoch: u64) -> Vec<ResourceKey> {
        let mut state = self.lock();
        if state.epoch != epoch {
            return Vec::new();
        }
        let now = Instant::now();
        let has_news = |(arn, (purpose, reported)): (&Arn, &(Purpose, Option<Use>))| match reported {
            None => true,
            Some(reported) => scan.of(arn, *purpose, now).is_some_and(|shown| !shown.is_equivalent(reported)),
        };
        let has_any = |waiting: &Waiting| waiting.revisions.iter().any(has_news);
        let woken = state.waiting.iter().filter(|(_, waiting)| has_any(waiting));
        let woken = woken.map(|(key, _)| key.clone()).collect();
        state.last = Some(scan);
        woken
    }

    fn measured(&self, took: Duration, is_error: bool) {
        let region = self.region.clone();
        let result = if is_error { "error" } else { "success" };
        metrics::counter!(SCANS, "region" => region.clone(), "result" => result).increment(1);
        metrics::histogram!(SCAN_SECONDS, "region" => region).record(took);
    }
}

async fn scan(view: Arc<UsageCache>, mut scanner: UsageScanner, is_active: IsActive) {
    loop {
        if !is_active() {
            view.lock().waiting.clear();
        }
        match view.next(Instant::now()) {
            None => view.asked.notified().await,
            Some(next) if next > Instant::now() => {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = view.asked.notified() => {}
                }
            }
            Some(_) => {
                let epoch = view.lock().epoch;
                let began = Instant::now();
                let found = scanner.scan().await;
                let ended = Instant::now();
                if let Err(failure) = &found {
                    view.lock().has_rejected |= failure.code.as_deref().is_some_and(rejects_credentials);
                }
                view.measured(ended.saturating_duration_since(began), found.is_err());
                let at = view.time(ended);
                let scan = Scan::new(began, (ended, at), found, view.lock().last.as_ref());
                for key in view.learn(scan, epoch) {
                    (view.requeue_trigger.0)(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
