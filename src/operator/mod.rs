//! The process round the controllers: its clients, its log, its beginning and its end.

mod kubernetes;
pub mod telemetry;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use futures::{FutureExt, StreamExt, stream::SelectAll};
use kube::{
    Api, ResourceExt,
    core::DeserializeGuard,
    runtime::{Controller, Predicate, WatchStreamExt, controller, predicates, reflector, watcher},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    CONTROLLER,
    account::session::Account,
    api::{REQUESTED_AT, TaskDefinitionRetirement},
    retirement::{
        claims::Claims,
        reconcile::{Context, error_policy, reconcile},
        unwritten::Unwritten,
    },
};

/// An annotation that repeats the whole object, and is not worth the memory.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the command line says of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces to watch; all of them where empty.
    pub namespaces: BTreeSet<String>,
    /// How many resources are worked on at once.
    pub concurrency: u16,
}

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach Kubernetes: {0}")]
    Kubernetes(String),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the controllers until SIGTERM or SIGINT.
///
/// # Errors
/// Where the process cannot start.
pub async fn run(options: Options) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    }
    .shared();
    let client = kubernetes::client().await?;
    let context = Arc::new(Context {
        client: client.clone(),
        account: Account::from_environment().await,
        claims: Claims::default(),
        unwritten: Unwritten::default(),
        instance: std::env::var("POD_NAME")
            .or_else(|_| std::env::var("HOSTNAME"))
            .unwrap_or_else(|_| CONTROLLER.to_owned()),
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), region = context.account.default_region(), "started");

    let apis: Vec<Api<_>> = match options.namespaces.is_empty() {
        true => vec![Api::all(client)],
        false => options.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    };
    let mut results: SelectAll<_> = apis
        .into_iter()
        .map(|api| {
            let (reader, writer) = reflector::store();
            let objects = watcher(api, watcher::Config::default()).default_backoff().modify(slim);
            let changes = reflector(writer, objects)
                .applied_objects()
                .predicate_filter(predicates::generation.combine(requested_at), Default::default());
            Controller::for_stream(changes, reader)
                .with_config(controller::Config::default().concurrency(options.concurrency))
                .graceful_shutdown_on(stop.clone())
                .run(reconcile, error_policy, context.clone())
                .boxed()
        })
        .collect();
    while let Some(result) = results.next().await {
        if let Err(controller::Error::ObjectNotFound(resource)) = &result {
            // Deleted while it waited for its turn.
            resource.extra.uid.iter().for_each(|uid| context.unwritten.forget(uid));
        } else {
            log(result);
        }
    }
    Ok(())
}

/// Drops what is never read and would triple the memory.
fn slim(object: &mut DeserializeGuard<TaskDefinitionRetirement>) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
}

/// A look asked for by annotation wakes a resource, as a change of its spec does; a write of its status does not.
fn requested_at(object: &DeserializeGuard<TaskDefinitionRetirement>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    object.annotations().get(REQUESTED_AT).hash(&mut hasher);
    Some(hasher.finish())
}

type PassResult = Result<
    (reflector::ObjectRef<DeserializeGuard<TaskDefinitionRetirement>>, controller::Action),
    controller::Error<crate::retirement::reconcile::Error, watcher::Error>,
>;

fn log(result: PassResult) {
    match result {
        Ok((resource, action)) => tracing::debug!(%resource, ?action, "pass done"),
        Err(controller::Error::ReconcilerFailed(error, resource)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%resource, error, "pass failed");
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "cannot watch TaskDefinitionRetirements: is the CRD installed, and may the service account watch it?"
            );
        }
    }
}
