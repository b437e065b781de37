//! A watch: the changes after a resource version, as they occur.

use super::{metadata_only, request::ApiRequest, store::Store};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep_until},
};

/// The changes of a kind, each returned once.
pub struct Watch {
    store: Arc<Mutex<Store>>,
    changed: signal::Receiver<u64>,
    plural: String,
    is_metadata_only: bool,
    since: u64,
    end: Instant,
}

impl Watch {
    pub(super) fn new(
        store: Arc<Mutex<Store>>,
        changed: signal::Receiver<u64>,
        request: &ApiRequest,
        since: u64,
    ) -> Self {
        let (plural, is_metadata_only) = (request.plural.clone(), request.is_metadata_only);
        Self { store, changed, plural, is_metadata_only, since, end: Instant::now() + request.timeout }
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
        version.map(|version| {
            let object = &version.object;
            let object = if self.is_metadata_only { metadata_only(object) } else { object.clone() };
            json!({"type": version.change.name(), "object": object})
        })
    }
}
