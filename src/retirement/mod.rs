//! The retirement of declared revisions: what is declared, what to do about it, and what to tell.

pub mod guarded;
pub mod account_guard;
pub mod declaration;
pub mod plan;
pub mod size;
pub mod cool_down;
pub mod status;
pub mod row;
pub mod verdict;
pub mod retry;
pub mod events;
pub mod claims;
pub mod unwritten;
pub mod record;
pub mod reconcile;
mod act;
mod observe;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
