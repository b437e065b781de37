//! The kind `TaskDefinitionRetentionPolicy`: a rule that proposes retirements. Data only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccountRef, AwsError, schema};

/// The label of a retirement that names its policy. It stays when the owner reference is removed.
pub const POLICY_LABEL: &str = "ecs-retirement.dev/policy";

/// The label of a retirement with the uid of its policy. It stays when the owner reference is
/// removed.
pub const POLICY_UID_LABEL: &str = "ecs-retirement.dev/policy-uid";

/// The annotation of a retirement with the generation of the policy that last chose its revisions.
pub const POLICY_GENERATION: &str = "ecs-retirement.dev/policy-generation";

/// A rule for which revisions are kept. All others are proposed for retirement.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ecs-retirement.dev",
    version = "v1alpha1",
    kind = "TaskDefinitionRetentionPolicy",
    doc = "A TaskDefinitionRetentionPolicy keeps the newest revisions of task definition families and proposes all others for retirement: it creates TaskDefinitionRetirements, as a CronJob creates Jobs. By default a user approves each of them by setting its spec.suspend to false.",
    namespaced,
    status = "TaskDefinitionRetentionPolicyStatus",
    shortname = "tdrp",
    category = "ecs",
    derive = "Default",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name is longer than 52 characters: the names of the retirements of a policy begin with it"),
    printcolumn(
        name = "Families",
        type_ = "integer",
        json_path = ".status.matchedFamilies",
        description = "Number of families that the policy includes."
    ),
    printcolumn(
        name = "Retirable",
        type_ = "integer",
        json_path = ".status.retirable",
        description = "Number of revisions that are not kept, unused and not declared yet."
    ),
    printcolumn(
        name = "Pending",
        type_ = "integer",
        json_path = ".status.pendingApproval",
        description = "Number of retirements that wait for approval."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the last run succeeded."
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.nextRunTime",
        description = "Time of the next run."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the condition Ready."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Result of the last run, or what prevents it."
    )
)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.accountRef) || (has(self.accountRef) && self.accountRef.name == oldSelf.accountRef.name)")
        .message("spec.accountRef cannot be changed once it is set: make a new TaskDefinitionRetentionPolicy for the other account"),
    validation = Rule::new("!has(oldSelf.accountId) || (has(self.accountId) && self.accountId == oldSelf.accountId)")
        .message("spec.accountId cannot be changed once it is set: make a new TaskDefinitionRetentionPolicy for the other account"),
    validation = Rule::new("!has(oldSelf.region) || (has(self.region) && self.region == oldSelf.region)")
        .message("spec.region cannot be changed once it is set: make a new TaskDefinitionRetentionPolicy for the other region"),
)]
pub struct TaskDefinitionRetentionPolicySpec {
    /// The EcsAccount whose credentials are used. Without it, the controller's own credentials are
    /// used. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_ref: Option<AccountRef>,

    /// The AWS account of the families, as 12 digits in quotes: "012345678910". It cannot be
    /// changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("spec.accountId is the 12 digits of an AWS account, in quotes, such as \"012345678910\""))]
    pub account_id: Option<String>,

    /// The AWS region of the families, such as us-west-2. If it is not set, the default region of
    /// the EcsAccount or of the controller applies. It cannot be changed once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')").message("write the code of an AWS region, such as us-west-2"))]
    pub region: Option<String>,

    /// The families to which the policy applies.
    pub families: PolicyFamilies,

    /// The revisions to keep.
    pub keep: Keep,

    /// The time between the starts of two runs, at least 1m.
    #[serde(default = "default_interval")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 90m or 24h"),
        validation = Rule::new("!self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$') || duration(self) >= duration('1m')").message("spec.interval is at least 1m")
    )]
    pub interval: String,

    /// Whether proposed retirements wait for approval (Manual), or start at once (Automatic). A
    /// retirement is approved by setting its spec.suspend to false.
    #[serde(default)]
    pub approval: Approval,

    /// Maximum number of revisions that one run proposes.
    #[serde(default = "default_max_revisions")]
    #[schemars(with = "i32", range(min = 1, max = 5000))]
    pub max_revisions_per_run: u32,

    /// Number of finished retirements to keep. Without it, none is ever deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 10000))]
    pub history_limit: Option<u32>,

    /// While true, nothing is proposed, and nothing that the policy proposed is deregistered.
    #[serde(default)]
    pub suspend: bool,

    /// Fields of the retirements that are created from now on.
    #[serde(default)]
    pub retirement: RetirementTemplate,
}

fn default_interval() -> String {
    "24h".to_owned()
}

fn default_max_revisions() -> u32 {
    500
}

/// Families by name or glob. A family is included if `include` matches it and `exclude` does not.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PolicyFamilies {
    /// Names of families, or globs such as web-*; * alone is every family.
    #[schemars(schema_with = "schema::allowed_globs")]
    pub include: Vec<String>,

    /// Names of families, or globs, that are not included although `include` matches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::globs")]
    pub exclude: Vec<String>,
}

/// What is kept. A revision is kept if any of the fields keeps it.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Keep {
    /// Number of the newest ACTIVE revisions of each family.
    #[schemars(with = "i32", range(min = 1, max = 1000))]
    pub latest: u32,

    /// Revisions that were registered more recently, such as 720h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 90m or 720h"))]
    pub younger_than: Option<String>,

    /// Revisions that are never proposed, each as family:revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::kept_revisions")]
    pub revisions: Vec<String>,
}

/// Whether proposed retirements wait for approval.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(inline)]
pub enum Approval {
    /// Retirements are created suspended.
    #[default]
    Manual,
    /// Retirements start at once.
    Automatic,
}

/// Fields of the created retirements.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RetirementTemplate {
    /// How long a revision must have been unused before it is retired, such as 24h. It counts from
    /// the approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 20s, 90m or 24h"))]
    pub unused_for: Option<String>,

    /// If true, the retirements only show what would be deregistered, and each run replaces them.
    #[serde(default)]
    pub dry_run: bool,
}

/// The observed state of a policy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
// kstatus treats an object without a status as done, so the status has a default.
#[schemars(extend("default" = { "observedGeneration": -1 }))]
pub struct TaskDefinitionRetentionPolicyStatus {
    /// The generation of the spec that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready is True once a run has succeeded, while the policy is suspended, and while retirements
    /// wait for approval. Overlapping is present while another policy of the namespace includes the
    /// same families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The last value of the annotation ecs-retirement.dev/requestedAt that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The AWS account of the families, 12 digits. It is resolved once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub account: Option<String>,

    /// The AWS region of the families. It is resolved once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,

    /// The start of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_time: Option<Time>,

    /// The generation of the spec that the last run was based on. If the spec changes, a run is
    /// due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_generation: Option<i64>,

    /// The end of the last run. Absent while a run is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_completion_time: Option<Time>,

    /// The start of the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_time: Option<Time>,

    /// Number of families that the last run included.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub matched_families: i32,

    /// Number of revisions that would be proposed, but are in use. The next run considers them
    /// again.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub in_use: i32,

    /// Number of revisions that are not kept, unused and not declared by an unfinished retirement,
    /// as far as the last run has read the families.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub retirable: i32,

    /// Number of retirements of the policy that wait for approval.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub pending_approval: i32,

    /// The AWS error that the message of the conditions reports. While the error and the reason
    /// stay the same, the message keeps the text of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AwsError>,
}
