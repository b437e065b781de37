//! Applies watch events to the cache, and selects the resources that need a reconcile.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::time::Instant;

use crate::{
    api::{
        REQUESTED_AT,
        task_definition_retention_policy::{POLICY_GENERATION, POLICY_LABEL},
    },
    controller::{Kind, Shared, guarded::Guarded},
};

/// An annotation that repeats the whole object. It is not cached, to save memory.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies `events` to the cache of `writer`, and enqueues the resources that need a reconcile.
/// Yields after each event.
pub(super) fn changes<K: Kind>(
    events: impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send + 'static,
    writer: Writer<Guarded<K>>,
    shared: Arc<Shared<K>>,
) -> impl Stream<Item = ()> + Send + 'static {
    let mut changes = Changes { cache: writer.as_reader(), writer, shared, listed: Vec::new() };
    events.modify(prune::<K>).map(move |event| match event {
        Ok(event) => changes.apply(event),
        Err(error) => {
            K::watch_failed(&error, &changes.shared.context);
            let (kind, error) = (K::kind(&()), &error as &dyn std::error::Error);
            tracing::warn!(
                %kind,
                error,
                "cannot watch the resources: is the CRD installed, and may the service account watch them?"
            );
        }
    })
}

struct Changes<K: Kind> {
    writer: Writer<Guarded<K>>,
    cache: Store<Guarded<K>>,
    shared: Arc<Shared<K>>,
    /// The resources of a list in progress that need a reconcile. They are cached once the list is
    /// complete.
    listed: Vec<ObjectRef<Guarded<K>>>,
}

impl<K: Kind> Changes<K> {
    fn apply(&mut self, event: Event<Guarded<K>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(ref object) if self.is_change(object) => {
                self.listed.push(ObjectRef::from_obj(object));
            }
            Event::InitApply(_) => {}
            Event::InitDone => {
                let before = self.cache.state();
                self.writer.apply_watcher_event(&event);
                return self.listed(&before);
            }
            Event::Apply(object) => {
                let before = self.cache.get(&ObjectRef::from_obj(&object));
                let is_change = self.is_change(&object);
                self.writer.apply_watcher_event(&Event::Apply(object.clone()));
                K::observed(before.as_deref(), Some(&object), &self.shared.context);
                if is_change {
                    self.add(&object);
                }
                return;
            }
            Event::Delete(object) => {
                self.writer.apply_watcher_event(&Event::Delete(object.clone()));
                self.forget(&object);
                return;
            }
        }
        self.writer.apply_watcher_event(&event);
    }

    /// Handles a complete list. `before` is the cache before it.
    fn listed(&mut self, before: &[Arc<Guarded<K>>]) {
        for object in before {
            let after = self.cache.get(&ObjectRef::from_obj(object.as_ref()));
            match after.filter(|after| after.uid() == object.uid()) {
                Some(after) => K::observed(Some(object), Some(&after), &self.shared.context),
                None => self.forget(object),
            }
        }
        for object in std::mem::take(&mut self.listed).iter().filter_map(|it| self.cache.get(it)) {
            K::observed(None, Some(&object), &self.shared.context);
            self.add(&object);
        }
    }

    /// Returns true if work is due and the change needs a reconcile.
    ///
    /// Changes that a reconcile made or read itself do not. If the resource was final, a status
    /// that reverts to an older one does, such as after a restore of etcd.
    fn is_change(&self, object: &Guarded<K>) -> bool {
        let known = self.cache.get(&ObjectRef::from_obj(object));
        is_due(object) && known.is_none_or(|known| triggers(&known) != triggers(object))
    }

    fn add(&self, object: &Guarded<K>) {
        self.shared.queue.add(&ObjectRef::from_obj(object), Instant::now());
    }

    fn forget(&self, object: &Guarded<K>) {
        K::observed(Some(object), None, &self.shared.context);
        self.shared.queue.forget(&ObjectRef::from_obj(object));
    }
}

/// Returns true if work is due for a cached resource. Final resources are not enqueued, so restarts
/// and failovers do not reconcile everything.
pub(super) fn is_due<K: Kind>(object: &Guarded<K>) -> bool {
    object.0.as_ref().map_or(true, K::work_is_due)
}

/// Returns the properties of a resource whose change triggers a reconcile. A resource for which
/// work is due has a reconcile scheduled anyway.
fn triggers<K: Kind>(object: &Guarded<K>) -> impl PartialEq + use<K> {
    let requested_at = object.annotations().get(REQUESTED_AT).cloned();
    let policy_generation = object.annotations().get(POLICY_GENERATION).cloned();
    let requests = (requested_at, policy_generation);
    (object.uid(), object.meta().generation, requests, object.0.is_ok(), is_due(object))
}

/// Removes metadata and large fields that are never read from the cache. A reconcile reads the
/// resource again.
fn prune<K: Kind>(object: &mut Guarded<K>) {
    object.annotations_mut().remove(LAST_APPLIED);
    object.labels_mut().retain(|key, _| key == POLICY_LABEL);
    if let Ok(resource) = &mut object.0 {
        K::prune(resource);
    }
}
