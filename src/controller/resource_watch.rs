//! Watches the resources, and lists all of them again if the watch may have missed changes.

use std::{fmt::Debug, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        reflector::Store,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::in_flight;

/// Duration of one watch request in seconds. The next watch begins afterwards, so no request is
/// pending indefinitely.
const WATCH_SECONDS: u32 = 25;

/// Page size of a list. The JSON of one page is in memory while it is parsed.
const PAGE: u32 = 250;

/// Interval of the checks that compare the watch with a list.
const CHECK_PERIOD: Duration = Duration::from_mins(1);

/// A kind whose resources can be watched and cached.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

/// Returns the watch events of the resources of `api`. It backs off after failures. `cache` must
/// hold the result of the previous events.
///
/// After etcd is restored from a backup, a watch that resumes uses a resource version that is newer
/// than that of the API server. The API server responds with 504 ("Too large resource version"), or
/// sends no event until it reaches that version, and never sends the events before it. Therefore
/// all resources are listed again
/// - after every failure of the watch, because a restore requires a restart of the API server;
/// - if a check finds a lower resource version than before;
/// - if two checks in a row find another number of resources than the watch reported.
///
/// Resource versions are compared as integers. Kubernetes guarantees this since 1.35, and it was
/// true for etcd before. A resource version that is not an integer is not compared.
pub fn events<K: Watched>(
    api: Api<K>,
    cache: Store<K>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let watch =
        Watch { events: start_watch(&api), api, cache, check_at: None, newest: 0, was_different: false };
    stream::unfold(watch, |mut watch| async { Some((watch.next().await, watch)) }).default_backoff()
}

fn start_watch<K: Watched>(api: &Api<K>) -> BoxStream<'static, watcher::Result<Event<K>>> {
    watcher(api.clone(), watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE)).boxed()
}

struct Watch<K: Watched> {
    api: Api<K>,
    cache: Store<K>,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    /// `None` while the resources are being listed.
    check_at: Option<Instant>,
    /// The newest resource version that the API server reported since the resources were listed.
    newest: u64,
    /// True if the last check found another number of resources than the watch reported.
    was_different: bool,
}

impl<K: Watched> Watch<K> {
    async fn next(&mut self) -> watcher::Result<Event<K>> {
        loop {
            let next = self.events.next();
            let event = if let Some(at) = self.check_at {
                let Ok(event) = timeout_at(at, next).await else {
                    self.check().await;
                    continue;
                };
                event
            } else {
                next.await
            };
            match &event {
                Some(Ok(Event::Init)) => self.newest = 0,
                Some(Ok(Event::InitDone)) => self.check_at = Some(Instant::now()),
                Some(Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object))) => {
                    self.newest = self.newest.max(as_integer(object.resource_version()).unwrap_or_default());
                }
                Some(Err(_)) | None => self.restart(),
            }
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn restart(&mut self) {
        self.events = start_watch(&self.api);
        self.check_at = None;
        self.was_different = false;
    }

    /// Compares the watch with a list of a single resource, whose cost does not depend on the
    /// number of resources.
    async fn check(&mut self) {
        self.check_at = Some(Instant::now() + CHECK_PERIOD);
        let parameters = ListParams::default().limit(1);
        let Ok(list) = in_flight::kubernetes("list resources", self.api.list(&parameters)).await else {
            // The watch fails too, and reports the error.
            return;
        };
        let (version, known) = (as_integer(list.metadata.resource_version), self.cache.len());
        let remaining = list.metadata.remaining_item_count.and_then(|count| usize::try_from(count).ok());
        let is_whole = list.metadata.continue_.is_none_or(|token| token.is_empty());
        let count = if is_whole { Some(0) } else { remaining }.map(|more| list.items.len() + more);
        let is_older = version.is_some_and(|version| version < self.newest);
        let is_different = count.is_some_and(|count| count != known);
        if is_older || (is_different && self.was_different) {
            let newest = self.newest;
            tracing::warn!(
                kind = %K::kind(&()),
                version,
                newest,
                count,
                known,
                "watch missed changes, as after an etcd restore: listing all resources again"
            );
            self.restart();
        } else {
            self.was_different = is_different;
            self.newest = version.unwrap_or(self.newest);
        }
    }
}

fn as_integer(resource_version: Option<String>) -> Option<u64> {
    resource_version?.parse().ok()
}

#[cfg(test)]
mod tests;
