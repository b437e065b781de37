//! Retirement of declared revisions: parsing of the spec, observation, plan, deregistration, status
//! and requeue delay.

pub mod account_guard;
pub mod validate;
pub mod resolve;
pub mod outcome;
pub mod plan;
pub mod size;
pub mod cool_down;
pub mod trigger;
pub mod status;
pub mod row;
pub mod summary;
pub mod requeue;
pub mod events;
pub mod revision_locks;
pub mod pending_status;
pub mod status_writer;
pub mod context;
pub mod admission;
pub mod reconcile;
mod kind;
mod batch;
mod keep_latest;
pub mod policy_guard;
mod observe;
mod apply;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
