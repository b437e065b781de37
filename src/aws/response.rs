//! What ECS answers about one revision, as data. Pure: knows no SDK.

use k8s_openapi::jiff::Timestamp;

use crate::{aws::usage::Use, task_definition::Arn};

/// What ECS says of a revision, without its container definitions: they may hold secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    pub status: Status,
    pub registered_at: Option<Timestamp>,
    pub deregistered_at: Option<Timestamp>,
}

/// The life of a revision. ECS has no way back from one to an earlier one.
/// Source: the `status` member of `TaskDefinition` in the ECS API Reference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Status {
    Active,
    Inactive,
    DeleteInProgress,
    /// One that this version does not know; never acted on.
    Other(String),
}

impl Status {
    /// The word exactly as ECS writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::DeleteInProgress => "DELETE_IN_PROGRESS",
            Self::Other(word) => word,
        }
    }

    /// Whether a revision in this status is retired: no new task can use it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        matches!(self, Self::Inactive | Self::DeleteInProgress)
    }
}

impl From<&str> for Status {
    fn from(word: &str) -> Self {
        match word {
            "ACTIVE" => Self::Active,
            "INACTIVE" => Self::Inactive,
            "DELETE_IN_PROGRESS" => Self::DeleteInProgress,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Why AWS did not do or tell what it was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub kind: FailureKind,
    /// For users: AWS's code and text if AWS answered, else why there was no answer. Never a request id.
    pub message: String,
    /// The operation of AWS that failed, such as `DescribeTaskDefinition`; `None` if it is not known.
    pub operation: Option<&'static str>,
    /// AWS's error code; `None` if AWS did not answer, or answered without one.
    pub code: Option<String>,
}

impl Failure {
    /// A failure of `kind` with a message for users.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), operation: None, code: None }
    }

    /// The same failure, of a call of `operation`.
    #[must_use]
    pub fn during(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Returns true if both are the same error of AWS. Texts of AWS may differ on every attempt, so they are compared
    /// only if there is no error code.
    #[must_use]
    pub fn is_same_error(&self, other: &Self) -> bool {
        let is_same_text = || self.message == other.message;
        (self.kind, self.operation, &self.code) == (other.kind, other.operation, &other.code)
            && (self.code.is_some() || is_same_text())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureKind {
    /// ECS has no such revision.
    Absent,
    /// ECS had the revision and has deleted it.
    Deleted,
    /// The account's calls are throttled.
    Throttled,
    /// No answer from AWS: whether the call took effect is not known, and the next call would fail as well.
    Unavailable,
    /// AWS answered with a fault of its own: whether the call took effect is not known.
    ServerFault,
    /// The credentials are missing, not valid, or not allowed to make the call.
    AccessDenied,
    /// Any other refusal.
    Refused,
}

/// What `ListTaskDefinitions` reports about the newest revision of a family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Newest {
    /// The highest number found.
    Number(i32),
    /// The family has no revision.
    None,
    /// ECS refuses the list.
    Refused(Failure),
}

impl Newest {
    /// Returns true if a revision of this number was registered before: numbers are given in order, and never again.
    #[must_use]
    pub fn is_after(&self, number: i32) -> bool {
        matches!(self, Self::Number(newest) if *newest > number)
    }
}

/// What `DescribeTaskDefinition` answered.
pub type Seen = Result<Description, Failure>;

/// What `DeregisterTaskDefinition` answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    pub answer: Seen,
    /// Of the call, as in CloudTrail; none where no answer came.
    pub request_id: Option<String>,
}

/// All that a pass learned of one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was looked at, and not to be deregistered.
    Described(Seen),
    /// It was ACTIVE and asked to be deregistered; `after` is what a look afterwards showed, where one was due.
    Deregistered { before: Description, reply: Reply, after: Option<Seen> },
    /// It is ACTIVE, and `usage` must_wait it from being deregistered. `before` is what a look showed, where one was made.
    MustWait { before: Option<Description>, usage: Use },
    /// Nobody uses it any more, and it waits for nothing but to be deregistered.
    Unused,
}

impl Reply {
    /// Whether a look afterwards is due: for ECS's time of a deregistration, which its reply leaves out, and
    /// after a refusal, which may mean that the revision is retired already.
    #[must_use]
    pub fn is_due_for_ecs(&self) -> bool {
        match &self.answer {
            Ok(_) => true,
            Err(failure) => matches!(failure.kind, FailureKind::Refused | FailureKind::Absent),
        }
    }
}

impl Outcome {
    /// Why the call that mattered failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<FailureKind> {
        let answer = match self {
            Self::Described(seen) => seen,
            Self::Deregistered { reply, .. } => &reply.answer,
            Self::MustWait { .. } | Self::Unused => return None,
        };
        answer.as_ref().err().map(|failure| failure.kind)
    }
}

