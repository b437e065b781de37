//! EcsAccounts: which credentials are used for an AWS account, and what may be done there.

pub mod validate;
pub mod allow;
pub mod store;
pub mod authorize;
mod verify;
pub mod reconcile;
