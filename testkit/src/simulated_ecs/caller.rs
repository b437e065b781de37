//! The caller: an account in a region, and the ARNs derived from them. No I/O.

/// The account and region that a call is signed for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) account: String,
    pub(super) region: String,
}

impl Caller {
    pub(super) fn partition(&self) -> &'static str {
        if self.region.starts_with("us-gov-") {
            "aws-us-gov"
        } else if self.region.starts_with("cn-") {
            "aws-cn"
        } else {
            "aws"
        }
    }

    /// Returns the ARN of the caller, as reported by STS, named by IAM in a denial, and recorded by
    /// ECS as `registeredBy`.
    pub(super) fn arn(&self) -> String {
        format!("arn:{}:sts::{}:assumed-role/controller/session", self.partition(), self.account)
    }

    pub(super) fn task_definition_arn(&self, family: &str, revision: i32) -> String {
        self.ecs_arn(&format!("task-definition/{family}:{revision}"))
    }

    /// Returns the ARN of an ECS resource in this account and region.
    pub(super) fn ecs_arn(&self, resource: &str) -> String {
        format!("arn:{}:ecs:{}:{}:{resource}", self.partition(), self.region, self.account)
    }
}