/// Checks that ECS speaks of the revision it was asked about, and not of a namesake elsewhere.
///
/// # Errors
/// A refusal that names both ARNs.
pub fn same_revision(asked: &Arn, answered: Option<&str>) -> Result<(), Failure> {
    match answered {
        Some(answered) if answered == asked.to_string() => Ok(()),
        other => Err(Failure::new(
            FailureKind::Refused,
            format!("asked ECS for {asked}, and it answered for {}", other.unwrap_or("none")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_definition::Reference;

    #[test]
    fn only_a_higher_number_was_registered_after() {
        assert!(Newest::Number(4).is_after(3));
        assert!(!Newest::Number(3).is_after(3), "it is listed, and so not deleted");
        assert!(!Newest::Number(2).is_after(3));
        let refusal = Failure::new(FailureKind::Refused, "no");
        assert!(!Newest::None.is_after(3) && !Newest::Refused(refusal).is_after(3));
    }

    #[test]
    fn an_answer_for_another_revision_is_refused() {
        let text = "arn:aws:ecs:us-west-2:012345678910:task-definition/api:1";
        let Ok(Reference::Arn(asked)) = text.parse() else { panic!("an ARN") };
        assert_eq!(same_revision(&asked, Some(text)), Ok(()));
        let namesake = text.replace("us-west-2", "eu-west-1");
        for (answered, told) in [(Some(namesake.as_str()), namesake.as_str()), (None, "none")] {
            let refusal = same_revision(&asked, answered).expect_err("another");
            assert_eq!(refusal.kind, FailureKind::Refused);
            assert_eq!(refusal.message, format!("asked ECS for {text}, and it answered for {told}"));
        }
    }

    #[test]
    fn failures_with_one_error_code_are_the_same_error_whatever_their_texts() {
        let denied = |text: &str| Failure {
            code: Some("AccessDenied".to_owned()),
            ..Failure::new(FailureKind::AccessDenied, text).during("ListClusters")
        };
        assert!(denied("session 1").is_same_error(&denied("session 2")));
        assert!(!denied("no").is_same_error(&denied("no").during("ListTasks")));
        let unanswered = |text: &str| Failure::new(FailureKind::Unavailable, text);
        assert!(!unanswered("connection refused").is_same_error(&unanswered("no response in time")));
    }

    #[test]
    fn a_look_afterwards_is_due_for_a_time_or_for_a_refusal() {
        let wants = |answer| Reply { answer, request_id: None }.is_due_for_ecs();
        let failed = |kind| wants(Err(Failure::new(kind, String::new())));
        assert!(wants(Ok(Description {
            status: Status::Inactive,
            registered_at: None,
            deregistered_at: None
        })));
        assert!(failed(FailureKind::Refused) && failed(FailureKind::Absent));
        assert!(!failed(FailureKind::Throttled) && !failed(FailureKind::Unavailable));
        assert!(!failed(FailureKind::ServerFault) && !failed(FailureKind::AccessDenied));
    }

    #[test]
    fn what_failed_is_told_by_the_call_that_mattered() {
        let failure = |kind| Failure::new(kind, String::new());
        let before = Description { status: Status::Active, registered_at: None, deregistered_at: None };
        let asked = |answer| Outcome::Deregistered {
            before: before.clone(),
            reply: Reply { answer, request_id: None },
            after: Some(Err(failure(FailureKind::Throttled))),
        };
        let refused = FailureKind::Refused;
        assert_eq!(Outcome::Described(Err(failure(refused))).failure(), Some(refused));
        assert_eq!(asked(Err(failure(refused))).failure(), Some(refused));
        assert_eq!(asked(Ok(before.clone())).failure(), None, "the look afterwards does not matter");
        assert_eq!(Outcome::Unused.failure(), None);
    }
}
