//! The kind `TaskDefinitionRetirement`: which revisions must be retired, and what became of each. No behaviour.

#![expect(clippy::doc_markdown, reason = "kubectl explain shows the comments as they are")]
#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a priority")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reason, UsageScan, schema};

/// The most revisions that one resource may declare.
pub const MAX_REVISIONS: usize = 500;

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
        description = "Retired revisions of those declared."
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
        description = "Why it is ready, or why not."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        priority = 1,
        json_path = ".status.waiting",
        description = "Revisions that still wait."
    ),
    printcolumn(
        name = "Rejected",
        type_ = "integer",
        priority = 1,
        json_path = ".status.rejected",
        description = "Revisions that only a person can help."
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
        description = "What is done, and what stands in the way."
    )
)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.accountId) || (has(self.accountId) && self.accountId == oldSelf.accountId)")
        .message("spec.accountId cannot be changed once it is set: make a new TaskDefinitionRetirement for the other account"),
    validation = Rule::new("!has(oldSelf.region) || (has(self.region) && self.region == oldSelf.region)")
        .message("spec.region cannot be changed once it is set: make a new TaskDefinitionRetirement for the other region"),
    validation = Rule::new("!has(self.region) || self.revisions.all(r, !r.contains('/') || r.contains(':ecs:' + self.region + ':'))")
        .message(Message::Expression("self.revisions.filter(r, r.contains('/') && !r.contains(':ecs:' + self.region + ':'))[0] + ' is not in spec.region, which is ' + self.region + ': move it to a TaskDefinitionRetirement for its own region'".into())),
    validation = Rule::new("!has(self.unusedFor) || self.inUse == 'Wait'")
        .message("spec.unusedFor is only for spec.inUse: Wait: remove it, or write inUse: Wait"),
)]
pub struct TaskDefinitionRetirementSpec {
    /// The revisions to retire, 1 to 500, each as family:revision (cpu-wave:1) or as the full task
    /// definition ARN. A revision belongs to one family for good and its number is never reused, so each
    /// entry names exactly one. Removing an entry stops what has not been done yet; nothing is undone.
    #[schemars(schema_with = "schema::revisions")]
    pub revisions: Vec<String>,

    /// The AWS account that the revisions belong to, as 12 digits in quotes: "012345678910". If the
    /// credentials of the controller belong to another account, nothing is called and every row is
    /// WrongAccount. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("spec.accountId is the 12 digits of an AWS account, in quotes, such as \"012345678910\""))]
    pub account_id: Option<String>,

    /// The AWS region of the revisions, such as us-west-2. Without it, the controller's own default
    /// region. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')").message("write the code of an AWS region, such as us-west-2"))]
    pub region: Option<String>,

    /// What to do with a revision that is in use: Wait until nobody uses it, or Retire it all the same. In
    /// use is what a service, a deployment, a task set or a rollback in progress names, whatever its desired
    /// count, and what a task that has not stopped runs. Who else may start it, such as a schedule or a
    /// pipeline, ECS does not know.
    #[serde(default)]
    pub in_use: InUse,

    /// With inUse: Wait, how long a revision must have been unused before it is retired, such as 20s or 24h.
    /// It counts from the end of the last use or, if none was seen, from the first usage scan. It starts again
    /// after a dry run, a suspension, or 45 minutes without a usage scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 20s, 90m or 24h"))]
    pub unused_for: Option<String>,

    /// Stops all deregistration while true. What is retired already stays so; the status still says what
    /// ECS holds.
    #[serde(default)]
    pub suspend: bool,

    /// Does all but the irreversible call while true: the status shows what would be deregistered.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of the declared revisions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
// kstatus takes an object without a status for done; Flux's own kinds are given one in the same way.
#[schemars(extend("default" = { "observedGeneration": -1 }))]
pub struct TaskDefinitionRetirementStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready is True once every declared revision is retired. Reconciling is there, and True, only while
    /// the controller still gets on by itself; Stalled only while nothing but a person can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The value of the annotation ecs-retirement.dev/requestedAt that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The AWS account, 12 digits, in which the revisions are retired: spec.accountId, or the account of the
    /// credentials when the revisions were first resolved. Short forms keep this meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub account: Option<String>,

    /// The AWS region in which the revisions are retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,

    /// Retired revisions of those declared, such as 1/2.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub progress: String,

    /// How many declared revisions are retired.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub retired: i32,

    /// How many declared revisions still wait.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub waiting: i32,

    /// How many declared revisions cannot be retired until a person helps.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub rejected: i32,

    /// While revisions cool down, a usage scan that showed them unused, written at most every 15 minutes. unusedSince
    /// counts only while scans follow each other within 45 minutes, and otherwise starts again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_usage_scan: Option<UsageScan>,

    /// An entry for each declared revision, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    // Atomic: managed fields for each row would take a third of what etcd stores for one object.
    #[schemars(length(max = MAX_REVISIONS), extend("x-kubernetes-list-type" = "atomic"))]
    pub revisions: Vec<RevisionStatus>,
}

/// What became of one declared revision.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// The revision as family:revision, or its ARN where it is of another account, region or partition.
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

    /// Where the revision stands: Retired, Deleting, Deleted, Pending, InUse, CoolingDown, Throttled, Unavailable,
    /// Suspended, DryRun, Invalid, WrongAccount, WrongRegion, AccessDenied, Refused or NotFound. Later versions may
    /// add others.
    #[schemars(with = "String", length(max = 32))]
    pub reason: Reason,

    /// When ECS says the revision was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Time>,

    /// When ECS says the revision was deregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregistered_at: Option<Time>,

    /// The AWS request id of the call that deregistered the revision, as in CloudTrail. Absent where
    /// somebody else did, or where the answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub request_id: Option<String>,

    /// Who uses the revision, as service/CLUSTER/NAME or task/CLUSTER/ID: at most five, and fewer if the
    /// status would become too large. The message says how many there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 520)))]
    pub used_by: Vec<String>,

    /// With spec.unusedFor, since when the revision is unused, by AWS's clock: since the first usage scan, since its use
    /// ended, or since its last task stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Time>,

    /// What stands in the way, with the code and the text of ECS where it refused. A long text is cut, and
    /// then ends with "...".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,

    /// What is still read from ECS about a retired revision: DeregisteredAt, which ECS reports only after the call, or
    /// Description, because a reconcile was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 32))]
    pub awaits: Option<Awaits>,

    /// True while it is unknown whether the revision is in use; the message says why.
    #[serde(default, skip_serializing_if = "is_false")]
    pub usage_unknown: bool,

    /// The error of AWS that the message reports. While it and the reason stay the same, the message must_wait the text
    /// of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AwsError>,
}

/// What is still read from ECS about a retired revision. What a later version writes is read as `Description`.
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

/// An error code of AWS, and the operation that AWS answered with it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsError {
    /// The operation of Amazon ECS or AWS STS, such as DescribeTaskDefinition.
    #[schemars(length(max = 64))]
    pub operation: String,

    /// The error code of AWS, such as AccessDeniedException.
    #[schemars(length(max = 128))]
    pub code: String,
}

/// What to do with a revision that is in use.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(inline)]
pub enum InUse {
    /// It is retired once nobody uses it.
    #[default]
    Wait,
    /// It is retired at once: what runs goes on, and nothing new can be started.
    Retire,
}
