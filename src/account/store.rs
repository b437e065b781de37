//! The EcsAccounts and namespaces as the watch reports them, and the resources to wake when they
//! change.

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use parking_lot::Mutex;

use crate::{
    account::validate::{ValidatedAccount, validate},
    api::{AccountRef, EcsAccount, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement},
    aws::{
        permit_queue::Pacing,
        rate_limiter::{RequeueTrigger, ResourceKey},
    },
    controller::{Cache, Kind, guarded::Guarded},
};

/// A namespace, of which only the metadata is cached.
pub type NamespaceMetadata = PartialObjectMeta<Namespace>;

/// The EcsAccounts that this controller serves.
pub struct Accounts {
    /// The value of `--controller-name`; `None` with `--ecs-accounts=false`.
    controller_name: Option<String>,
    /// The rate limit of accounts that declare none.
    pacing: Pacing,
    cache: Cache<EcsAccount>,
    namespaces: Store<NamespaceMetadata>,
    retirements: Referrers<TaskDefinitionRetirement>,
    policies: Referrers<TaskDefinitionRetentionPolicy>,
    /// Why the EcsAccounts could not be listed. `None` once they are.
    list_error: Mutex<Option<ListError>>,
}

/// The caches that [`Accounts`] reads.
pub struct Caches {
    pub accounts: Cache<EcsAccount>,
    pub namespaces: Store<NamespaceMetadata>,
    pub retirements: Vec<Cache<TaskDefinitionRetirement>>,
}

/// The resources of a kind that may refer to an EcsAccount, and the trigger that requeues them.
struct Referrers<K: Kind> {
    caches: Vec<Cache<K>>,
    trigger: RequeueTrigger,
}

/// What a resource says about its AWS account.
struct Referrer<'a> {
    namespace: Option<&'a String>,
    account_ref: Option<&'a AccountRef>,
    /// The recorded AWS account.
    account: Option<&'a String>,
}

#[derive(Clone, Debug)]
enum ListError {
    /// The CRD is not installed, so there are no EcsAccounts.
    NotInstalled,
    Other(String),
}

/// Whether the EcsAccounts are known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    Ready,
    /// They are not listed yet.
    Pending,
    /// They cannot be listed, for this reason.
    Failed(String),
}

/// Why a name refers to no usable EcsAccount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    NotFound(String),
    /// It exists and its spec is invalid.
    Invalid(String),
    /// It exists and another controller serves it.
    OfAnotherController(String),
}

impl Accounts {
    /// Creates the accounts of the controller `controller_name`; `None` if EcsAccounts are not
    /// served.
    #[must_use]
    pub fn new(
        controller_name: Option<String>,
        pacing: Pacing,
        caches: Caches,
        requeue_trigger: RequeueTrigger,
    ) -> Self {
        let Caches { accounts, namespaces, retirements } = caches;
        let list_error = Mutex::default();
        let retirements = Referrers { caches: retirements, trigger: requeue_trigger.clone() };
        let policies = Referrers { caches: Vec::new(), trigger: requeue_trigger };
        Self { controller_name, pacing, cache: accounts, namespaces, retirements, policies, list_error }
    }

    /// Returns the accounts with the policies that a change wakes, and the trigger that requeues them.
    #[must_use]
    pub fn with_policies(
        self,
        caches: Vec<Cache<TaskDefinitionRetentionPolicy>>,
        trigger: RequeueTrigger,
    ) -> Self {
        Self { policies: Referrers { caches, trigger }, ..self }
    }

