//! One replica: its controllers and its part in the election, over the clients it is given. It knows no environment, no signal and no socket.

use std::sync::Arc;

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    aws::rate_limiter::{RequeueTrigger, ResourceKey},
    aws::{SdkConfig, session::Account},
    clock::Clock,
    retirement::{
        events::Recent, pending_status::PendingStatus, reconcile::Context, revision_locks::RevisionLocks,
    },
    runtime::{
        Options,
        controllers::{self, Cache, Shared},
        leader_election::{LeaderElector, Leadership},
        workqueue::Queue,
    },
    shutdown::Shutdown,
};

/// What a replica reaches its dependencies by, and is known by there.
pub struct Dependencies {
    pub client: Client,
    /// The namespace of the lease, where the options name none.
    pub own_namespace: String,
    pub aws: SdkConfig,
    pub clock: Clock,
    /// Its name in events, such as its pod's.
    pub instance: String,
    /// Its name in the lease: another one for each process.
    pub identity: String,
    /// `true` once it is to stop.
    pub stop: watch::Receiver<bool>,
}

/// A replica that has yet to run.
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
        let (callers, calls): (Vec<_>, Vec<_>) =
            (0..options.namespaces.len().max(1)).map(|_| mpsc::unbounded_channel::<ResourceKey>()).unzip();
        // Each controller knows which resources are its own; one that has ended takes no calls.
        let wake = move |key: &ResourceKey| callers.iter().for_each(|caller| drop(caller.send(key.clone())));
        let requeue_trigger = RequeueTrigger(Arc::new(wake));
        let context = Arc::new(Context {
            client: client.clone(),
            account: Account::new(&aws, options.pacing, requeue_trigger, is_active.clone(), clock.clone()),
            allowed_accounts: options.allowed_accounts.clone(),
            claims: RevisionLocks::default(),
            pending_status: PendingStatus::default(),
            recent_events: Recent::default(),
            instance,
            is_active,
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            slots: Semaphore::new(slots(options.concurrency)),
        });
        let shared = Arc::new(Shared { context, queue: Arc::new(Queue::default()) });
        let apis: Vec<Api<_>> = if options.namespaces.is_empty() {
            vec![Api::all(client.clone())]
        } else {
            options.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect()
        };
        let controller = |(api, calls)| {
            let shutdown = shutdown.clone();
            let stop = async move { shutdown.requested().await }.shared();
            controllers::controller(api, options.concurrency, &shared, leadership.terms(), calls, stop)
        };
        let (caches, controllers) = apis.into_iter().zip(calls).map(controller).unzip();
        let elector = options.election.as_ref().map(|election| {
            let namespace = election.namespace.as_ref().unwrap_or(&own_namespace);
            let leases = Api::namespaced(client, namespace);
            LeaderElector::new(leases, election.id.clone(), identity, leadership.clone(), clock)
        });
        Self { shared, leadership, caches, controllers, elector, shutdown }
    }

    /// Runs until shutdown is requested. Then reads are abandoned, irreversible calls in flight are awaited and their answers
    /// recorded, and the lease is released.
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

/// Of the workers an eighth, and at least one where there are several, is left to those who need no answer of AWS.
fn slots(concurrency: u16) -> usize {
    let concurrency = usize::from(concurrency);
    concurrency.saturating_sub((concurrency / 8).max(1)).max(1)
}
