//! A watch: the changes after a resource version, as they occur.

use super::store::Store;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep_until},
};

/// The changes of a kind, each returned once.
pub struct Watch {
    store: Arc<Mutex<Store>>,
    changed: signal::Receiver<u64>,
    plural: String,
    since: u64,
    end: Instant,
}

impl Watch {
    pub(super) fn new(
        store: Arc<Mutex<Store>>,
        changed: signal::Receiver<u64>,
        plural: String,
        since: u64,
        timeout: Duration,
    ) -> Self {
        Self { store, changed, plural, since, end: Instant::now() + timeout }
    }

    /// Returns the next event in wire format, or `None` once the watch has timed out.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            self.changed.borrow_and_update();
            if let Some(event) = self.take() {
                return Some(event);
            }
            tokio::select! {
                biased;
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Value> {
        let store = self.store.lock().expect("the mutex is not poisoned");
        let first = store.history.partition_point(|version| version.resource_version <= self.since);
        let mut later = store.history[first..].iter();
        let version = later.find(|version| version.key.plural == self.plural);
        self.since = version.map_or(store.resource_version, |version| version.resource_version);
        version.map(|version| json!({"type": version.change.name(), "object": version.object}))
    }
}
