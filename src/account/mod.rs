//! EcsAccounts: which credentials are used for an AWS account, and what may be done there.

pub mod validate;
pub mod allow;
pub mod readiness;
pub mod store;
pub mod authorize;
pub mod context;
mod verify;
pub mod reconcile;
