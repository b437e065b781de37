//! One replica: its controllers and its leader elector.
//!
//! All dependencies are injected. It does not read the environment, handle signals or open sockets.

use std::{pin::pin, sync::Arc};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        reflector::{ObjectRef, store, store::Writer},
        watcher::Event,
    },
};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    account::{
        self,
        store::{Accounts, Caches, NamespaceMetadata, Triggers},
    },
    api::{EcsAccount, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement},
    aws::{
        SdkConfig,
        rate_limiter::{RequeueTrigger, ResourceKey},
        source::Sources,
        usage_cache::IsActive,
    },
    clock::Clock,
    controller::{Cache, Kind, Shared, controller, guarded::Guarded, resource_watch},
    retention,
    retirement::{
        context::{Context, Waiters},
        events::Recent,
        pending_status::PendingStatus,
        revision_locks::RevisionLocks,
    },
    runtime::{
        Options,
        leader_election::{LeaderElector, Leadership},
    },
    shutdown::Shutdown,
};

/// Maximum number of concurrent runs of policies. A run waits in its worker for read permits, so
/// that few workers would let long runs stop all other policies. The rate limiters bound the calls.
pub(super) const POLICY_CONCURRENCY: u16 = 256;

/// Maximum number of concurrent reconciles of EcsAccounts.
pub(super) const ACCOUNT_CONCURRENCY: u16 = 4;

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
    pub(super) retirements: Arc<Shared<TaskDefinitionRetirement>>,
    pub(super) accounts: Arc<Shared<EcsAccount>>,
    pub(super) policies: Arc<Shared<TaskDefinitionRetentionPolicy>>,
    pub(super) policy_caches: Vec<Cache<TaskDefinitionRetentionPolicy>>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) caches: Vec<Cache<TaskDefinitionRetirement>>,
    controllers: Vec<BoxFuture<'static, ()>>,
    elector: Option<LeaderElector>,
    shutdown: Shutdown,
}

/// The caches, and the writers that fill them.
struct Stores {
    retirements: Vec<(Cache<TaskDefinitionRetirement>, Writer<Guarded<TaskDefinitionRetirement>>)>,
    policies: Vec<(Cache<TaskDefinitionRetentionPolicy>, Writer<Guarded<TaskDefinitionRetentionPolicy>>)>,
    accounts: (Cache<EcsAccount>, Writer<Guarded<EcsAccount>>),
    namespaces: (kube::runtime::reflector::Store<NamespaceMetadata>, Writer<NamespaceMetadata>),
}

impl Stores {
    fn new(count: usize) -> Self {
        Self {
            retirements: (0..count).map(|_| store()).collect(),
            policies: (0..count).map(|_| store()).collect(),
            accounts: store(),
            namespaces: store(),
        }
    }

    fn caches(&self) -> Caches {
        Caches {
            accounts: self.accounts.0.clone(),
            namespaces: self.namespaces.0.clone(),
            retirements: self.retirements.iter().map(|(cache, _)| cache.clone()).collect(),
            policies: self.policies.iter().map(|(cache, _)| cache.clone()).collect(),
        }
    }
}

