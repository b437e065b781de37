//! The kind `EcsAccount`: an AWS account, its credentials, and what may be done in it. Data only.

#![expect(clippy::doc_markdown, reason = "kubectl explain shows the comments verbatim")]
#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a priority")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AwsError, schema};

/// An AWS account, the credentials for it, and what may be done there. Owned by the administrator
/// of the cluster.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "ecs-retirement.dev",
    version = "v1alpha1",
    kind = "EcsAccount",
    doc = "An EcsAccount is an AWS account in which revisions may be retired: which credentials are used, and which namespaces, regions and families are allowed. Only administrators of the cluster should be able to write it.",
    status = "EcsAccountStatus",
    shortname = "ecsa",
    category = "ecs",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Account",
        type_ = "string",
        json_path = ".spec.accountId",
        description = "AWS account ID."
    ),
    printcolumn(
        name = "Region",
        type_ = "string",
        json_path = ".spec.region",
        description = "Default region."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the credentials belong to the account."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the condition Ready."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Suspended",
        type_ = "boolean",
        priority = 1,
        json_path = ".spec.suspend",
        description = "Whether nothing is deregistered in this account."
    ),
    printcolumn(
        name = "Caller",
        type_ = "string",
        priority = 1,
        json_path = ".status.callerArn",
        description = "ARN of the credentials."
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.assumeRole) || self.assumeRole.roleArn.split(':').size() < 5 || self.assumeRole.roleArn.split(':')[4] == self.accountId")
        .message("spec.assumeRole.roleArn is a role of another account than spec.accountId: name a role in that account"),
    validation = Rule::new("!has(self.allowedRegions) || self.region in self.allowedRegions")
        .message("spec.region is not in spec.allowedRegions: add it, or change spec.region")
)]
pub struct EcsAccountSpec {
    /// The controller that serves this account: the value of its flag --controller-name. All other
    /// controllers treat the account as absent.
    #[serde(default = "default_controller_name")]
    #[schemars(length(min = 1, max = 63))]
    pub controller_name: String,

    /// The AWS account, as 12 digits in quotes: "012345678910". The credentials must belong to it;
    /// otherwise ECS is not called. It cannot be changed.
    #[schemars(length(max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9]{12}$')")
            .message("spec.accountId is the 12 digits of an AWS account, in quotes, such as \"012345678910\""),
        validation = Rule::new("self == oldSelf")
            .message("spec.accountId cannot be changed: make a new EcsAccount for the other account")
    )]
    pub account_id: String,

    /// The default region, such as us-west-2. It applies to resources without a region. AWS STS is
    /// called in this region.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')").message("write the code of an AWS region, such as us-west-2"))]
    pub region: String,

    /// The regions that resources may name. Default: the default region alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::regions")]
    pub allowed_regions: Option<Vec<String>>,

    /// The IAM role to assume with the controller's own credentials. Without it, the controller's
    /// own credentials are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,

    /// The namespaces whose resources may name this account. Without it, none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,

    /// The families whose revisions may be retired.
    pub families: Families,

    /// If true, a revision in use is never retired: resources with inUse: Retire are not allowed.
    #[serde(default)]
    pub require_unused: bool,

    /// How long a revision must have been unused before it is retired, such as 1h. A longer
    /// unusedFor of the resource applies instead. Implies requireUnused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$')").message("write a duration such as 20s, 90m or 24h"))]
    pub minimum_unused_for: Option<String>,

    /// While true, nothing is deregistered in this account.
    #[serde(default)]
    pub suspend: bool,

    /// The rate limit for deregistrations in this account, for each region. Default: the flags of
    /// the controller. If several EcsAccounts name one AWS account, the lowest rate applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<AccountPacing>,
}

fn default_controller_name() -> String {
    crate::CONTROLLER.to_owned()
}

/// An IAM role.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct AssumeRole {
    /// The ARN of the role, such as arn:aws:iam::012345678910:role/ecs-retirement. It must be a
    /// role of spec.accountId.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/.+$')").message("write the ARN of an IAM role, such as arn:aws:iam::012345678910:role/ecs-retirement"))]
    pub role_arn: String,

    /// The external ID that the trust policy of the role requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1224))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9_+=,.@:/-]*$')").message("an external ID has only letters, digits and the characters _+=,.@:/-"))]
    pub external_id: Option<String>,
}

/// A union of namespaces.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct AllowedNamespaces {
    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub names: Vec<String>,

    /// Labels of namespaces. An empty selector selects every namespace. A selector is only as
    /// strong as the right to label namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub selector: Option<LabelSelector>,
}

/// Families by name or glob. A revision is allowed if `allow` matches its family and `deny` does
/// not.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Families {
    /// Names of families, or globs such as web-*; * alone is every family.
    #[schemars(schema_with = "schema::allowed_globs")]
    pub allow: Vec<String>,

    /// Names of families, or globs, that are not allowed although `allow` matches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::globs")]
    pub deny: Vec<String>,
}

/// A rate limit for deregistrations.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct AccountPacing {
    /// Sustained deregistrations per minute. ECS allows 60 per minute in an account and region,
    /// deployments included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 600))]
    pub deregistrations_per_minute: Option<u32>,

    /// Maximum number of deregistrations at once after a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 1000))]
    pub deregistration_burst: Option<u32>,
}

/// A reference to an EcsAccount.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct AccountRef {
    /// The name of the EcsAccount.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The observed state of an account.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
// kstatus treats an object without a status as done, so the status has a default.
#[schemars(extend("default" = { "observedGeneration": -1 }))]
pub struct EcsAccountStatus {
    /// The generation of the spec that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready is True once the credentials are verified to belong to the account. It is a report: it
    /// neither allows nor prevents anything. Its reasons are Verified, AccountMismatch,
    /// AccessDenied and Unavailable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The last value of the annotation ecs-retirement.dev/requestedAt that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The ARN of the credentials, without the name of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub caller_arn: Option<String>,

    /// The AWS error that the message of the conditions reports. While the error and the reason
    /// stay the same, the message keeps the text of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AwsError>,
}
