//! A Kubernetes controller that retires Amazon ECS task definition revisions.
//!
//! ```text
//!  watch ─▶ resource ─▶ observe ─▶ plan ─▶ act ─▶ summarize ─▶ patch ─▶ requeue
//!           parsed       ECS       pure     ECS    pure         if changed
//! ```
//!
//! The modules, in the order in which data passes them:
//!
//! - [`api`]: what users write and read.
//! - [`task_definition`]: the names of ECS, parsed strictly.
//! - [`retirement`]: one pass over one resource. [`retirement::reconcile`] is the shell, and the place to start;
//!   `retirement::act` is what it does at ECS;
//!   [`retirement::declaration`], [`retirement::plan`], [`retirement::status`] and [`retirement::summary`] are
//!   the pure steps it takes, [`retirement::retry`] says when.
//! - [`account`]: who the controller is in AWS.
//! - [`ecs`]: the in_flight, each tried once, and their answers as data. Only these two rooms know the AWS SDK.
//! - [`calls`]: the limit that each call to the outside has.
//! - [`clock`]: what time it is, as an argument.
//! - [`shutdown`]: the request to end the process, and the work it waits for.
//! - [`runtime`]: the process round it all.
//!
//! An irreversible call takes a [`retirement::plan::Deregistration`], which only
//! [`retirement::plan::plan`] can make, and right before it the resource is read again, uncached.

pub mod api;
pub mod task_definition;

pub mod retirement;

pub mod aws;

pub mod in_flight;
pub mod clock;
pub mod runtime;
pub mod shutdown;

/// The name under which the controller writes: field manager, and reporter of events.
pub const CONTROLLER: &str = "ecs-retirement-controller";
