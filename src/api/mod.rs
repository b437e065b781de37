//! The Kubernetes API: one file for each kind, and the types they share. Data only.

pub mod conditions;
pub mod crd;
pub mod ecs_account;
pub mod reason;
mod schema;
pub mod task_definition_retention_policy;
pub mod task_definition_retirement;
pub mod usage_scan;

pub use ecs_account::{AccountRef, EcsAccount, EcsAccountSpec, EcsAccountStatus};
pub use reason::{Priority, Reason, ReasonClass};
pub use task_definition_retention_policy::{
    TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicySpec, TaskDefinitionRetentionPolicyStatus,
};
pub use task_definition_retirement::{
    Awaits, AwsError, InUse, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementSpec,
    TaskDefinitionRetirementStatus,
};
pub use usage_scan::UsageScan;

/// The API group of all kinds of this project.
pub const GROUP: &str = "ecs-retirement.dev";

/// The annotation that requests a reconcile. Any new value counts; a timestamp is customary.
pub const REQUESTED_AT: &str = "ecs-retirement.dev/requestedAt";
