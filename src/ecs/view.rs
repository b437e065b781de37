//! The shell of the view of use in one account and region: scans while somebody waits, and wakes whoever has something to learn.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use tokio::{sync::Notify, time::Instant};

use crate::{
    clock::Clock,
    ecs::{
        error::rejects_credentials,
        scan::Scanner,
        turns::{Holder, Waker},
        usage::{Scan, Use},
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
pub type MayAct = Arc<dyn Fn() -> bool + Send + Sync>;

/// Who uses the revisions of one account and region, as all resources see it.
///
/// # Guarantees
/// - Nothing is scanned while nobody waits, and one scan at a time serves all who do.
/// - What it says is fresh (see [`Scan::is_fresh`]), or it says nothing.
pub struct View {
    region: String,
    waker: Waker,
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    last: Option<Scan>,
    /// What each resource was last told of each revision it waits for; `None`: nothing yet.
    waiting: HashMap<Holder, HashMap<Arn, Option<Use>>>,
    /// Revisions that a resource waits for, and that another resource has retired.
    doubted: HashSet<(Holder, Arn)>,
    /// The access key that all this was learned by.
    owner: Option<String>,
    /// Rises whenever what a scan under way finds is of no use any more.
    epoch: u64,
    /// Whether AWS has rejected the credentials of a scan since the last time that this was read.
    has_rejected: bool,
}

impl View {
    /// Begins, and scans for as long as somebody waits and the process may act.
    #[must_use]
    pub fn begin(config: &SdkConfig, region: &str, waker: Waker, may_act: MayAct, clock: Clock) -> Arc<Self> {
        let view = Arc::new(Self {
            region: region.to_owned(),
            waker,
            state: Mutex::default(),
            asked: Notify::new(),
        });
        tokio::spawn(scan(view.clone(), Scanner::new(config), may_act, clock));
        view
    }

    /// What is known of the use of a revision. The resource is woken once there is something else to say of it; `None`: nothing
    /// is known yet.
    #[must_use]
    pub fn of(&self, holder: &Holder, arn: &Arn) -> Option<Use> {
        let mut state = self.lock();
        let known = state.last.as_ref().filter(|scan| scan.is_fresh(Instant::now())).map(|scan| scan.of(arn));
        let told = state.waiting.entry(holder.clone()).or_default();
        told.insert(arn.clone(), known.clone());
        self.asked.notify_one();
        known
    }

    /// Whether nothing is known yet, and somebody waits already: the scan for them will tell.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let state = self.lock();
        let is_fresh = state.last.as_ref().is_some_and(|scan| scan.is_fresh(Instant::now()));
        !is_fresh && !state.waiting.is_empty()
    }

    /// Notes that a resource waits for nothing here any more.
    pub fn leave(&self, holder: &Holder) {
        self.lock().waiting.remove(holder);
    }

    /// Notes that a resource is gone, or settled.
    pub fn forget(&self, holder: &Holder) {
        let mut state = self.lock();
        state.waiting.remove(holder);
        state.doubted.retain(|(doubting, _)| doubting != holder);
    }

    /// Notes by which access key calls are made now. Another one may be of another account, and so all is to be learned again.
    pub fn belongs_to(&self, access_key: &str) {
        let mut state = self.lock();
        if state.owner.as_deref() != Some(access_key) {
            state.owner = Some(access_key.to_owned());
            state.last = None;
            state.epoch += 1;
        }
    }

    /// Notes that a resource has retired a revision, and wakes the others that wait for the end of its use.
    pub fn doubt(&self, by: &Holder, arn: &Arn) {
        let mut state = self.lock();
        let waiting = state.waiting.iter().filter(|(holder, told)| *holder != by && told.contains_key(arn));
        let holders: Vec<Holder> = waiting.map(|(holder, _)| holder.clone()).collect();
        for holder in holders {
            (self.waker.0)(&holder);
            state.doubted.insert((holder, arn.clone()));
        }
    }

    /// Whether another resource has retired a revision since the last time this was asked.
    #[must_use]
    pub fn takes_doubt(&self, holder: &Holder, arn: &Arn) -> bool {
        self.lock().doubted.remove(&(holder.clone(), arn.clone()))
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next scan is to begin; `None` while nobody waits.
    fn next(&self) -> Option<Instant> {
        let state = self.lock();
        let next = state.last.as_ref().map_or_else(Instant::now, Scan::next);
        (!state.waiting.is_empty()).then_some(next)
    }

    /// Takes what a scan has found, and gives those who have something to learn from it.
    fn learn(&self, scan: Scan, epoch: u64) -> Vec<Holder> {
        let mut state = self.lock();
        if state.epoch != epoch {
            return Vec::new();
        }
        let has_news = |(arn, told): (&Arn, &Option<Use>)| {
            told.as_ref().is_none_or(|told| !told.says_the_same_as(&scan.of(arn)))
        };
        let waiting = state.waiting.iter();
        let woken =
            waiting.filter(|(_, told)| told.iter().any(has_news)).map(|(holder, _)| holder.clone()).collect();
        state.last = Some(scan);
        woken
    }

    fn measured(&self, scan: &Scan, is_error: bool) {
        let region = self.region.clone();
        let result = if is_error { "error" } else { "success" };
        metrics::counter!(SCANS, "region" => region.clone(), "result" => result).increment(1);
        metrics::histogram!(SCAN_SECONDS, "region" => region).record(scan.took());
    }
}

async fn scan(view: Arc<View>, mut scanner: Scanner, may_act: MayAct, clock: Clock) {
    loop {
        if !may_act() {
            view.lock().waiting.clear();
        }
        match view.next() {
            None => view.asked.notified().await,
            Some(next) if next > Instant::now() => {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = view.asked.notified() => {}
                }
            }
            Some(_) => {
                let epoch = view.lock().epoch;
                let began = (Instant::now(), clock());
                let found = scanner.scan().await;
                let is_error = found.is_err();
                if let Err(failure) = &found {
                    view.lock().has_rejected |= failure.code.as_deref().is_some_and(rejects_credentials);
                }
                let scan = Scan::new(began, Instant::now(), found, view.lock().last.as_ref());
                view.measured(&scan, is_error);
                for holder in view.learn(scan, epoch) {
                    (view.waker.0)(&holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
