//! What users write and read: one file a kind, and the conditions they share. No behaviour.

pub mod conditions;
pub mod reason;
mod schema;
pub mod task_definition_retirement;
pub mod usage_scan;

pub use reason::{Priority, Reason, ReasonClass};
pub use task_definition_retirement::{
    Awaits, AwsError, InUse, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementSpec,
    TaskDefinitionRetirementStatus,
};
pub use usage_scan::UsageScan;

/// The API group of every kind of this project.
pub const GROUP: &str = "ecs-retirement.dev";

/// The annotation that asks for a look now: any new value counts, a timestamp by custom.
pub const REQUESTED_AT: &str = "ecs-retirement.dev/requestedAt";
