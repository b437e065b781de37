//! Retention policies: which revisions are kept, and the retirements that are proposed for the
//! rest.

pub mod validate;
pub mod existing;
mod list;
pub mod plan;
mod stop;
pub mod read;
pub mod apply;
pub mod status;
pub mod context;
mod credentials;
mod reconciliation;
mod run;
pub mod reconcile;
mod kind;

#[cfg(test)]
mod tests;
