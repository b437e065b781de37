//! The shell of the pacer in one account and region: calls those whose turn has come, and holds no worker meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::ecs::pacer::{Line, Pacing, Place, Turn};

/// Calls that could be made at once, by `region` and `bucket`.
pub const TOKENS: &str = "ecs_retirement_pacer_tokens";

/// Calls a second as things are now, by `region` and `bucket`: less than configured while ECS throttles.
pub const RATE: &str = "ecs_retirement_pacer_rate";

/// Resources that wait for a turn, by `region` and `bucket`.
pub const WAITING: &str = "ecs_retirement_pacer_waiting";

/// A resource, as far as the line is concerned: its namespace and its name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Holder {
    pub namespace: String,
    pub name: String,
}

/// Wakes a resource whose turn has come.
#[derive(Clone)]
pub struct Waker(pub Arc<dyn Fn(&Holder) + Send + Sync>);

/// The turns at one of ECS's buckets in one account and region.
pub struct Turns {
    bucket: &'static str,
    region: String,
    line: Mutex<Line<Holder>>,
    changed: Notify,
}

/// A turn that was taken: used up, or given on when dropped.
#[must_use = "a turn that is not used is given on"]
pub struct Taken<'a> {
    turns: &'a Turns,
    is_used: bool,
}

impl Turns {
    /// Begins, and calls for as long as the value lives. `bucket` is ECS's name for it.
    #[must_use]
    pub fn begin(bucket: &'static str, region: &str, pacing: Pacing, waker: Waker) -> Arc<Self> {
        let line = Mutex::new(Line::new(pacing, Instant::now()));
        let turns = Arc::new(Self { bucket, region: region.to_owned(), line, changed: Notify::new() });
        tokio::spawn(call(Arc::downgrade(&turns), waker));
        turns
    }

    /// Takes a turn, or queues up for one.
    pub fn take(&self, holder: &Holder) -> Option<Taken<'_>> {
        let turn = self.lock().take(holder, Instant::now());
        self.changed.notify_one();
        // Made only when it is handed out: dropped unused, it would give on a turn that nobody had.
        (turn == Turn::Now).then(|| Taken { turns: self, is_used: false })
    }

    /// Takes a turn at once, for what is bounded by another line already.
    pub fn take_ahead(&self) {
        self.lock().take_ahead(Instant::now());
    }

    /// Whether it is the turn of a resource.
    #[must_use]
    pub fn is_called(&self, holder: &Holder) -> bool {
        self.lock().is_called(holder)
    }

    /// Returns how long until a permit is available for any of the resources that `is_wanted` selects.
    #[must_use]
    pub fn until_permit(&self, is_wanted: impl Fn(&Holder) -> bool) -> Option<Duration> {
        self.lock().until_permit(is_wanted, Instant::now())
    }

    /// Gives up the place of a resource that has nothing to wait for.
    pub fn leave(&self, holder: &Holder) {
        self.lock().leave(holder, Instant::now());
        self.changed.notify_one();
    }

    /// Where a resource stands in the line, if it does.
    #[must_use]
    pub fn place(&self, holder: &Holder) -> Option<Place> {
        self.lock().place(holder, Instant::now())
    }

    /// Notes that ECS throttled a call.
    pub fn throttled(&self) {
        let mut line = self.lock();
        line.throttled(Instant::now());
        tracing::warn!(
            region = self.region,
            bucket = self.bucket,
            per_second = line.per_second(Instant::now()),
            "ECS throttles: somebody else needs the account's rate, stepping back"
        );
    }

    /// Tells the metrics how things are.
    pub fn measure(&self) {
        let (line, now) = (self.lock(), Instant::now());
        let labels = [("bucket", self.bucket.to_owned()), ("region", self.region.clone())];
        metrics::gauge!(TOKENS, &labels).set(line.tokens_at(now));
        metrics::gauge!(RATE, &labels).set(line.per_second(now));
        metrics::gauge!(WAITING, &labels).set(u32::try_from(line.waiting()).unwrap_or(u32::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Line<Holder>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    /// Keeps the permit for a resource that cannot use it yet: it is as if it had just been called.
    pub fn keep(mut self, holder: &Holder) {
        self.is_used = true;
        self.turns.lock().keep(holder, Instant::now());
        self.turns.changed.notify_one();
    }

    /// Uses the turn up: the call is made now.
    pub fn spend(mut self) {
        self.is_used = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.turns.lock().give_back(Instant::now());
            self.turns.changed.notify_one();
        }
    }
}

async fn call(turns: Weak<Turns>, waker: Waker) {
    while let Some(turns) = turns.upgrade() {
        let now = Instant::now();
        let called = turns.lock().call(now);
        for holder in &called {
            (waker.0)(holder);
        }
        let next = turns.lock().next_call(now).unwrap_or(now + Duration::from_mins(1));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = turns.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests;