impl Replica {
    #[must_use]
    pub fn new(options: &Options, dependencies: Dependencies) -> Self {
        let count = options.namespaces.len().max(1);
        let (stores, shutdown) = (Stores::new(count), Shutdown::new(dependencies.stop.clone()));
        let leadership =
            Arc::new(if options.election.is_some() { Leadership::none() } else { Leadership::sole() });
        let (trigger_retirement, wakeups) = trigger();
        let (trigger_policy, policy_wakeups) = trigger();
        let triggers = Triggers { retirements: trigger_retirement, policies: trigger_policy };
        let Caches { retirements: caches, policies: policy_caches, .. } = stores.caches();
        let contexts =
            Contexts::new(options, &dependencies, (&leadership, &shutdown), stores.caches(), triggers);
        let (retirements, accounts) = (Shared::new(contexts.retirements), Shared::new(contexts.accounts));
        let policies = Shared::new(contexts.policies);
        let client = &dependencies.client;
        let stop = || {
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        };
        let watched = apis(client, options).into_iter().zip(stores.retirements).collect();
        let (terms, woken) = (leadership.terms(), woken(wakeups));
        let mut controllers =
            vec![controller(watched, options.concurrency, &retirements, terms, woken, stop())];
        if options.serves_policies {
            let watched = apis(client, options).into_iter().zip(stores.policies).collect();
            let (terms, woken) = (leadership.terms(), self::woken(policy_wakeups));
            controllers.push(controller(watched, POLICY_CONCURRENCY, &policies, terms, woken, stop()));
        }
        if options.controller_name.is_some() {
            let (watched, terms) = (vec![(Api::all(client.clone()), stores.accounts)], leadership.terms());
            let woken = stream::pending();
            controllers.push(controller(watched, ACCOUNT_CONCURRENCY, &accounts, terms, woken, stop()));
            let known = retirements.context.accounts.clone();
            controllers.push(namespaces(Api::all(client.clone()), stores.namespaces, known, stop()).boxed());
        }
        let elector = elector(options, dependencies, &leadership);
        Self {
            retirements,
            accounts,
            policies,
            policy_caches,
            leadership,
            caches,
            controllers,
            elector,
            shutdown,
        }
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

/// Returns the APIs of the watched namespaces, or one of all namespaces.
fn apis<K>(client: &Client, options: &Options) -> Vec<Api<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if options.namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    options.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect()
}

/// Returns a trigger that requeues resources of a kind, and the channel of its controller.
fn trigger() -> (RequeueTrigger, mpsc::UnboundedReceiver<ResourceKey>) {
    let (waker, wakeups) = mpsc::unbounded_channel::<ResourceKey>();
    // Sending to a controller that has ended fails.
    let wake = move |key: &ResourceKey| drop(waker.send(key.clone()));
    (RequeueTrigger(Arc::new(wake)), wakeups)
}

/// The state that the reconciles of each kind share.
struct Contexts {
    retirements: Arc<Context>,
    accounts: Arc<account::context::Context>,
    policies: Arc<retention::context::Context>,
}

impl Contexts {
    fn new(
        options: &Options,
        dependencies: &Dependencies,
        (leadership, shutdown): (&Arc<Leadership>, &Shutdown),
        caches: Caches,
        triggers: Triggers,
    ) -> Self {
        let Dependencies { client, aws, clock, instance, .. } = dependencies;
        let is_active: IsActive = {
            let (leadership, shutdown) = (leadership.clone(), shutdown.clone());
            Arc::new(move || leadership.is_held() && !shutdown.is_requested())
        };
        let (pacing, controller_name) = (options.pacing, options.controller_name.clone());
        let Triggers { retirements, policies: policy_trigger } = triggers.clone();
        let sources = Arc::new(Sources::new(aws, pacing, retirements, is_active.clone(), clock.clone()));
        let policies = caches.policies.clone();
        let accounts = Arc::new(Accounts::new(controller_name, pacing, caches, triggers));
        Self {
            retirements: Arc::new(Context {
                client: client.clone(),
                sources: sources.clone(),
                accounts: accounts.clone(),
                allows_ambient: options.allows_ambient,
                allowed_accounts: options.allowed_accounts.clone(),
                revision_locks: RevisionLocks::default(),
                pending_status: PendingStatus::default(),
                recent_events: Recent::default(),
                waiters: Waiters::default(),
                policy_trigger,
                instance: instance.clone(),
                is_active: is_active.clone(),
                clock: clock.clone(),
                shutdown: shutdown.clone(),
                aws_concurrency: Semaphore::new(aws_concurrency(options.concurrency)),
            }),
            policies: Arc::new(retention::context::Context {
                client: client.clone(),
                sources: sources.clone(),
                accounts: accounts.clone(),
                policies,
                allows_ambient: options.allows_ambient,
                allowed_accounts: options.allowed_accounts.clone(),
                clock: clock.clone(),
                is_active: is_active.clone(),
                instance: instance.clone(),
            }),
            accounts: Arc::new(account::context::Context {
                client: client.clone(),
                sources,
                accounts,
                clock: clock.clone(),
                is_active,
                instance: instance.clone(),
            }),
        }
    }
}

fn elector(
    options: &Options,
    dependencies: Dependencies,
    leadership: &Arc<Leadership>,
) -> Option<LeaderElector> {
    let Dependencies { client, own_namespace, clock, identity, .. } = dependencies;
    options.election.as_ref().map(|election| {
        let namespace = election.namespace.as_ref().unwrap_or(&own_namespace);
        let leases = Api::namespaced(client, namespace);
        LeaderElector::new(leases, election.id.clone(), identity, leadership.clone(), clock)
    })
}

/// Returns the resources that are woken: a permit is available, or their usage or what they are
/// allowed has changed.
fn woken<K>(
    wakeups: mpsc::UnboundedReceiver<ResourceKey>,
) -> impl Stream<Item = ObjectRef<Guarded<K>>> + Send + 'static
where
    K: Kind<Scope = NamespaceResourceScope>,
{
    stream::unfold(wakeups, |mut wakeups| async { Some((wakeups.recv().await?, wakeups)) })
        .map(|ResourceKey { namespace, name }| ObjectRef::new(&name).within(&namespace))
}

/// Caches the labels of the namespaces, and reports changes to `accounts`. Runs until `stop`.
async fn namespaces(
    api: Api<NamespaceMetadata>,
    (cache, mut writer): (kube::runtime::reflector::Store<NamespaceMetadata>, Writer<NamespaceMetadata>),
    accounts: Arc<Accounts>,
    stop: impl Future<Output = ()> + Send,
) {
    let mut events = pin!(resource_watch::events(api, cache.clone()).take_until(stop));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => apply_namespace(event, (&cache, &mut writer), &accounts),
            Err(error) => {
                accounts.namespaces_failed(&error);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot watch the namespaces: may the service account watch them?");
            }
        }
    }
}

