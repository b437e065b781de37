//! The calls that the simulation supports, with their AWS names.

use super::throttling::Bucket;

/// A call of the ECS or STS API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// ECS: describes one task definition, given by family, by `family:revision` or by ARN.
    DescribeTaskDefinition,
    /// ECS: makes one revision INACTIVE.
    DeregisterTaskDefinition,
    /// ECS: creates a revision of a family.
    RegisterTaskDefinition,
    /// ECS: lists the ARNs of the revisions of one status, in pages.
    ListTaskDefinitions,
    /// ECS: lists the names of the families that start with a prefix, in pages.
    ListTaskDefinitionFamilies,
    /// ECS: moves INACTIVE revisions to `DELETE_IN_PROGRESS`.
    DeleteTaskDefinitions,
    /// ECS: lists the ARNs of the clusters, in pages.
    ListClusters,
    /// ECS: lists the ARNs of the ACTIVE services of a cluster, in pages.
    ListServices,
    /// ECS: describes services of a cluster, with their deployments and task sets.
    DescribeServices,
    /// ECS: lists the ARNs of the tasks of a cluster that match a filter, in pages.
    ListTasks,
    /// ECS: describes tasks of a cluster.
    DescribeTasks,
    /// ECS: lists the deployments of a service, newest first, in pages.
    ListServiceDeployments,
    /// ECS: describes the source, the target and the rollback of service deployments.
    DescribeServiceDeployments,
    /// ECS: describes service revisions.
    DescribeServiceRevisions,
    /// STS: returns the identity of the caller.
    GetCallerIdentity,
    /// STS: returns credentials of a role to a trusted caller.
    AssumeRole,
    /// STS: returns credentials of a role for a token; needs no signature.
    AssumeRoleWithWebIdentity,
    /// Any unsupported call, which is rejected.
    Unknown,
}

impl Action {
    const KNOWN: [Self; 17] = [
        Self::DescribeTaskDefinition,
        Self::DeregisterTaskDefinition,
        Self::RegisterTaskDefinition,
        Self::ListTaskDefinitions,
        Self::ListTaskDefinitionFamilies,
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
        Self::AssumeRole,
        Self::AssumeRoleWithWebIdentity,
    ];

    /// Returns the name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DescribeTaskDefinition => "DescribeTaskDefinition",
            Self::DeregisterTaskDefinition => "DeregisterTaskDefinition",
            Self::RegisterTaskDefinition => "RegisterTaskDefinition",
            Self::ListTaskDefinitions => "ListTaskDefinitions",
            Self::ListTaskDefinitionFamilies => "ListTaskDefinitionFamilies",
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
            Self::AssumeRole => "AssumeRole",
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
            Self::Unknown => "Unknown",
        }
    }

    /// Returns the action of that name, of either service.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::KNOWN.into_iter().find(|action| action.name() == name)
    }

    /// Returns the action of that name if `service` has it, or `Unknown`.
    pub(super) fn of(service: Service, name: &str) -> Self {
        Self::KNOWN
            .into_iter()
            .find(|action| action.name() == name && action.service() == service)
            .unwrap_or(Self::Unknown)
    }

    /// Returns true for calls of ECS, false for calls of STS. An unsupported call counts as ECS.
    #[must_use]
    pub const fn is_ecs(self) -> bool {
        matches!(self.service(), Service::Ecs)
    }

    const fn service(self) -> Service {
        match self {
            Self::GetCallerIdentity | Self::AssumeRole | Self::AssumeRoleWithWebIdentity => Service::Sts,
            _ => Service::Ecs,
        }
    }

    /// Returns the token bucket of the call; `None` if the call is never throttled.
    pub(super) const fn bucket(self) -> Option<Bucket> {
        match self {
            Self::DeregisterTaskDefinition | Self::RegisterTaskDefinition => Some(Bucket::Modify),
            Self::DeleteTaskDefinitions => Some(Bucket::Delete),
            Self::DescribeTaskDefinition | Self::ListTaskDefinitions | Self::ListTaskDefinitionFamilies => {
                Some(Bucket::Read)
            }
            Self::ListClusters => Some(Bucket::ClusterRead),
            Self::ListServices | Self::DescribeServices => Some(Bucket::ServiceRead),
            Self::ListTasks | Self::DescribeTasks => Some(Bucket::ClusterResourceRead),
            Self::ListServiceDeployments | Self::DescribeServiceDeployments => {
                Some(Bucket::ServiceDeployment)
            }
            Self::DescribeServiceRevisions => Some(Bucket::ServiceRevision),
            Self::GetCallerIdentity | Self::AssumeRole | Self::AssumeRoleWithWebIdentity | Self::Unknown => {
                None
            }
        }
    }
}

/// The two services of the endpoint, each with its own protocol and error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Ecs,
    Sts,
}

impl Service {
    /// Returns the name in the credential scope of a signature and in IAM actions.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::Sts => "sts",
        }
    }
}
