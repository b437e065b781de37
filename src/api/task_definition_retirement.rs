//! The kind `TaskDefinitionRetirement`: the revisions to retire, and the status of each. Data only.

#![expect(clippy::doc_markdown, reason = "kubectl explain shows the comments verbatim")]
#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a priority")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccountRef, Reason, UsageScan, schema};

pub use super::schema::MAX_REVISIONS;

/// The Amazon ECS task definition revisions that must be retired.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ecs-retirement.dev",
    version = "v1alpha1",
    kind = "TaskDefinitionRetirement",
    doc = "A TaskDefinitionRetirement declares Amazon ECS task definition revisions that must be retired. The controller deregisters each and reports what ECS returned. Deregistration cannot be undone.",
    namespaced,
    status = "TaskDefinitionRetirementStatus",
    shortname = "tdr",
    category = "ecs",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Progress",
        type_ = "string",
        json_path = ".status.progress",
        description = "Number of retired revisions and of declared revisions, such as 1/2."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every declared revision is retired."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the condition Ready."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        priority = 1,
        json_path = ".status.waiting",
        description = "Number of revisions that are in progress or on hold."
    ),
    printcolumn(
        name = "Rejected",
        type_ = "integer",
        priority = 1,
        json_path = ".status.rejected",
        description = "Number of revisions that need manual intervention."
    ),
    printcolumn(
        name = "Account",
        type_ = "string",
        priority = 1,
        json_path = ".status.account",
        description = "The AWS account."
    ),
    printcolumn(
        name = "Region",
        type_ = "string",
        priority = 1,
        json_path = ".status.region",
        description = "The AWS region."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What is done, and the blocking reason if there is one."
    )
)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.accountId) || (has(self.accountId) && self.accountId == oldSelf.accountId)")
        .message("spec.accountId cannot be changed once it is set: make a new TaskDefinitionRetirement for the other account"),
    validation = Rule::new("!has(oldSelf.accountRef) || (has(self.accountRef) && self.accountRef.name == oldSelf.accountRef.name)")
        .message("spec.accountRef cannot be changed once it is set: make a new TaskDefinitionRetirement for the other account"),
    validation = Rule::new("!has(oldSelf.region) || (has(self.region) && self.region == oldSelf.region)")
        .message("spec.region cannot be changed once it is set: make a new TaskDefinitionRetirement for the other region"),
    validation = Rule::new("!has(self.region) || self.revisions.all(r, !r.contains('/') || r.contains(':ecs:' + self.region + ':'))")
        .message(Message::Expression("self.revisions.filter(r, r.contains('/') && !r.contains(':ecs:' + self.region + ':'))[0] + ' is not in spec.region, which is ' + self.region + ': move it to a TaskDefinitionRetirement for its own region'".into())),
    validation = Rule::new("!has(self.unusedFor) || self.inUse == 'Wait'")
        .message("spec.unusedFor is only for spec.inUse: Wait: remove it, or write inUse: Wait"),
)]
pub struct TaskDefinitionRetirementSpec {
    /// The revisions to retire, 1 to 500, each as family:revision (cpu-wave:1) or as the full task
    /// definition ARN. ECS never reuses a revision number of a family, so each entry identifies
    /// exactly one revision. Removing an entry cancels its retirement if that is not done yet;
    /// nothing is undone.
    #[schemars(schema_with = "schema::revisions")]
    pub revisions: Vec<String>,

    /// The EcsAccount whose credentials are used, and which decides what is allowed. Without it,
    /// the controller's own credentials are used. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_ref: Option<AccountRef>,

    /// The AWS account that the revisions belong to, as 12 digits in quotes: "012345678910". If the
    /// credentials of the controller belong to another account, ECS is not called and every row has
    /// the reason WrongAccount. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("spec.accountId is the 12 digits of an AWS account, in quotes, such as \"012345678910\""))]
    pub account_id: Option<String>,

    /// The AWS region of the revisions, such as us-west-2. If it is not set, the default region of
    /// the EcsAccount or of the controller applies. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')").message("write the code of an AWS region, such as us-west-2"))]
    pub region: Option<String>,

    /// What to do with a revision that is in use: Wait until it is unused, or Retire it regardless.
    /// A revision is in use if a service, a deployment, a task set or a rollback in progress
    /// references it, with any desired count, or if a task that has not stopped runs it. ECS does
    /// not report what else may start it, such as a schedule or a pipeline.
    #[serde(default)]
    pub in_use: InUse,

    /// With inUse: Wait, how long a revision must have been unused before it is retired, such as
    /// 20s or 24h. This time starts at the end of the last observed use or, if none was observed,
    /// at the first usage scan. It starts again after a dry run, a suspension, or 45 minutes
    /// without a usage scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 20s, 90m or 24h"))]
    pub unused_for: Option<String>,

    /// A revision is deregistered only while its family has this many newer ACTIVE revisions, 1 to
    /// 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 1000))]
    pub keep_latest: Option<u32>,

