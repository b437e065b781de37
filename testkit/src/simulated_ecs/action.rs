//! The calls the simulation answers, by the names AWS gives them.

use super::throttling::Bucket;

/// A call of the API of ECS or STS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// ECS: one task definition, by family, by `family:revision` or by ARN.
    DescribeTaskDefinition,
    /// ECS: makes one revision INACTIVE.
    DeregisterTaskDefinition,
    /// ECS: makes a new revision of a family.
    RegisterTaskDefinition,
    /// ECS: the ARNs of the revisions of one status, page by page.
    ListTaskDefinitions,
    /// ECS: moves INACTIVE revisions to `DELETE_IN_PROGRESS`.
    DeleteTaskDefinitions,
    /// STS: who the caller is.
    GetCallerIdentity,
    /// Any call that the simulation does not know and refuses.
    Unknown,
}

impl Action {
    const KNOWN: [Self; 6] = [
        Self::DescribeTaskDefinition,
        Self::DeregisterTaskDefinition,
        Self::RegisterTaskDefinition,
        Self::ListTaskDefinitions,
        Self::DeleteTaskDefinitions,
        Self::GetCallerIdentity,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DescribeTaskDefinition => "DescribeTaskDefinition",
            Self::DeregisterTaskDefinition => "DeregisterTaskDefinition",
            Self::RegisterTaskDefinition => "RegisterTaskDefinition",
            Self::ListTaskDefinitions => "ListTaskDefinitions",
            Self::DeleteTaskDefinitions => "DeleteTaskDefinitions",
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::Unknown => "Unknown",
        }
    }

    /// The action of that name, if `service` has it.
    pub(super) fn of(service: Service, name: &str) -> Self {
        Self::KNOWN
            .into_iter()
            .find(|action| action.name() == name && action.service() == service)
            .unwrap_or(Self::Unknown)
    }

    const fn service(self) -> Service {
        match self {
            Self::GetCallerIdentity => Service::Sts,
            _ => Service::Ecs,
        }
    }

    /// The bucket that pays for the call; `None` for a call that is never throttled.
    pub(super) const fn bucket(self) -> Option<Bucket> {
        match self {
            Self::DeregisterTaskDefinition | Self::RegisterTaskDefinition => Some(Bucket::Modify),
            Self::DeleteTaskDefinitions => Some(Bucket::Delete),
            Self::DescribeTaskDefinition | Self::ListTaskDefinitions => Some(Bucket::Read),
            Self::GetCallerIdentity | Self::Unknown => None,
        }
    }
}

/// The two services behind the one endpoint: each has a protocol and error codes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Ecs,
    Sts,
}

impl Service {
    /// The name in a signature's credential scope and in an IAM action.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::Sts => "sts",
        }
    }
}