fn apply_namespace(
    mut event: Event<NamespaceMetadata>,
    (cache, writer): (&kube::runtime::reflector::Store<NamespaceMetadata>, &mut Writer<NamespaceMetadata>),
    accounts: &Accounts,
) {
    if let Event::Apply(namespace) | Event::InitApply(namespace) | Event::Delete(namespace) = &mut event {
        namespace.metadata.annotations = None;
        namespace.metadata.managed_fields = None;
    }
    let labels = |namespace: &NamespaceMetadata| namespace.metadata.labels.clone().unwrap_or_default();
    let before: std::collections::HashMap<String, _> = match &event {
        Event::InitDone => cache.state().iter().map(|it| (it.name_any(), labels(it))).collect(),
        Event::Apply(namespace) | Event::Delete(namespace) => {
            let known = cache.get(&ObjectRef::from_obj(namespace));
            known.iter().map(|it| (it.name_any(), labels(it))).collect()
        }
        Event::Init | Event::InitApply(_) => return writer.apply_watcher_event(&event),
    };
    writer.apply_watcher_event(&event);
    let names: Vec<String> = match &event {
        Event::Apply(namespace) | Event::Delete(namespace) => vec![namespace.name_any()],
        _ => cache.state().iter().map(|it| it.name_any()).chain(before.keys().cloned()).collect(),
    };
    for name in names {
        if accounts.namespace_labels(&name).as_ref() != before.get(&name) {
            accounts.namespace_changed(&name);
        }
    }
}

/// Returns how many reconciles may call AWS at once. One eighth of the workers, but at least one if
/// there are several, is reserved for reconciles that do not call AWS.
fn aws_concurrency(concurrency: u16) -> usize {
    let concurrency = usize::from(concurrency);
    concurrency.saturating_sub((concurrency / 8).max(1)).max(1)
}
