//! Whether the objects of a cache are known after a start.

use std::time::Duration;

use futures::FutureExt;
use kube::runtime::{
    reflector::{Lookup, Store},
    watcher,
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a failed list is retried before it is reported.
const GRACE: Duration = Duration::from_secs(10);

/// Whether the EcsAccounts are known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    Ready,
    /// They are not listed yet.
    Pending,
    /// They cannot be listed, for this reason.
    Failed(String),
}

/// Why objects could not be listed. It has no meaning once they are.
#[derive(Clone, Debug)]
enum ListError {
    /// The CRD is not installed, so there are none.
    NotInstalled,
    /// The error, and when the first attempt failed.
    Failed(String, Instant),
    /// The service account of the controller may not list them.
    Denied(String),
}

/// The list that fills a cache.
pub(super) struct List {
    /// What is listed.
    objects: &'static str,
    error: Mutex<Option<ListError>>,
}

impl List {
    pub(super) fn new(objects: &'static str) -> Self {
        Self { objects, error: Mutex::default() }
    }

    /// Handles a failure of the watch.
    pub(super) fn failed(&self, error: &watcher::Error) {
        let code = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code,
            _ => 0,
        };
        let mut recorded = self.error.lock();
        *recorded = Some(match (code, &*recorded) {
            (404, _) => ListError::NotInstalled,
            (401 | 403, _) => ListError::Denied(error.to_string()),
            (_, Some(ListError::Failed(_, since))) => ListError::Failed(error.to_string(), *since),
            _ => ListError::Failed(error.to_string(), Instant::now()),
        });
    }

    /// Returns whether the objects of `cache` are known.
    pub(super) fn readiness<K>(&self, cache: &Store<K>) -> Readiness
    where
        K: Lookup + Clone + 'static,
        K::DynamicType: Clone + Eq + std::hash::Hash,
    {
        if matches!(cache.wait_until_ready().now_or_never(), Some(Ok(()))) {
            return Readiness::Ready;
        }
        match &*self.error.lock() {
            None => Readiness::Pending,
            Some(ListError::NotInstalled) => Readiness::Ready,
            Some(ListError::Failed(_, since)) if since.elapsed() < GRACE => Readiness::Pending,
            Some(ListError::Failed(error, _) | ListError::Denied(error)) => {
                Readiness::Failed(format!("{} cannot be listed ({error})", self.objects))
            }
        }
    }
}
