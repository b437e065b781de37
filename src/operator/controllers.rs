//! The controllers, one for each watched namespace: passes are bounded in number, measured, and survive a panic.

use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream};
use kube::{
    Api, ResourceExt,
    runtime::{
        Controller, Predicate, PredicateConfig, WatchStreamExt,
        controller::{self, Action},
        predicates,
        reflector::{ObjectRef, Store, reflector, store},
        watcher,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::Instrument;

use crate::{
    api::REQUESTED_AT,
    ecs::turns::Holder,
    operator::{metrics, queue::Queue},
    retirement::{
        guarded::Guarded,
        reconcile::{self, Context},
        retry,
    },
};

/// The resources of one watched namespace, or of all, as the watch last told.
pub type Cache = Store<Guarded>;

/// An annotation that repeats the whole object, and is not worth the memory.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// For how many seconds the API server serves one watch before it is to be asked for another: no call pends for ever.
const WATCH_SECONDS: u32 = 25;

/// How many resources the API server lists at once: the text of a page stays in memory while it is read.
const PAGE: u32 = 250;

/// What the passes of all controllers share.
pub struct Shared {
    pub context: Arc<Context>,
    pub queue: Queue,
}

/// A controller for the resources of `api`, and its cache. It runs until `stop`, and then until its passes have ended;
/// each new term of leadership looks at every resource that is not settled, and each call at the resource whose turn has come.
pub fn controller(
    api: Api<Guarded>,
    concurrency: u16,
    shared: &Arc<Shared>,
    terms: watch::Receiver<u64>,
    calls: mpsc::UnboundedReceiver<Holder>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> (Cache, BoxFuture<'static, ()>) {
    let (reader, writer) = store();
    let objects = watcher::watcher(api, watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE))
        .default_backoff();
    let queue = shared.clone();
    let forget = shared.clone();
    let changes = reflector(writer, objects.modify(slim))
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(object) = event {
                forget.context.forget(object);
                forget.queue.forget(&ObjectRef::from_obj(object));
            }
        })
        .applied_objects()
        .try_filter(|object| std::future::ready(is_due(object)))
        .predicate_filter(predicates::generation.combine(requested_at), PredicateConfig::default())
        .inspect_ok(move |object| queue.queue.add(&ObjectRef::from_obj(object), Instant::now()));
    let all = reader.clone();
    let due_in_new_terms = each_change(terms).flat_map(move |()| {
        let due = all.state().into_iter().filter(|object| is_due(object));
        stream::iter(due.map(|object| ObjectRef::from_obj(object.as_ref())).collect::<Vec<_>>())
    });
    let (known, queue) = (reader.clone(), shared.clone());
    let called = stream::unfold(calls, |mut calls| async { Some((calls.recv().await?, calls)) })
        .map(|Holder { namespace, name }| ObjectRef::new(&name).within(&namespace))
        .filter(move |resource| std::future::ready(known.get(resource).is_some()));
    let chosen = stream::select(due_in_new_terms, called)
        .inspect(move |resource| queue.queue.add(resource, Instant::now()));
    let results = Controller::for_stream(changes, reader.clone())
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(chosen)
        .graceful_shutdown_on(stop)
        .run(pass, error_policy, shared.clone());
    let run = results.for_each(move |result| {
        note(result);
        std::future::ready(())
    });
    (reader, run.boxed())
}

/// An item for each change of the value, and none for the value there is.
fn each_change(receiver: watch::Receiver<u64>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}

/// Whether a pass over a resource could do anything, as the watch last told. What is settled is not even queued: neither at a
/// restart nor in a new term do ten thousand of them cost a pass each.
fn is_due(object: &Guarded) -> bool {
    object.0.as_ref().map_or(true, retry::work_is_due)
}

/// Drops what would take most of the memory and is never read here: a pass reads the resource anew, and the cache tells no more than
/// where it stands.
fn slim(object: &mut Guarded) {
    object.annotations_mut().remove(LAST_APPLIED);
    let status = object.0.as_mut().ok().and_then(|resource| resource.status.as_mut());
    for row in status.into_iter().flat_map(|status| &mut status.revisions) {
        row.arn = None;
        row.request_id = None;
    }
}

/// A look asked for by annotation wakes a resource, as a change of its spec does; a write of its status does not.
#[expect(clippy::unnecessary_wraps, reason = "a predicate may have nothing to say")]
fn requested_at(object: &Guarded) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    object.annotations().get(REQUESTED_AT).hash(&mut hasher);
    Some(hasher.finish())
}

/// One pass, unless another process leads; a panic ends it, and nothing else.
async fn pass(object: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let reference = ObjectRef::from_obj(object.as_ref());
    shared.queue.start(&reference, Instant::now());
    let worker = metrics::Worker::begin();
    let uid = object.uid().unwrap_or_default();
    let resource = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let span = tracing::info_span!("retirement", resource);
    let (result, next) = match survive(Box::pin(
        reconcile::reconcile(object, shared.context.clone()).instrument(span),
    ))
    .await
    {
        Ok(Ok(None)) => (metrics::PassResult::Success, None),
        Ok(Ok(Some(delay))) => (metrics::PassResult::RequeueAfter, Some(delay)),
        Ok(Err(error)) => {
            let delay = reconcile::retry_after(&error, &uid);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(resource, error, "pass failed");
            (metrics::PassResult::Error, Some(delay))
        }
        Err(message) => {
            tracing::error!(resource, message, "a pass panicked: please report this defect");
            (metrics::PassResult::Panic, Some(retry::after_panic(&uid)))
        }
    };
    worker.end(result);
    let Some(delay) = next else { return Ok(Action::await_change()) };
    shared.queue.add(&reference, Instant::now() + delay);
    Ok(Action::requeue(delay))
}

/// The message of a panic is an `Err`.
async fn survive<T>(pass: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(pass).catch_unwind().await.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// Never called, since a pass turns what fails into when to try again.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the controller passes errors so")]
fn error_policy(_: Arc<Guarded>, error: &Infallible, _: Arc<Shared>) -> Action {
    match *error {}
}

type PassResult = Result<(ObjectRef<Guarded>, Action), controller::Error<Infallible, watcher::Error>>;

fn note(result: PassResult) {
    match result {
        Ok((resource, action)) => tracing::debug!(%resource, ?action, "pass done"),
        // Deleted while it waited for its turn.
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
    async fn a_panic_is_caught_and_told() {
        let number = 7;
        assert_eq!(
            survive(async { panic!("no such thing") }).await,
            Err::<(), _>("no such thing".to_owned())
        );
        assert_eq!(survive(async { panic!("{number} of them") }).await, Err::<(), _>("7 of them".to_owned()));
        assert_eq!(survive(async { number }).await, Ok(7));
    }
}
