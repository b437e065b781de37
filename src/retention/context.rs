//! State that the runs of all policies share.

use std::{collections::BTreeSet, sync::Arc};

use kube::Client;

use crate::{
    account::store::Accounts,
    api::TaskDefinitionRetentionPolicy,
    aws::{source::Sources, usage_cache::IsActive},
    clock::Clock,
    controller::Cache,
};

/// State shared by the reconciles of all policies.
pub struct Context {
    pub client: Client,
    pub sources: Arc<Sources>,
    pub accounts: Arc<Accounts>,
    pub policies: Vec<Cache<TaskDefinitionRetentionPolicy>>,
    /// False if resources must name an EcsAccount: `--ambient-credentials=false`.
    pub allows_ambient: bool,
    /// The AWS accounts whose ambient credentials may be used; every account is allowed if empty.
    pub allowed_accounts: BTreeSet<String>,
    pub clock: Clock,
    pub is_active: IsActive,
    /// The name of this process in events, such as the name of its pod.
    pub instance: String,
}
