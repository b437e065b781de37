//! Process wiring: clients, leader election, metrics, health probes, startup and shutdown.

mod health;
mod kubeconfig;
pub mod kubernetes;
mod leader_election;
pub mod http_server;
mod metrics;
mod policy_metrics;
#[cfg(target_os = "linux")]
mod process;
pub mod replica;
pub mod telemetry;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{
    http_server::BindAddress,
    replica::{Dependencies, Replica},
};
use crate::{CONTROLLER, aws::credentials, aws::permit_queue::Pacing, shutdown::Shutdown};

/// The rate at which ECS allows registrations and deregistrations together, per second, in one
/// account and region.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const ECS_PER_SECOND: f64 = 1.0;

/// The options of the `run` command.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces to watch; all if empty.
    pub namespaces: BTreeSet<String>,
    /// The AWS accounts whose credentials may be used; all if empty.
    pub allowed_accounts: BTreeSet<String>,
    /// The EcsAccounts to serve, by `spec.controllerName`; `None` if EcsAccounts are not served.
    pub controller_name: Option<String>,
    /// True if policies are served.
    pub serves_policies: bool,
    /// True if resources without an EcsAccount use the ambient credentials.
    pub allows_ambient: bool,
    /// Maximum number of concurrent reconciles.
    pub concurrency: u16,
    /// Rate limit for deregistrations in each account and region.
    pub pacing: Pacing,
    /// The lease for leader election; `None` if this process is the only replica.
    pub election: Option<Election>,
    pub metrics: BindAddress,
    pub health_probes: BindAddress,
}

/// The lease for leader election.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the lease; `None`: the namespace of the process.
    pub namespace: Option<String>,
    /// The name of the lease.
    pub id: String,
}

/// An error that prevents the process from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach Kubernetes: {0}")]
    Kubernetes(String),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot serve {flag} {address}: {error}")]
    Listen { flag: &'static str, address: BindAddress, error: std::io::Error },
    #[error(transparent)]
    HttpClient(#[from] crate::aws::http_client::Error),
    #[error("cannot start the metrics recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Runs a replica until SIGTERM or SIGINT, which may also arrive during startup. Then it abandons
/// reads, waits for irreversible calls in flight, records their responses, and releases the lease.
///
/// # Errors
/// Returns an error if the process cannot start.
pub async fn run(options: Options) -> Result<(), Error> {
    let requested = shutdown_requested()?;
    let started = Shutdown::new(requested.clone()).abandon(start(&options, requested)).await;
    if let Some(replica) = started.transpose()? {
        replica.run().await;
    }
    Ok(())
}

/// Creates a replica with clients for Kubernetes and AWS, and serves its probes and metrics.
async fn start(options: &Options, stop: watch::Receiver<bool>) -> Result<Replica, Error> {
    let recorder = metrics::start()?;
    let config = kubeconfig::config()?;
    let own_namespace = config.default_namespace.clone();
    let client = kubernetes::client(config)?;
    let instance = ["POD_NAME", "HOSTNAME"].iter().find_map(|name| std::env::var(name).ok());
    let instance = instance.unwrap_or_else(|| CONTROLLER.to_owned());
    let identity = format!("{instance}_{:016x}", RandomState::new().hash_one(std::process::id()));
    let (aws, clock) = (credentials::environment().await?, Arc::new(Timestamp::now));
    if options.pacing.per_second > ECS_PER_SECOND {
        tracing::warn!(
            "--deregistrations-per-second {} exceeds the ECS default quota of {ECS_PER_SECOND} per second for an account and region, deployments included",
            options.pacing.per_second
        );
    }
    let region = aws.region().map(AsRef::as_ref);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), region, "started");

    let dependencies = Dependencies { client, own_namespace, aws, clock, instance, identity, stop };
    let replica = Replica::new(options, dependencies);
    let probes = health::router(replica.caches.clone(), replica.retirements.context.clone());
    serve("--health-probe-bind-address", options.health_probes, probes).await?;
    let metrics = metrics::router(recorder, options.concurrency, &replica);
    serve("--metrics-bind-address", options.metrics, metrics).await?;
    Ok(replica)
}

/// Returns a channel that becomes `true` at SIGTERM or SIGINT.
fn shutdown_requested() -> Result<watch::Receiver<bool>, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

async fn serve(flag: &'static str, address: BindAddress, router: axum::Router) -> Result<(), Error> {
    http_server::serve(address, router).await.map_err(|error| Error::Listen { flag, address, error })
}
