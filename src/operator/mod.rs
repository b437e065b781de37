//! The process round the controllers: its clients, its part in the election, what it serves, its beginning and its end.

mod controllers;
mod health;
mod kubernetes;
mod leader;
pub mod listen;
mod metrics;
mod queue;
pub mod telemetry;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use kube::Api;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    controllers::Shared,
    leader::{Elector, Leadership},
    listen::BindAddress,
    queue::Queue,
};
use crate::{
    CONTROLLER,
    account::session::Account,
    ecs::{
        pacer::Pacing,
        turns::{Holder, Waker},
    },
    retirement::{claims::Claims, reconcile::Context, unwritten::Unwritten},
};

/// How long passes may take to end once the process is told to stop: a call to AWS that is never answered ends before.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// What ECS gives an account and region, to deregister and to register.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const ECS_PER_SECOND: f64 = 1.0;

/// What the command line says of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces to watch; all of them where empty.
    pub namespaces: BTreeSet<String>,
    /// How many resources are worked on at once.
    pub concurrency: u16,
    /// How fast revisions may be deregistered in each account and region.
    pub pacing: Pacing,
    /// The lease to elect a leader by; `None` where this process is the only one.
    pub election: Option<Election>,
    pub metrics: BindAddress,
    pub health_probes: BindAddress,
}

/// The lease to elect a leader by.
#[derive(Clone, Debug)]
pub struct Election {
    /// The lease's namespace; the process's own where `None`.
    pub namespace: Option<String>,
    /// The lease's name.
    pub id: String,
}

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach Kubernetes: {0}")]
    Kubernetes(String),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot serve {flag} {address}: {error}")]
    Listen { flag: &'static str, address: BindAddress, error: std::io::Error },
    #[error("cannot keep metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Runs the controllers until SIGTERM or SIGINT; then no work is begun, what AWS has been asked is written down, and the
/// lease is given up.
///
/// # Errors
/// Where the process cannot start.
pub async fn run(options: Options) -> Result<(), Error> {
    let stopping = Arc::new(AtomicBool::new(false));
    let stop = told_to_stop(stopping.clone())?.shared();
    let recorder = metrics::start()?;
    let config = kubernetes::config().await?;
    let own_namespace = config.default_namespace.clone();
    let client = kubernetes::client(config)?;
    let instance = ["POD_NAME", "HOSTNAME"].iter().find_map(|name| std::env::var(name).ok());
    let instance = instance.unwrap_or_else(|| CONTROLLER.to_owned());

    let leadership =
        Arc::new(if options.election.is_some() { Leadership::none() } else { Leadership::sole() });
    let may_act = {
        let (leadership, stopping) = (leadership.clone(), stopping.clone());
        Arc::new(move || leadership.is_held() && !stopping.load(Ordering::Relaxed))
    };
    let (callers, calls): (Vec<_>, Vec<_>) =
        (0..options.namespaces.len().max(1)).map(|_| mpsc::unbounded_channel::<Holder>()).unzip();
    // Each controller knows which resources are its own; one that has ended takes no calls.
    let wake = move |holder: &Holder| callers.iter().for_each(|caller| drop(caller.send(holder.clone())));
    let context = Arc::new(Context {
        client: client.clone(),
        account: Account::from_environment(options.pacing, Waker(Arc::new(wake)), may_act.clone()).await,
        claims: Claims::default(),
        unwritten: Unwritten::default(),
        instance: instance.clone(),
        may_act,
    });
    if options.pacing.per_second > ECS_PER_SECOND {
        tracing::warn!(
            "--deregistrations-per-second {} is more than the {ECS_PER_SECOND} that ECS gives an account and region, deploys included, unless the quota was raised",
            options.pacing.per_second
        );
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), region = context.account.default_region(), "started");

    let shared = Arc::new(Shared { context: context.clone(), queue: Queue::default() });
    let apis: Vec<Api<_>> = if options.namespaces.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        options.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect()
    };
    let concurrency = options.concurrency;
    let (caches, controllers): (Vec<_>, Vec<_>) = apis
        .into_iter()
        .zip(calls)
        .map(|(api, calls)| {
            controllers::controller(api, concurrency, &shared, leadership.terms(), calls, stop.clone())
        })
        .unzip();

    let probes = health::router(caches.clone(), context);
    serve("--health-probe-bind-address", options.health_probes, probes).await?;
    let metrics = metrics::router(recorder, concurrency, caches, shared, leadership.clone());
    serve("--metrics-bind-address", options.metrics, metrics).await?;

    let work = async {
        let ended = join_all(controllers);
        tokio::pin!(ended);
        tokio::select! {
            _ = &mut ended => {}
            () = stop.clone() => {
                if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
                    tracing::warn!("passes are still under way, and are left");
                }
            }
        }
    };
    let Some(election) = options.election else {
        work.await;
        return Ok(());
    };
    let leases = Api::namespaced(client, &election.namespace.unwrap_or(own_namespace));
    let identity = format!("{instance}_{:016x}", RandomState::new().hash_one(std::process::id()));
    let mut elector = Elector::new(leases, election.id, identity, leadership);
    tokio::select! {
        () = elector.run() => {}
        () = work => {}
    }
    elector.release().await;
    Ok(())
}

/// Resolves at SIGTERM or SIGINT, and tells the passes.
fn told_to_stop(stopping: Arc<AtomicBool>) -> Result<impl Future<Output = ()> + Send + Sync, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.store(true, Ordering::Relaxed);
        tracing::info!("stopping");
    })
}

async fn serve(flag: &'static str, address: BindAddress, router: axum::Router) -> Result<(), Error> {
    listen::serve(address, router).await.map_err(|error| Error::Listen { flag, address, error })
}
