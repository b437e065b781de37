//! One replica: its controllers and its leader elector.
//!
//! All dependencies are injected. It does not read the environment, handle signals or open sockets.

use std::sync::Arc;

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    aws::rate_limiter::{RequeueTrigger, ResourceKey},
    aws::{SdkConfig, source::Sources},
    clock::Clock,
    retirement::{
        context::{Context, Waiters},
        events::Recent,
        pending_status::PendingStatus,
        revision_locks::RevisionLocks,
    },
    runtime::{
        Options,
        controllers::{self, Cache, Shared},
        leader_election::{LeaderElector, Leadership},
        workqueue::Queue,
    },
    shutdown::Shutdown,
};

/// Dependencies and names of a replica.
pub struct Dependencies {
    pub client: Client,
    /// The namespace of the lease if the options name none.
    pub own_namespace: String,
    pub aws: SdkConfig,
    pub clock: Clock,
    /// The name of the replica in events, such as the name of its pod.
    pub instance: String,
    /// The identity of the replica in the lease. It is unique for each process.
    pub identity: String,
    /// Becomes `true` when shutdown is requested.
    pub stop: watch::Receiver<bool>,
}

/// A replica that does not run yet.
pub struct Replica {
    pub(super) shared: Arc<Shared>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) caches: Vec<Cache>,
    controllers: Vec<BoxFuture<'static, ()>>,
    elector: Option<LeaderElector>,
    shutdown: Shutdown,
}

impl Replica {
    #[must_use]
    pub fn new(options: &Options, dependencies: Dependencies) -> Self {
        let Dependencies { client, own_namespace, aws, clock, instance, identity, stop } = dependencies;
        let leadership =
            Arc::new(if options.election.is_some() { Leadership::none() } else { Leadership::sole() });
        let shutdown = Shutdown::new(stop);
        let is_active = {
            let (leadership, shutdown) = (leadership.clone(), shutdown.clone());
            Arc::new(move || leadership.is_held() && !shutdown.is_requested())
        };
        let (wakers, wakeups): (Vec<_>, Vec<_>) =
            (0..options.namespaces.len().max(1)).map(|_| mpsc::unbounded_channel::<ResourceKey>()).unzip();
        // Each controller ignores the resources of other namespaces. Sending to one that has ended
        // fails.
        let wake = move |key: &ResourceKey| wakers.iter().for_each(|waker| drop(waker.send(key.clone())));
        let requeue_trigger = RequeueTrigger(Arc::new(wake));
        let context = Arc::new(Context {
            client: client.clone(),
            sources: Sources::new(&aws, options.pacing, requeue_trigger, is_active.clone(), clock.clone()),
            allowed_accounts: options.allowed_accounts.clone(),
            revision_locks: RevisionLocks::default(),
            pending_status: PendingStatus::default(),
            recent_events: Recent::default(),
            instance,
            is_active,
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            waiters: Waiters::default(),
            aws_concurrency: Semaphore::new(aws_concurrency(options.concurrency)),
        });
        let shared = Arc::new(Shared { context, queue: Arc::new(Queue::default()) });
        let apis: Vec<Api<_>> = if options.namespaces.is_empty() {
            vec![Api::all(client.clone())]
        } else {
            options.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect()
        };
        let controller = |(api, wakeups)| {
            let shutdown = shutdown.clone();
            let stop = async move { shutdown.requested().await }.shared();
            controllers::controller(api, options.concurrency, &shared, leadership.terms(), wakeups, stop)
        };
        let (caches, controllers) = apis.into_iter().zip(wakeups).map(controller).unzip();
        let elector = options.election.as_ref().map(|election| {
            let namespace = election.namespace.as_ref().unwrap_or(&own_namespace);
            let leases = Api::namespaced(client, namespace);
            LeaderElector::new(leases, election.id.clone(), identity, leadership.clone(), clock)
        });
        Self { shared, leadership, caches, controllers, elector, shutdown }
    }

    /// Runs until shutdown is requested. Then it abandons reads, waits for irreversible calls in
    /// flight, records their responses, and releases the lease.
    pub async fn run(self) {
        let work = self.shutdown.run(async {
            join_all(self.controllers).await;
        });
        let Some(mut elector) = self.elector else { return work.await };
        tokio::select! {
            () = elector.run() => {}
            () = work => {}
        }
        elector.release().await;
    }
}

/// Returns how many reconciles may call AWS at once. One eighth of the workers, but at least one if
/// there are several, is reserved for reconciles that do not call AWS.
fn aws_concurrency(concurrency: u16) -> usize {
    let concurrency = usize::from(concurrency);
    concurrency.saturating_sub((concurrency / 8).max(1)).max(1)
}
