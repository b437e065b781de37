//! The watch of the resources: what the API server reports, and a list of all whenever that may not be the whole truth.

use std::time::Duration;

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::{Instant, timeout_at};

use crate::{in_flight, retirement::guarded::Guarded, runtime::controllers::Cache};

/// How many seconds the API server serves one watch before the next one begins: no call is pending forever.
const WATCH_SECONDS: u32 = 25;

/// How many resources the API server lists at once: the text of a page stays in memory while it is read.
const PAGE: u32 = 250;

/// How often the watch is compared with a list.
const CHECK_PERIOD: Duration = Duration::from_mins(1);

/// Returns the events of the resources of `api`. Between failures it backs off. `cache` holds what the events before said.
///
/// After etcd is restored from a backup, a watch that resumes where it was asks for a future of which the API server knows
/// nothing: it answers 504 ("Too large resource version"), or reports no event until the new history has caught up, and never
/// those in between. So all resources are listed anew
/// - after every failure of the watch: the API server does not catch_panic a restore without one;
/// - when a check finds that the API server is at an older resource version than before;
/// - when two checks in a row find another number of resources than the watch reported.
///
/// Resource versions are compared as numbers. Kubernetes promises that from 1.35 on, and before they were etcd's revisions too;
/// one that is no number is not compared.
pub(super) fn events(
    api: Api<Guarded>,
    cache: Cache,
) -> impl Stream<Item = watcher::Result<Event<Guarded>>> + Send {
    let watch = Watch { events: begin(&api), api, cache, check_at: None, newest: 0, was_different: false };
    stream::unfold(watch, |mut watch| async { Some((watch.next().await, watch)) }).default_backoff()
}

fn begin(api: &Api<Guarded>) -> BoxStream<'static, watcher::Result<Event<Guarded>>> {
    watcher(api.clone(), watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE)).boxed()
}

struct Watch {
    api: Api<Guarded>,
    cache: Cache,
    events: BoxStream<'static, watcher::Result<Event<Guarded>>>,
    /// `None` while the resources are being listed.
    check_at: Option<Instant>,
    /// The newest resource version that the API server reported since the resources were listed.
    newest: u64,
    /// Whether the last check found another number of resources than the watch reported.
    was_different: bool,
}

impl Watch {
    async fn next(&mut self) -> watcher::Result<Event<Guarded>> {
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
                    self.newest = self.newest.max(number(object.resource_version()).unwrap_or_default());
                }
                Some(Err(_)) | None => self.restart(),
            }
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn restart(&mut self) {
        self.events = begin(&self.api);
        self.check_at = None;
        self.was_different = false;
    }

    /// Compares the watch with a list of a single resource, which costs next to nothing however many there are.
    async fn check(&mut self) {
        self.check_at = Some(Instant::now() + CHECK_PERIOD);
        let parameters = ListParams::default().limit(1);
        let Ok(list) = in_flight::kubernetes("list resources", self.api.list(&parameters)).await else {
            // The watch has the same trouble, and reports it.
            return;
        };
        let (version, known) = (number(list.metadata.resource_version), self.cache.len());
        let remaining = list.metadata.remaining_item_count.and_then(|count| usize::try_from(count).ok());
        let is_whole = list.metadata.continue_.is_none_or(|token| token.is_empty());
        let count = if is_whole { Some(0) } else { remaining }.map(|more| list.items.len() + more);
        let is_older = version.is_some_and(|version| version < self.newest);
        let is_different = count.is_some_and(|count| count != known);
        if is_older || (is_different && self.was_different) {
            let newest = self.newest;
            tracing::warn!(
                version,
                newest,
                count,
                known,
                "the watch misses changes, as after a restore of etcd: listing all resources"
            );
            self.restart();
        } else {
            self.was_different = is_different;
            self.newest = version.unwrap_or(self.newest);
        }
    }
}

fn number(resource_version: Option<String>) -> Option<u64> {
    resource_version?.parse().ok()
}

#[cfg(test)]
mod tests;
