//! What the events of the watch change: the cache, and which resources need a reconcile.

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

/// An annotation that repeats the whole object, and is not worth the memory.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Keeps the cache of `writer` as `events` report, and returns the resources that need a reconcile.
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
    /// The resources of a list under way that need a reconcile. The cache has them once the list is complete.
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

    /// Returns true if a reconcile could do anything, and the change is not one that the last reconcile made or saw: a status that
    /// goes back to an older one, as after a restore of etcd, is such a change once the resource is final.
    fn is_change(&self, object: &Guarded) -> bool {
        let known = self.cache.get(&ObjectRef::from_obj(object));
        is_due(object) && known.is_none_or(|known| cause(&known) != cause(object))
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

/// Returns true if a reconcile could do anything, as far as the cache knows. Resources that are final are not even queued: neither
/// at a restart nor in a new term do ten thousand of them cost a reconcile each.
pub(super) fn is_due(object: &Guarded) -> bool {
    object.0.as_ref().map_or(true, requeue::work_is_due)
}

/// What calls for a reconcile when it changes. While a resource is due it has one coming already.
fn cause(object: &Guarded) -> impl PartialEq {
    let requested_at = object.annotations().get(REQUESTED_AT).cloned();
    (object.uid(), object.meta().generation, requested_at, object.0.is_ok(), is_due(object))
}

/// Drops what would take most of the memory and is never read from the cache: a reconcile reads the resource anew.
fn prune(object: &mut Guarded) {
    object.annotations_mut().remove(LAST_APPLIED);
    let status = object.0.as_mut().ok().and_then(|resource| resource.status.as_mut());
    for row in status.into_iter().flat_map(|status| &mut status.revisions) {
        row.arn = None;
        row.request_id = None;
    }
}
