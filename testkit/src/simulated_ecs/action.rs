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
    /// ECS: the ARNs of the clusters, page by page.
    ListClusters,
    /// ECS: the ARNs of the ACTIVE services of a cluster, page by page.
    ListServices,
    /// ECS: services of a cluster, with their deployments and task sets.
    DescribeServices,
    /// ECS: the ARNs of the tasks of a cluster that a filter lets through, page by page.
    ListTasks,
    /// ECS: tasks of a cluster.
    DescribeTasks,
    /// ECS: how a service was deployed, the newest first, page by page.
    ListServiceDeployments,
    /// ECS: the source, the target and the rollback of service deployments.
    DescribeServiceDeployments,
    /// ECS: what service revisions are made of.
    DescribeServiceRevisions,
    /// STS: who the caller is.
    GetCallerIdentity,
    /// STS: credentials of a role for a token; needs no signature.
    AssumeRoleWithWebIdentity,
    /// Any call that the simulation does not know and refuses.
    Unknown,
}

impl Action {
    const KNOWN: [Self; 15] = [
        Self::DescribeTaskDefinition,
        Self::DeregisterTaskDefinition,
        Self::RegisterTaskDefinition,
        Self::ListTaskDefinitions,
        Self::DeleteTaskDefinitions,
        Self::ListClusters,
        Self::ListServices,
        Self::DescribeServices,
        Self::ListTasks,
        Self::DescribeTasks,
        Self::ListServiceDeployments,
        Self::DescribeServiceDeployments,
        Self::DescribeServiceRevisions,
        Self::GetCallerIdentity,
        Self::AssumeRoleWithWebIdentity,
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
            Self::ListClusters => "ListClusters",
            Self::ListServices => "ListServices",
            Self::DescribeServices => "DescribeServices",
            Self::ListTasks => "ListTasks",
            Self::DescribeTasks => "DescribeTasks",
            Self::ListServiceDeployments => "ListServiceDeployments",
            Self::DescribeServiceDeployments => "DescribeServiceDeployments",
            Self::DescribeServiceRevisions => "DescribeServiceRevisions",
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
            Self::Unknown => "Unknown",
        }
    }

    /// The action of that name, of either service.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::KNOWN.into_iter().find(|action| action.name() == name)
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
            Self::GetCallerIdentity | Self::AssumeRoleWithWebIdentity => Service::Sts,
            _ => Service::Ecs,
        }
    }

    /// The bucket that pays for the call; `None` for a call that is never throttled.
    pub(super) const fn bucket(self) -> Option<Bucket> {
        match self {
            Self::DeregisterTaskDefinition | Self::RegisterTaskDefinition => Some(Bucket::Modify),
            Self::DeleteTaskDefinitions => Some(Bucket::Delete),
            Self::DescribeTaskDefinition | Self::ListTaskDefinitions => Some(Bucket::Read),
            Self::ListClusters => Some(Bucket::ClusterRead),
            Self::ListServices | Self::DescribeServices => Some(Bucket::ServiceRead),
            Self::ListTasks | Self::DescribeTasks => Some(Bucket::ClusterResourceRead),
            Self::ListServiceDeployments | Self::DescribeServiceDeployments => {
                Some(Bucket::ServiceDeployment)
            }
            Self::DescribeServiceRevisions => Some(Bucket::ServiceRevision),
            Self::GetCallerIdentity | Self::AssumeRoleWithWebIdentity | Self::Unknown => None,
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