    /// Returns whether the EcsAccounts are known. Without them nothing is known to be allowed.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.controller_name.is_none() {
            return Readiness::Ready;
        }
        match &*self.list_error.lock() {
            Some(ListError::NotInstalled) => return Readiness::Ready,
            Some(ListError::Other(error)) if !is_synced(&self.cache) => {
                return Readiness::Failed(error.clone());
            }
            _ => {}
        }
        if is_synced(&self.cache) && is_synced(&self.namespaces) {
            Readiness::Ready
        } else {
            Readiness::Pending
        }
    }

    /// Returns the EcsAccount `name`.
    ///
    /// # Errors
    /// Returns why there is none that can be used.
    pub fn get(&self, name: &str) -> Result<ValidatedAccount, Missing> {
        let Some(controller_name) = &self.controller_name else {
            let text = "this controller does not serve EcsAccounts (--ecs-accounts=false)";
            return Err(Missing::NotFound(text.to_owned()));
        };
        let object = self.cache.get(&ObjectRef::new(name));
        match object.as_deref() {
            Some(Guarded(Ok(account))) if account.metadata.deletion_timestamp.is_none() => {
                self.served(account, controller_name)
            }
            Some(Guarded(Err(_))) => {
                Err(Missing::Invalid(format!("EcsAccount {name} cannot be read: correct its spec")))
            }
            _ => Err(Missing::NotFound(not_found(name))),
        }
    }

    /// Returns `account` if this controller serves it.
    ///
    /// # Errors
    /// Returns why it cannot be used.
    pub fn validated(&self, account: &EcsAccount) -> Result<ValidatedAccount, Missing> {
        match &self.controller_name {
            Some(controller_name) => self.served(account, controller_name),
            None => Err(Missing::NotFound(not_found(&account.name_any()))),
        }
    }

    fn served(&self, account: &EcsAccount, controller_name: &str) -> Result<ValidatedAccount, Missing> {
        let name = account.name_any();
        if account.spec.controller_name != controller_name {
            return Err(Missing::OfAnotherController(format!(
                "EcsAccount {name} is not served by this controller: its spec.controllerName is not the value of --controller-name, which is {controller_name}"
            )));
        }
        validate(account, self.pacing)
            .map_err(|error| Missing::Invalid(format!("EcsAccount {name}: {error}")))
    }

    /// Returns true if an EcsAccount that this controller serves is for the AWS account
    /// `account_id`, even if its spec is invalid.
    #[must_use]
    pub fn declare(&self, account_id: &str) -> bool {
        self.cache.state().iter().any(|object| self.served_id(Some(object)).as_deref() == Some(account_id))
    }

    /// Returns the labels of a namespace; `None` if it is not known.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let namespace = self.namespaces.get(&ObjectRef::new(namespace))?;
        Some(namespace.metadata.labels.clone().unwrap_or_default())
    }

    /// Returns the served EcsAccounts, for metrics.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Guarded<EcsAccount>>> {
        self.cache.state()
    }

    /// Handles a change of an EcsAccount: wakes the resources that refer to it and, if it may
    /// restrict the ambient credentials, those of its AWS account that refer to none. An EcsAccount of
    /// another controller wakes none.
    pub(super) fn account_changed(
        &self,
        before: Option<&Guarded<EcsAccount>>,
        after: Option<&Guarded<EcsAccount>>,
    ) {
        *self.list_error.lock() = None;
        let Some(name) = before.or(after).map(ResourceExt::name_any) else { return };
        let (before, after) = (self.served_id(before), self.served_id(after));
        if before.is_none() && after.is_none() {
            return;
        }
        let changed: Vec<&String> =
            if before == after { Vec::new() } else { before.iter().chain(&after).collect() };
        self.wake(|resource| match resource.account_ref {
            Some(account_ref) => account_ref.name == name,
            None => !changed.is_empty() && resource.account.is_none_or(|account| changed.contains(&account)),
        });
    }

    /// Returns the AWS account of an EcsAccount that this controller serves.
    fn served_id(&self, object: Option<&Guarded<EcsAccount>>) -> Option<String> {
        let account = object?.0.as_ref().ok()?;
        let is_served = self.controller_name.as_ref() == Some(&account.spec.controller_name);
        is_served.then(|| account.spec.account_id.clone())
    }

    /// Handles a change of the labels of a namespace.
    pub fn namespace_changed(&self, namespace: &str) {
        self.wake(|resource| {
            resource.account_ref.is_some() && resource.namespace.is_some_and(|it| it == namespace)
        });
    }

    /// Wakes the selected resources that are not final.
    fn wake(&self, is_selected: impl Fn(&Referrer<'_>) -> bool) {
        self.retirements.wake(|retirement| {
            is_selected(&Referrer {
                namespace: retirement.metadata.namespace.as_ref(),
                account_ref: retirement.spec.account_ref.as_ref(),
                account: retirement.status.as_ref().and_then(|status| status.account.as_ref()),
            })
        });
        self.policies.wake(|policy| {
            is_selected(&Referrer {
                namespace: policy.metadata.namespace.as_ref(),
                account_ref: policy.spec.account_ref.as_ref(),
                account: policy.status.as_ref().and_then(|status| status.account.as_ref()),
            })
        });
    }

    pub(super) fn list_failed(&self, error: &watcher::Error) {
        let is_not_installed = matches!(
            error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
        );
        let new =
            if is_not_installed { ListError::NotInstalled } else { ListError::Other(error.to_string()) };
        *self.list_error.lock() = Some(new);
    }
}

impl<K: Kind> Referrers<K> {
    fn wake(&self, is_selected: impl Fn(&K) -> bool) {
        for object in self.caches.iter().flat_map(Store::state) {
            let Ok(resource) = &object.0 else { continue };
            if is_selected(resource) && K::work_is_due(resource) {
                let namespace = resource.namespace().unwrap_or_default();
                (self.trigger.0)(&ResourceKey { namespace, name: resource.name_any() });
            }
        }
    }
}

fn not_found(name: &str) -> String {
    format!("there is no EcsAccount {name}: ask the administrator of the cluster, or correct spec.accountRef")
}

fn is_synced<K>(cache: &Store<K>) -> bool
where
    K: kube::runtime::reflector::Lookup + Clone + 'static,
    K::DynamicType: Clone + Eq + std::hash::Hash,
{
    matches!(cache.wait_until_ready().now_or_never(), Some(Ok(())))
}

/// Returns true if the change of a resource may change what is allowed.
pub(super) fn is_relevant<K: Resource>(before: Option<&K>, after: Option<&K>) -> bool {
    let relevant = |object: Option<&K>| {
        object.map(|it| {
            let metadata = it.meta();
            (metadata.uid.clone(), metadata.generation, metadata.deletion_timestamp.is_some())
        })
    };
    relevant(before) != relevant(after)
}