    /// While true, nothing is deregistered. Revisions that are retired already stay retired, and
    /// the status still shows what ECS reports.
    #[serde(default)]
    pub suspend: bool,

    /// While true, everything is done except the irreversible call: the status shows what would be
    /// deregistered.
    #[serde(default)]
    pub dry_run: bool,
}

/// The observed state of the declared revisions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
// kstatus treats an object without a status as done, so the status has a default, as in Flux's
// kinds.
#[schemars(extend("default" = { "observedGeneration": -1 }))]
pub struct TaskDefinitionRetirementStatus {
    /// The generation of the spec that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready is True once every declared revision is retired. Reconciling is present while the
    /// controller is making progress or retries automatically. Stalled is present while manual
    /// intervention is required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The last value of the annotation ecs-retirement.dev/requestedAt that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The AWS account in which the revisions are retired, 12 digits: spec.accountId, or the
    /// account of the credentials when the revisions were first resolved. Entries in the short form
    /// always refer to this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub account: Option<String>,

    /// The AWS region in which the revisions are retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,

    /// The number of retired revisions and of declared revisions, such as 1/2.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub progress: String,

    /// The number of declared revisions that are retired.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub retired: i32,

    /// The number of declared revisions that are in progress or on hold (suspend or dryRun).
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub waiting: i32,

    /// The number of declared revisions that need manual intervention.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub rejected: i32,

    /// While a revision has the reason AccountNotFound, AccountNotReady or AccessDenied: the time
    /// since when. After two minutes the resource is Stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_since: Option<Time>,

    /// While revisions cool down: a usage scan in which they were unused, updated at most every 15
    /// minutes. If 45 minutes pass without a usage scan, unusedSince starts again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_usage_scan: Option<UsageScan>,

    /// One row for each declared revision, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    // Atomic: managed fields for each row would take a third of the size limit of etcd for one
    // object.
    #[schemars(length(max = MAX_REVISIONS), extend("x-kubernetes-list-type" = "atomic"))]
    pub revisions: Vec<RevisionStatus>,
}

/// The observed state of one declared revision.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// The revision as family:revision, or its ARN if it belongs to another account, region or
    /// partition.
    #[schemars(length(max = 340))]
    pub revision: String,

    /// The full ARN of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400))]
    pub arn: Option<String>,

    /// The status of the revision exactly as ECS last returned it: ACTIVE, INACTIVE or
    /// DELETE_IN_PROGRESS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub status: Option<String>,

    /// The state of the revision: Retired, Deleting, Deleted, Pending, InUse, CoolingDown, Kept,
    /// Throttled, Unavailable, Suspended, DryRun, Invalid, WrongAccount, WrongRegion,
    /// AccountNotFound, AccountNotReady, NotAllowed, AccessDenied, Refused or NotFound. Later
    /// versions may add others.
    #[schemars(with = "String", length(max = 32))]
    pub reason: Reason,

    /// The time of the registration, as reported by ECS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Time>,

    /// The time of the deregistration, as reported by ECS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregistered_at: Option<Time>,

    /// The AWS request ID of the call that deregistered the revision, as in CloudTrail. Absent if
    /// another client deregistered it, or if the response was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub request_id: Option<String>,

    /// The services and tasks that use the revision, as service/CLUSTER/NAME or task/CLUSTER/ID: at
    /// most five, and fewer if the status would become too large. The message has their total
    /// number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 520)))]
    pub used_by: Vec<String>,

    /// With spec.unusedFor, the time since which the revision has been unused, by AWS's clock: the
    /// first usage scan, the end of its use, or the time at which its last task stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Time>,

    /// The blocking reason, with the error code and message of AWS if a call failed. A long text is
    /// truncated, and then ends with "...".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,

    /// What is still to be read from ECS about a retired revision: DeregisteredAt, which ECS
    /// reports only after the call, or Description, because a reconcile was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 32))]
    pub awaits: Option<Awaits>,

    /// True while it is unknown whether the revision is in use. The message has the cause.
    #[serde(default, skip_serializing_if = "is_false")]
    pub usage_unknown: bool,

    /// The AWS error that the message reports. While the error and the reason stay the same, the
    /// message keeps the text of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AwsError>,
}

/// What is still to be read from ECS about a retired revision. An unknown value is read as
/// `Description`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Awaits {
    DeregisteredAt,
    #[serde(other)]
    Description,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// An AWS error code, and the operation that returned it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsError {
    /// The operation of Amazon ECS or AWS STS, such as DescribeTaskDefinition.
    #[schemars(length(max = 64))]
    pub operation: String,

    /// The AWS error code, such as AccessDeniedException.
    #[schemars(length(max = 128))]
    pub code: String,
}

/// What to do with a revision that is in use.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(inline)]
pub enum InUse {
    /// The revision is retired once it is unused.
    #[default]
    Wait,
    /// The revision is retired even if it is in use. What runs continues, but nothing new can be
    /// started from it.
    Retire,
}
