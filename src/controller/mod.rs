//! Controllers, generic over the kind: watch, limit, run and measure reconciles.

pub mod changes;
pub mod delay;
pub mod guarded;
pub mod metrics;
pub mod resource_watch;
pub mod status_patch;
pub mod workqueue;

use std::{convert::Infallible, fmt::Debug, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use kube::{
    Api, Resource, ResourceExt,
    core::object::{HasSpec, HasStatus},
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch::Receiver, time::Instant};
use tracing::Instrument;

use self::{
    changes::{changes, is_due},
    guarded::Guarded,
    metrics::{ReconcileResult, Worker},
    workqueue::Queue,
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
    fn prune(resource: &mut Self);

    /// Reconciles one resource. Returns the requeue delay, or `None` to wait for a change.
    fn reconcile(
        object: Arc<Guarded<Self>>,
        context: Arc<Self::Context>,
    ) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;

    /// Handles a change that is in the cache already. `after` is `None` if the resource was deleted.
    fn observed(before: Option<&Guarded<Self>>, after: Option<&Guarded<Self>>, context: &Self::Context);

    /// Handles a failure of the watch.
    fn watch_failed(error: &watcher::Error, context: &Self::Context);
}

/// A failed Kubernetes call. Failures of AWS calls are outcomes, not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resource")]
    ReadResource(#[source] kube::Error),
    #[error("cannot write the status")]
    PatchStatus(#[source] kube::Error),
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

/// Returns a controller for the resources of `api`. It runs until `stop`, and then until its
/// reconciles have ended. `cache` receives the resources.
///
/// When this process becomes the leader (`terms`), all resources that are not final are enqueued,
/// and so are the resources of `woken`.
pub fn controller<K: Kind>(
    (api, concurrency): (Api<Guarded<K>>, u16),
    (cache, writer): (Cache<K>, Writer<Guarded<K>>),
    shared: &Arc<Shared<K>>,
    terms: Receiver<u64>,
    woken: impl Stream<Item = ObjectRef<Guarded<K>>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> BoxFuture<'static, ()> {
    let changes = changes(resource_watch::events(api, cache.clone()), writer, shared.clone());
    let all = cache.clone();
    let due_on_leadership = each_change(terms).flat_map(move |()| {
        let due = all.state().into_iter().filter(|object| is_due(object));
        stream::iter(due.map(|object| ObjectRef::from_obj(object.as_ref())).collect::<Vec<_>>())
    });
    let (known, queue) = (cache.clone(), shared.clone());
    let woken = woken.filter(move |resource| std::future::ready(known.get(resource).is_some()));
    let requeued = stream::select(due_on_leadership, woken)
        .inspect(move |resource| queue.queue.add(resource, Instant::now()));
    let results = Controller::for_stream(changes, cache)
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(requeued)
        .graceful_shutdown_on(stop)
        .run(run_reconcile, error_policy, shared.clone());
    let run = results.for_each(move |result| {
        log_result(result);
        std::future::ready(())
    });
    run.boxed()
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
async fn run_reconcile<K: Kind>(
    object: Arc<Guarded<K>>,
    shared: Arc<Shared<K>>,
) -> Result<Action, Infallible> {
    let reference = ObjectRef::from_obj(object.as_ref());
    let _work = shared.queue.start(&reference, Instant::now());
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
    let Some(delay) = next else { return Ok(Action::await_change()) };
    let due = Instant::now() + delay;
    match result {
        ReconcileResult::Error | ReconcileResult::Panic => shared.queue.retry(&reference, due),
        ReconcileResult::Success | ReconcileResult::RequeueAfter => shared.queue.add(&reference, due),
    }
    Ok(Action::requeue(delay))
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

/// Never called: [`run_reconcile`] converts every failure into a requeue delay.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the controller passes errors so")]
fn error_policy<K: Kind>(_: Arc<Guarded<K>>, error: &Infallible, _: Arc<Shared<K>>) -> Action {
    match *error {}
}

type ControllerResult<K> =
    Result<(ObjectRef<Guarded<K>>, Action), controller::Error<Infallible, watcher::Error>>;

fn log_result<K: Kind>(result: ControllerResult<K>) {
    match result {
        Ok((resource, action)) => tracing::debug!(%resource, ?action, "reconcile done"),
        // Deleted while it was queued.
        Err(controller::Error::ObjectNotFound(_)) => {}
        Err(error) => {
            let (kind, error) = (K::kind(&()), &error as &dyn std::error::Error);
            tracing::warn!(
                %kind,
                error,
                "cannot watch the resources: is the CRD installed, and may the service account watch them?"
            );
        }
    }
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
