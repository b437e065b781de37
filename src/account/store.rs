//! The EcsAccounts and namespaces as the watch reports them, and the resources to wake when they
//! change.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};

use crate::{
    account::{
        readiness::{List, Readiness},
        validate::{ValidatedAccount, validate},
    },
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
    retirements: Vec<Cache<TaskDefinitionRetirement>>,
    policies: Vec<Cache<TaskDefinitionRetentionPolicy>>,
    triggers: Triggers,
    account_list: List,
    namespace_list: List,
}

/// The caches that [`Accounts`] reads.
pub struct Caches {
    pub accounts: Cache<EcsAccount>,
    pub namespaces: Store<NamespaceMetadata>,
    pub retirements: Vec<Cache<TaskDefinitionRetirement>>,
    pub policies: Vec<Cache<TaskDefinitionRetentionPolicy>>,
}

/// The triggers that requeue the resources of each kind.
#[derive(Clone)]
pub struct Triggers {
    pub retirements: RequeueTrigger,
    pub policies: RequeueTrigger,
}

/// What a resource says about its AWS account.
struct Referrer<'a> {
    namespace: Option<&'a String>,
    account_ref: Option<&'a AccountRef>,
    /// The recorded AWS account.
    account: Option<&'a String>,
}

/// Why a name refers to no usable EcsAccount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    NotFound(String),
    /// It exists and its spec is invalid.
    Invalid(String),
    /// It exists and another controller serves it.
    ServedByOther(String),
}

impl Accounts {
    /// Creates the accounts of the controller `controller_name`; `None` if EcsAccounts are not
    /// served.
    #[must_use]
    pub fn new(controller_name: Option<String>, pacing: Pacing, caches: Caches, triggers: Triggers) -> Self {
        let Caches { accounts: cache, namespaces, retirements, policies } = caches;
        let (account_list, namespace_list) = (List::new("EcsAccounts"), List::new("namespaces"));
        Self {
            controller_name,
            pacing,
            cache,
            namespaces,
            retirements,
            policies,
            triggers,
            account_list,
            namespace_list,
        }
    }

    /// Returns whether the EcsAccounts are known. Without them nothing is known to be allowed.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.controller_name.is_none() {
            return Readiness::Ready;
        }
        match self.account_list.readiness(&self.cache) {
            Readiness::Ready => self.namespace_list.readiness(&self.namespaces),
            other => other,
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
            return Err(Missing::ServedByOther(format!(
                "EcsAccount {name} is not served by this controller: its spec.controllerName is not the value of --controller-name, which is {controller_name}"
            )));
        }
        validate(account, self.pacing)
            .map_err(|error| Missing::Invalid(format!("EcsAccount {name}: {error}")))
    }

    /// Returns true if an EcsAccount that this controller serves is for the AWS account
    /// `account_id`, even if its spec is invalid.
    #[must_use]
    pub fn is_managed(&self, account_id: &str) -> bool {
        self.cache.state().iter().any(|object| self.served_id(Some(object)).as_deref() == Some(account_id))
    }

    /// Returns the labels of a namespace; `None` if it is not known.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let namespace = self.namespaces.get(&ObjectRef::new(namespace))?;
        Some(namespace.metadata.labels.clone().unwrap_or_default())
    }

    /// Returns all cached EcsAccounts, served or not, for metrics.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Guarded<EcsAccount>>> {
        self.cache.state()
    }

    /// Handles a change of an EcsAccount: wakes the resources that refer to it and, if it may
    /// restrict the ambient credentials, those of its AWS account that refer to none. An EcsAccount
    /// of another controller wakes none.
    pub(super) fn account_changed(
        &self,
        before: Option<&Guarded<EcsAccount>>,
        after: Option<&Guarded<EcsAccount>>,
    ) {
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
        wake(&self.retirements, &self.triggers.retirements, |retirement| {
            is_selected(&Referrer {
                namespace: retirement.metadata.namespace.as_ref(),
                account_ref: retirement.spec.account_ref.as_ref(),
                account: retirement.status.as_ref().and_then(|status| status.account.as_ref()),
            })
        });
        wake(&self.policies, &self.triggers.policies, |policy| {
            is_selected(&Referrer {
                namespace: policy.metadata.namespace.as_ref(),
                account_ref: policy.spec.account_ref.as_ref(),
                account: policy.status.as_ref().and_then(|status| status.account.as_ref()),
            })
        });
    }

    pub(super) fn list_failed(&self, error: &watcher::Error) {
        self.account_list.failed(error);
    }

    /// Handles a failure of the watch of the namespaces.
    pub fn namespaces_failed(&self, error: &watcher::Error) {
        self.namespace_list.failed(error);
    }
}

fn wake<K: Kind>(caches: &[Cache<K>], trigger: &RequeueTrigger, is_selected: impl Fn(&K) -> bool) {
    for object in caches.iter().flat_map(Store::state) {
        let Ok(resource) = &object.0 else { continue };
        if is_selected(resource) && K::work_is_due(resource) {
            let namespace = resource.namespace().unwrap_or_default();
            (trigger.0)(&ResourceKey { namespace, name: resource.name_any() });
        }
    }
}

fn not_found(name: &str) -> String {
    format!("there is no EcsAccount {name}: ask the administrator of the cluster, or correct spec.accountRef")
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
