//! State that the reconciles of all resources share, and what they have in common.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    account::store::Accounts,
    api::TaskDefinitionRetirement,
    aws::{
        rate_limiter::{RequeueTrigger, ResourceKey},
        session::{VerifiedSession, Waiter},
        source::Sources,
        usage_cache::IsActive,
    },
    clock::Clock,
    controller::Error,
    in_flight,
    retirement::{events, pending_status::PendingStatus, revision_locks::RevisionLocks},
    shutdown::Shutdown,
};

/// State shared by all reconciles.
pub struct Context {
    pub client: Client,
    pub sources: Arc<Sources>,
    pub accounts: Arc<Accounts>,
    /// False if resources must name an EcsAccount: `--ambient-credentials=false`.
    pub allows_ambient: bool,
    /// The AWS accounts whose ambient credentials may be used; every account is allowed if empty.
    pub allowed_accounts: BTreeSet<String>,
    pub revision_locks: RevisionLocks,
    pub pending_status: PendingStatus,
    pub recent_events: events::Recent,
    pub waiters: Waiters,
    /// Wakes the policy that controls a retirement.
    pub policy_trigger: RequeueTrigger,
    /// The name of this process in events, such as the name of its pod.
    pub instance: String,
    /// Returns true while this process may act: it is the leader and was not asked to shut down.
    pub is_active: IsActive,
    pub clock: Clock,
    pub shutdown: Shutdown,
    /// Limits how many reconciles call AWS concurrently. There are fewer permits than workers, so
    /// that a slow AWS does not delay the first status of a resource.
    pub aws_concurrency: Semaphore,
}

impl Context {
    /// Removes what is kept in memory for a deleted resource.
    pub fn forget(&self, resource: &impl ResourceExt) {
        self.waiters.remove(&key(resource));
        self.pending_status.forget(&resource.uid().unwrap_or_default());
    }
}

/// Registrations of resources in wait queues and usage caches. A resource waits in one session at a
/// time, and leaves it when its waiter is removed.
#[derive(Default)]
pub struct Waiters(Mutex<HashMap<ResourceKey, Arc<Waiter>>>);

impl Waiters {
    /// Returns the waiter of a resource, or `None` if it does not wait.
    #[must_use]
    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Waiter>> {
        self.0.lock().get(key).cloned()
    }

    /// Returns the waiter of a resource in `session`. A waiter in another session is removed.
    #[must_use]
    pub fn enter(&self, key: &ResourceKey, session: &Arc<VerifiedSession>) -> Arc<Waiter> {
        let mut waiters = self.0.lock();
        if let Some(waiter) = waiters.get(key)
            && Arc::ptr_eq(&waiter.session, session)
        {
            return waiter.clone();
        }
        let waiter = Arc::new(Waiter { session: session.clone(), key: key.clone() });
        waiters.insert(key.clone(), waiter.clone());
        waiter
    }

    /// Removes a resource that waits no longer.
    pub fn remove(&self, key: &ResourceKey) {
        let waiter = self.0.lock().remove(key);
        // Dropped without the lock: leaving a queue takes others.
        drop(waiter);
    }
}

/// Returns the key of a resource in the rate limiters and the usage cache.
#[must_use]
pub fn key(resource: &impl ResourceExt) -> ResourceKey {
    ResourceKey { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
}

/// Reads the resource uncached. Returns `None` if it does not exist, is being deleted, or was
/// recreated under the same name.
///
/// # Errors
/// Returns [`Error::ReadResource`] if the call to the API server fails.
pub(super) async fn read(
    api: &Api<TaskDefinitionRetirement>,
    known: &TaskDefinitionRetirement,
) -> Result<Option<TaskDefinitionRetirement>, Error> {
    let name = known.name_any();
    let live =
        in_flight::kubernetes("get resource", api.get_opt(&name)).await.map_err(Error::ReadResource)?;
    Ok(live.filter(|live| live.uid() == known.uid() && live.metadata.deletion_timestamp.is_none()))
}
