//! The caller: a principal of an account in a region, and the ARNs derived from them. No I/O.

/// An account and a region, which all callers share: the scope of resources and token buckets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Location {
    pub(super) account: String,
    pub(super) region: String,
}

/// The principal of a call, with the account in which it acts and the region of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: String,
    pub(super) region: String,
    pub(super) principal: Principal,
}

/// An identity of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// A session of the role `controller`, for access keys that are assigned to an account.
    Default,
    /// An IAM user, by its ARN.
    User(String),
    /// A session of a role, created by `AssumeRole`.
    Session { role: String, name: String },
}

impl Caller {
    /// Creates the default caller of an account.
    pub(super) fn of(account: &str, region: &str) -> Self {
        let (account, region) = (account.to_owned(), region.to_owned());
        Self { account, region, principal: Principal::Default }
    }

    pub(super) fn location(&self) -> Location {
        Location { account: self.account.clone(), region: self.region.clone() }
    }

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
        let session = match &self.principal {
            Principal::User(arn) => return arn.clone(),
            Principal::Default => "controller/session".to_owned(),
            Principal::Session { role, name } => {
                let role_name = role.rsplit('/').next().unwrap_or_default();
                format!("{role_name}/{name}")
            }
        };
        format!("arn:{}:sts::{}:assumed-role/{session}", self.partition(), self.account)
    }

    /// Returns the ARN of the caller's role; `None` for a user.
    pub(super) fn role(&self) -> Option<String> {
        match &self.principal {
            Principal::User(_) => None,
            Principal::Default => {
                Some(format!("arn:{}:iam::{}:role/controller", self.partition(), self.account))
            }
            Principal::Session { role, .. } => Some(role.clone()),
        }
    }

    /// Returns the unique ID of the caller.
    pub(super) fn user_id(&self) -> String {
        match &self.principal {
            Principal::User(_) => "AIDAIOSFODNN7EXAMPLE".to_owned(),
            Principal::Default => "AROAIOSFODNN7EXAMPLE:session".to_owned(),
            Principal::Session { name, .. } => format!("AROAIOSFODNN7EXAMPLE:{name}"),
        }
    }

    pub(super) fn task_definition_arn(&self, family: &str, revision: i32) -> String {
        self.ecs_arn(&format!("task-definition/{family}:{revision}"))
    }

    /// Returns the ARN of an ECS resource in this account and region.
    pub(super) fn ecs_arn(&self, resource: &str) -> String {
        format!("arn:{}:ecs:{}:{}:{resource}", self.partition(), self.region, self.account)
    }
}

/// Returns the account in an ARN.
pub(super) fn account_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(4).filter(|account| !account.is_empty())
}
