//! Applies watch events to the cache, and selects the resources that need a reconcile.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::{
    Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::time::Instant;

use crate::{
    api::REQUESTED_AT,
    retirement::{guarded::Guarded, requeue},
    runtime::controllers::{Cache, Shared},
};

/// An annotation that repeats the whole object. It is not cached, to save memory.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies `events` to the cache of `writer`, and returns the resources that need a reconcile.
pub(super) fn changes(
    events: impl Stream<Item = watcher::Result<Event<Guarded>>> + Send + 'static,
    writer: Writer<Guarded>,
    shared: Arc<Shared>,
) -> impl Stream<Item = watcher::Result<Guarded>> + Send + 'static {
    let mut changes = Changes { cache: writer.as_reader(), writer, shared, listed: Vec::new() };
    events.modify(prune).flat_map(move |event| {
        let due = match event {
            Ok(event) => changes.take(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(due)
    })
}

struct Changes {
    writer: Writer<Guarded>,
    cache: Cache,
    shared: Arc<Shared>,
    /// The resources of a list in progress that need a reconcile. They are cached once the list is
    /// complete.
    listed: Vec<ObjectRef<Guarded>>,
}

impl Changes {
    fn take(&mut self, event: Event<Guarded>) -> Vec<Guarded> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(ref object) if self.is_change(object) => {
                self.listed.push(ObjectRef::from_obj(object));
            }
            Event::Delete(ref object) => self.forget(object),
            Event::InitDone => {
                let before = self.cache.state();
                self.writer.apply_watcher_event(&event);
                for object in before.iter().filter(|object| self.is_gone(object)) {
                    self.forget(object);
                }
                let listed = std::mem::take(&mut self.listed).into_iter();
                let changed = listed.filter_map(|it| self.cache.get(&it)).map(|it| Guarded::clone(&it));
                return changed.inspect(|object| self.add(object)).collect();
            }
            Event::Apply(object) if self.is_change(&object) => {
                self.writer.apply_watcher_event(&Event::Apply(object.clone()));
                self.add(&object);
                return vec![object];
            }
            Event::Apply(_) | Event::InitApply(_) => {}
        }
        self.writer.apply_watcher_event(&event);
        Vec::new()
    }

    /// Returns true if work is due and the change needs a reconcile.
    ///
    /// Changes that a reconcile made or read itself do not. If the resource was final, a status
    /// that reverts to an older one does, such as after a restore of etcd.
    fn is_change(&self, object: &Guarded) -> bool {
        let known = self.cache.get(&ObjectRef::from_obj(object));
        is_due(object) && known.is_none_or(|known| triggers(&known) != triggers(object))
    }

    fn is_gone(&self, object: &Guarded) -> bool {
        self.cache.get(&ObjectRef::from_obj(object)).is_none_or(|it| it.uid() != object.uid())
    }

    fn add(&self, object: &Guarded) {
        self.shared.queue.add(&ObjectRef::from_obj(object), Instant::now());
    }

    fn forget(&self, object: &Guarded) {
        self.shared.context.forget(object);
        self.shared.queue.forget(&ObjectRef::from_obj(object));
    }
}

/// Returns true if work is due for a cached resource. Final resources are not enqueued, so restarts
/// and failovers do not reconcile everything.
pub(super) fn is_due(object: &Guarded) -> bool {
    object.0.as_ref().map_or(true, requeue::work_is_due)
}

/// Returns the properties of a resource whose change triggers a reconcile. A resource for which
/// work is due has a reconcile scheduled anyway.
fn triggers(object: &Guarded) -> impl PartialEq {
    let requested_at = object.annotations().get(REQUESTED_AT).cloned();
    (object.uid(), object.meta().generation, requested_at, object.0.is_ok(), is_due(object))
}

/// Removes large fields that are never read from the cache. A reconcile reads the resource again.
fn prune(object: &mut Guarded) {
    object.annotations_mut().remove(LAST_APPLIED);
    let status = object.0.as_mut().ok().and_then(|resource| resource.status.as_mut());
    for row in status.into_iter().flat_map(|status| &mut status.revisions) {
        row.arn = None;
        row.request_id = None;
    }
}
