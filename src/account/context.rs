//! State that the reconciles of all EcsAccounts share.

use std::sync::Arc;

use kube::Client;

use crate::{
    account::store::Accounts,
    aws::{source::Sources, usage_cache::IsActive},
    clock::Clock,
};

/// State shared by the reconciles of all EcsAccounts.
pub struct Context {
    pub client: Client,
    pub sources: Arc<Sources>,
    pub accounts: Arc<Accounts>,
    pub clock: Clock,
    pub is_active: IsActive,
    /// The name of this process in events, such as the name of its pod.
    pub instance: String,
}
