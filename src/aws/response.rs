//! Responses of ECS about one revision, as data without SDK types.

use k8s_openapi::jiff::Timestamp;

use crate::task_definition::Arn;

/// A revision as ECS describes it, without the container definitions, which may contain secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    pub status: Status,
    pub registered_at: Option<Timestamp>,
    pub deregistered_at: Option<Timestamp>,
}

/// Lifecycle status of a revision. ECS never returns a revision to an earlier status.
/// Source: the `status` member of `TaskDefinition` in the ECS API Reference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Status {
    Active,
    Inactive,
    DeleteInProgress,
    /// A status that this version does not know. Never acted on.
    Other(String),
}

impl Status {
    /// Returns the status exactly as ECS writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::DeleteInProgress => "DELETE_IN_PROGRESS",
            Self::Other(text) => text,
        }
    }

    /// Returns true if a revision in this status is retired, so that no new task can use it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        matches!(self, Self::Inactive | Self::DeleteInProgress)
    }
}

impl From<&str> for Status {
    fn from(text: &str) -> Self {
        match text {
            "ACTIVE" => Self::Active,
            "INACTIVE" => Self::Inactive,
            "DELETE_IN_PROGRESS" => Self::DeleteInProgress,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A failed call to AWS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Message for users: the error code and text of AWS, or why there was no response. It has no
    /// request ids, so that the same error does not change the status.
    pub message: String,
    /// The operation that failed, such as `DescribeTaskDefinition`. `None` if it is not known.
    pub operation: Option<&'static str>,
    /// AWS's error code. `None` if AWS did not respond, or responded without one.
    pub code: Option<String>,
}

impl Failure {
    /// Creates a failure of `kind` with a message for users.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), operation: None, code: None }
    }

    /// Returns the same failure with the operation set to `operation`.
    #[must_use]
    pub fn during(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Returns true if both are the same error of AWS. Messages of AWS may differ between attempts,
    /// so they are compared only if there is no error code.
    #[must_use]
    pub fn is_same_error(&self, other: &Self) -> bool {
        let is_same_text = || self.message == other.message;
        (self.kind, self.operation, &self.code) == (other.kind, other.operation, &other.code)
            && (self.code.is_some() || is_same_text())
    }
}

/// Kind of a failed call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureKind {
    /// ECS has no such revision.
    Absent,
    /// ECS had the revision and has deleted it.
    Deleted,
    /// The account's calls are throttled.
    Throttled,
    /// No response from AWS. The call may have taken effect, and other calls are likely to fail
    /// too.
    Unavailable,
    /// AWS responded with a server fault. The call may have taken effect.
    ServerFault,
    /// The credentials are missing, invalid, or not allowed to make the call.
    AccessDenied,
    /// The credentials belong to another account than the one they are declared for.
    AccountMismatch,
    /// AWS rejected the call for any other reason.
    Refused,
}

/// Newest revision of a family, as reported by `ListTaskDefinitions`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Newest {
    /// The highest revision number found.
    Number(i32),
    /// The family has no revision.
    None,
    /// ECS rejected the call.
    Refused(Failure),
}

impl Newest {
    /// Returns true if a revision with a higher number exists, so that revision `number` was
    /// registered before. ECS assigns numbers in ascending order and never reuses them.
    #[must_use]
    pub fn is_after(&self, number: i32) -> bool {
        matches!(self, Self::Number(newest) if *newest > number)
    }
}

/// Result of `DescribeTaskDefinition`.
pub type DescribeResult = Result<Description, Failure>;

/// Result of `DeregisterTaskDefinition`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    pub response: DescribeResult,
    /// The request id of the call, as in CloudTrail. `None` if there was no response.
    pub request_id: Option<String>,
}

impl Reply {
    /// Returns true if the revision must be described again. The response to a deregistration omits
    /// `deregisteredAt`, and a rejection may mean that the revision is already retired.
    #[must_use]
    pub fn needs_description(&self) -> bool {
        match &self.response {
            Ok(_) => true,
            Err(failure) => matches!(failure.kind, FailureKind::Refused | FailureKind::Absent),
        }
    }
}

/// Checks that the response is about the requested revision, and not about one with the same name
/// in another account or region.
///
/// # Errors
/// Returns a `Refused` failure that names both ARNs if they differ.
pub fn same_revision(requested: &Arn, returned: Option<&str>) -> Result<(), Failure> {
    match returned {
        Some(returned) if returned == requested.to_string() => Ok(()),
        None => {
            let text = format!("the response of ECS does not have {requested}");
            Err(Failure::new(FailureKind::ServerFault, text))
        }
        Some(other) => {
            let text = format!("ECS returned {other} instead of {requested}");
            Err(Failure::new(FailureKind::Refused, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_definition::Reference;

    #[test]
    fn newest_is_after_only_lower_revision_numbers() {
        assert!(Newest::Number(4).is_after(3));
        assert!(!Newest::Number(3).is_after(3), "a listed revision is not deleted");
        assert!(!Newest::Number(2).is_after(3));
        let rejection = Failure::new(FailureKind::Refused, "no");
        assert!(!Newest::None.is_after(3) && !Newest::Refused(rejection).is_after(3));
    }

    #[test]
    fn response_for_another_revision_is_rejected() {
        let text = "arn:aws:ecs:us-west-2:012345678910:task-definition/api:1";
        let Ok(Reference::Arn(requested)) = text.parse() else { panic!("not an ARN") };
        assert_eq!(same_revision(&requested, Some(text)), Ok(()));
        let namesake = text.replace("us-west-2", "eu-west-1");
        let failure = same_revision(&requested, Some(&namesake)).expect_err("not the requested revision");
        assert_eq!(failure.kind, FailureKind::Refused);
        assert_eq!(failure.message, format!("ECS returned {namesake} instead of {text}"));
        let failure = same_revision(&requested, None).expect_err("no revision");
        assert_eq!(failure.kind, FailureKind::ServerFault, "no person has to act");
    }

    #[test]
    fn failures_with_the_same_error_code_are_the_same_error_regardless_of_message() {
        let denied = |text: &str| Failure {
            code: Some("AccessDenied".to_owned()),
            ..Failure::new(FailureKind::AccessDenied, text).during("ListClusters")
        };
        assert!(denied("session 1").is_same_error(&denied("session 2")));
        assert!(!denied("no").is_same_error(&denied("no").during("ListTasks")));
        let unavailable = |text: &str| Failure::new(FailureKind::Unavailable, text);
        assert!(!unavailable("connection refused").is_same_error(&unavailable("no response in time")));
    }

    #[test]
    fn describe_is_repeated_after_success_and_after_a_rejection() {
        let is_due = |response| Reply { response, request_id: None }.needs_description();
        let failed = |kind| is_due(Err(Failure::new(kind, String::new())));
        assert!(is_due(Ok(Description {
            status: Status::Inactive,
            registered_at: None,
            deregistered_at: None
        })));
        assert!(failed(FailureKind::Refused) && failed(FailureKind::Absent));
        assert!(!failed(FailureKind::Throttled) && !failed(FailureKind::Unavailable));
        assert!(!failed(FailureKind::ServerFault) && !failed(FailureKind::AccessDenied));
    }
}
