//! Who calls: an account in a region, and the names that follow from them; pure.

/// The account and region that the signature of a call names.
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

    /// The ARN that STS gives, that IAM names in a refusal, and that ECS notes as `registeredBy`.
    pub(super) fn arn(&self) -> String {
        format!("arn:{}:sts::{}:assumed-role/controller/session", self.partition(), self.account)
    }

    pub(super) fn task_definition_arn(&self, family: &str, revision: i32) -> String {
        self.ecs_arn(&format!("task-definition/{family}:{revision}"))
    }

    /// The ARN of anything that ECS has in this account and region.
    pub(super) fn ecs_arn(&self, resource: &str) -> String {
        format!("arn:{}:ecs:{}:{}:{resource}", self.partition(), self.region, self.account)
    }
}
