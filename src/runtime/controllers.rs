//! The controllers, one for each watched namespace: run, limit and measure reconciles.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use kube::{
    Api, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store, store},
        watcher,
    },
};
use tokio::{
    sync::{mpsc, watch::Receiver},
    time::Instant,
};
use tracing::Instrument;

use crate::{
    aws::rate_limiter::ResourceKey,
    retirement::{context::Context, guarded::Guarded, reconcile, requeue},
    runtime::{
        changes::{changes, is_due},
        metrics, resource_watch,
        workqueue::Queue,
    },
};

/// The resources of one watched namespace, or of all namespaces, as the watch last reported them.
pub type Cache = Store<Guarded>;

/// The state that the reconciles of all controllers share.
pub struct Shared {
    pub context: Arc<Context>,
    pub queue: Arc<Queue>,
}

/// Returns a controller for the resources of `api`, and its cache. It runs until `stop`, and then
/// until its reconciles have ended.
///
/// When this process becomes the leader (`terms`), all resources that are not final are enqueued.
/// `wakeups` enqueues resources that are woken: a permit is available, or their usage has changed.
pub fn controller(
    api: Api<Guarded>,
    concurrency: u16,
    shared: &Arc<Shared>,
    terms: Receiver<u64>,
    wakeups: mpsc::UnboundedReceiver<ResourceKey>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> (Cache, BoxFuture<'static, ()>) {
    let (reader, writer) = store();
    let changes = changes(resource_watch::events(api, reader.clone()), writer, shared.clone());
    let all = reader.clone();
    let due_on_leadership = each_change(terms).flat_map(move |()| {
        let due = all.state().into_iter().filter(|object| is_due(object));
        stream::iter(due.map(|object| ObjectRef::from_obj(object.as_ref())).collect::<Vec<_>>())
    });
    let (known, queue) = (reader.clone(), shared.clone());
    let woken = stream::unfold(wakeups, |mut wakeups| async { Some((wakeups.recv().await?, wakeups)) })
        .map(|ResourceKey { namespace, name }| ObjectRef::new(&name).within(&namespace))
        .filter(move |resource| std::future::ready(known.get(resource).is_some()));
    let requeued = stream::select(due_on_leadership, woken)
        .inspect(move |resource| queue.queue.add(resource, Instant::now()));
    let results = Controller::for_stream(changes, reader.clone())
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(requeued)
        .graceful_shutdown_on(stop)
        .run(run_reconcile, error_policy, shared.clone());
    let run = results.for_each(move |result| {
        log_result(result);
        std::future::ready(())
    });
    (reader, run.boxed())
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
async fn run_reconcile(object: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let reference = ObjectRef::from_obj(object.as_ref());
    let _work = shared.queue.start(&reference, Instant::now());
    let worker = metrics::Worker::begin();
    let uid = object.uid().unwrap_or_default();
    let resource = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let span = tracing::info_span!("retirement", resource);
    let (result, next) =
        match catch_panic(Box::pin(reconcile::reconcile(object, shared.context.clone()).instrument(span)))
            .await
        {
            Ok(Ok(None)) => (metrics::ReconcileResult::Success, None),
            Ok(Ok(Some(delay))) => (metrics::ReconcileResult::RequeueAfter, Some(delay)),
            Ok(Err(error)) => {
                let delay = reconcile::retry_after(&error, &uid);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(resource, error, "reconcile failed");
                (metrics::ReconcileResult::Error, Some(delay))
            }
            Err(message) => {
                tracing::error!(resource, message, "reconcile panicked, please report this bug");
                (metrics::ReconcileResult::Panic, Some(requeue::after_panic(&uid)))
            }
        };
    worker.end(result);
    let Some(delay) = next else { return Ok(Action::await_change()) };
    let due = Instant::now() + delay;
    match result {
        metrics::ReconcileResult::Error | metrics::ReconcileResult::Panic => {
            shared.queue.retry(&reference, due);
        }
        metrics::ReconcileResult::Success | metrics::ReconcileResult::RequeueAfter => {
            shared.queue.add(&reference, due);
        }
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
fn error_policy(_: Arc<Guarded>, error: &Infallible, _: Arc<Shared>) -> Action {
    match *error {}
}

type ControllerResult = Result<(ObjectRef<Guarded>, Action), controller::Error<Infallible, watcher::Error>>;

fn log_result(result: ControllerResult) {
    match result {
        Ok((resource, action)) => tracing::debug!(%resource, ?action, "reconcile done"),
        // Deleted while it was queued.
        Err(controller::Error::ObjectNotFound(_)) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "cannot watch TaskDefinitionRetirements: is the CRD installed, and may the service account watch it?"
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
