//! Controllers, generic over the kind: watch, limit, run and measure reconciles.

pub mod changes;
pub mod conditions;
pub mod delay;
pub mod guarded;
pub mod metrics;
pub mod resource_watch;
pub mod status_patch;
pub mod workqueue;

use std::{fmt::Debug, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use kube::{
    Api, Resource, ResourceExt,
    core::object::{HasSpec, HasStatus},
    runtime::{
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use self::{
    changes::{changes, is_due},
    guarded::Guarded,
    metrics::{ReconcileResult, Worker},
    workqueue::{Queue, Work},
};

/// The resources of one kind in one watched namespace, or of all namespaces, as the watch last
/// reported them.
pub type Cache<K> = Store<Guarded<K>>;

/// A kind that is reconciled.
pub trait Kind:
    Resource<DynamicType = ()>
    + HasSpec<Spec: DeserializeOwned>
    + HasStatus<Status: DeserializeOwned>
    + Clone
    + Debug
    + Default
    + Send
    + Sync
    + 'static
{
    /// State shared by all reconciles of the kind.
    type Context: Send + Sync + 'static;

    /// The value of the labels `controller` and `name`, which controller-runtime derives from the
    /// kind.
    const CONTROLLER: &'static str;

    /// Returns true if the resource needs a reconcile, by what the cache has of it.
    fn work_is_due(resource: &Self) -> bool;

    /// Removes large fields that are never read from the cache.
    fn prune(_: &mut Self) {}

    /// Reconciles one resource. Returns the requeue delay, or `None` to wait for a change.
    fn reconcile(
        object: Arc<Guarded<Self>>,
        context: Arc<Self::Context>,
    ) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;

    /// Handles a change that is in the cache already. `after` is `None` if the resource was
    /// deleted.
    fn observed(_before: Option<&Guarded<Self>>, _after: Option<&Guarded<Self>>, _: &Self::Context) {}

    /// Handles a failure of the watch.
    fn watch_failed(_: &watcher::Error, _: &Self::Context) {}
}

/// A failed Kubernetes call. Failures of AWS calls are outcomes, not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource")]
    ReadResource(#[source] kube::Error),
    #[error("cannot write the status")]
    PatchStatus(#[source] kube::Error),
    #[error("cannot write a retirement")]
    Write(#[source] kube::Error),
}

/// The state that the reconciles of all controllers of a kind share.
pub struct Shared<K: Kind> {
    pub context: Arc<K::Context>,
    pub queue: Arc<Queue<K>>,
}

impl<K: Kind> Shared<K> {
    #[must_use]
    pub fn new(context: Arc<K::Context>) -> Arc<Self> {
        Arc::new(Self { context, queue: Arc::default() })
    }
}

/// What a controller watches: the resources of one namespace, or of all namespaces, and where they
/// are cached.
pub type Watched<K> = (Api<Guarded<K>>, (Cache<K>, Writer<Guarded<K>>));

/// Returns a controller for the resources of a kind. It runs until `stop`, and then until its
/// reconciles have ended. At most `concurrency` reconciles run at the same time.
///
/// When this process becomes the leader (`terms`), all resources that are not final are enqueued,
/// and so are the resources of `woken`.
pub fn controller<K: Kind>(
    watched: Vec<Watched<K>>,
    concurrency: u16,
    shared: &Arc<Shared<K>>,
    terms: Receiver<u64>,
    woken: impl Stream<Item = ObjectRef<Guarded<K>>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, ()> {
    let caches: Vec<Cache<K>> = watched.iter().map(|(_, (cache, _))| cache.clone()).collect();
    let changes = watched.into_iter().map(|(api, (cache, writer))| {
        changes(resource_watch::events(api, cache), writer, shared.clone()).boxed()
    });
    let (all, queue) = (caches.clone(), shared.queue.clone());
    let leading = each_change(terms).map(move |()| {
        let due = all.iter().flat_map(Cache::state).filter(|object| is_due(object));
        due.for_each(|object| queue.add(&ObjectRef::from_obj(object.as_ref()), Instant::now()));
    });
    let (known, queue) = (caches.clone(), shared.queue.clone());
    let woken = woken.map(move |resource| {
        if known.iter().any(|cache| cache.get(&resource).is_some()) {
            queue.add(&resource, Instant::now());
        }
    });
    let inputs = stream::select(stream::select_all(changes), stream::select(leading, woken));
    run((caches, usize::from(concurrency)), shared.clone(), inputs, stop).boxed()
}

/// Reconciles the resources of the queue in its order until `stop`. The items of `inputs` report
/// that resources may have been enqueued.
async fn run<K: Kind>(
    (caches, concurrency): (Vec<Cache<K>>, usize),
    shared: Arc<Shared<K>>,
    inputs: impl Stream<Item = ()> + Send,
    stop: impl Future<Output = ()> + Send,
) {
    let (mut inputs, mut stop, mut is_stopping) = (pin!(inputs), pin!(stop), false);
    let mut running = FuturesUnordered::new();
    loop {
        while !is_stopping
            && running.len() < concurrency
            && let Some(work) = shared.queue.start(Instant::now())
        {
            // A resource that was deleted is not cached any more.
            if let Some(object) = caches.iter().find_map(|cache| cache.get(&work.resource)) {
                running.push(run_reconcile(object, work, shared.clone()));
            }
        }
        if is_stopping && running.is_empty() {
            return;
        }
        let due = shared.queue.next_due().filter(|_| !is_stopping && running.len() < concurrency);
        tokio::select! {
            biased;
            () = &mut stop, if !is_stopping => is_stopping = true,
            Some(()) = running.next() => {}
            Some(()) = inputs.next() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// Returns a stream with one item for each change of the value, and none for the current value.
fn each_change(receiver: Receiver<u64>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}

/// Reconciles one resource and schedules its next reconcile. A panic is caught and ends only this
/// reconcile.
async fn run_reconcile<K: Kind>(object: Arc<Guarded<K>>, work: Work<K>, shared: Arc<Shared<K>>) {
    let worker = Worker::begin(K::CONTROLLER);
    let uid = object.uid().unwrap_or_default();
    let (namespace, name) = (object.namespace(), object.name_any());
    let span = tracing::info_span!("reconcile", kind = %K::kind(&()), namespace, name);
    let reconcile = Box::pin(K::reconcile(object, shared.context.clone()).instrument(span.clone()));
    let caught = catch_panic(reconcile).await;
    let (result, next) = span.in_scope(|| match caught {
        Ok(Ok(None)) => (ReconcileResult::Success, None),
        Ok(Ok(Some(delay))) => (ReconcileResult::RequeueAfter, Some(delay)),
        Ok(Err(error)) => {
            let delay = delay::after_error(&error, &uid);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "reconcile failed");
            (ReconcileResult::Error, Some(delay))
        }
        Err(message) => {
            tracing::error!(message, "reconcile panicked, please report this bug");
            (ReconcileResult::Panic, Some(delay::after_panic(&uid)))
        }
    });
    worker.end(result);
    let Some(delay) = next else { return };
    let due = Instant::now() + delay;
    match result {
        ReconcileResult::Error | ReconcileResult::Panic => shared.queue.retry(&work.resource, due),
        ReconcileResult::Success | ReconcileResult::RequeueAfter => shared.queue.add(&work.resource, due),
    }
}

/// Runs a reconcile.
///
/// # Errors
/// Returns the panic message if it panics.
async fn catch_panic<T>(reconcile: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(reconcile).catch_unwind().await.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_is_caught_and_its_message_returned() {
        let number = 7;
        assert_eq!(
            catch_panic(async { panic!("no such thing") }).await,
            Err::<(), _>("no such thing".to_owned())
        );
        assert_eq!(
            catch_panic(async { panic!("{number} of them") }).await,
            Err::<(), _>("7 of them".to_owned())
        );
        assert_eq!(catch_panic(async { number }).await, Ok(7));
    }
}
