//! What ECS answers about one revision, as data. Pure: knows no SDK.

use k8s_openapi::jiff::Timestamp;

use crate::{ecs::usage::Use, task_definition::Arn};

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
    /// For a person: AWS's code and text where AWS answered. The same for the same situation; never a request id.
    pub message: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureKind {
    /// ECS has no such revision.
    Absent,
    /// The account's calls are throttled.
    Throttled,
    /// No answer: whether the call took effect is not known, and the next call would fare no better.
    Unavailable,
    /// AWS answered with a fault of its own: whether the call took effect is not known.
    ServerFault,
    /// The credentials are missing, not valid, or not allowed to make the call.
    AccessDenied,
    /// Any other refusal.
    Refused,
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
    Seen(Seen),
    /// It was ACTIVE and asked to be deregistered; `after` is what a look afterwards showed, where one was due.
    Asked { before: Description, reply: Reply, after: Option<Seen> },
    /// It is ACTIVE, and `usage` keeps it from being deregistered. `before` is what a look showed, where one was made.
    Used { before: Option<Description>, usage: Use },
    /// Nobody uses it any more, and it waits for nothing but to be deregistered.
    Free,
}

impl Reply {
    /// Whether a look afterwards is due: for ECS's time of a deregistration, which its reply leaves out, and
    /// after a refusal, which may mean that the revision is retired already.
    #[must_use]
    pub fn wants_a_look(&self) -> bool {
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
            Self::Seen(seen) => seen,
            Self::Asked { reply, .. } => &reply.answer,
            Self::Used { .. } | Self::Free => return None,
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
        other => Err(Failure {
            kind: FailureKind::Refused,
            message: format!("asked ECS for {asked}, and it answered for {}", other.unwrap_or("none")),
        }),
    }
}
