//! References to task definitions in the descriptions of services and service deployments.

use std::collections::BTreeSet;

use aws_sdk_ecs::{
    primitives::DateTime,
    types::{
        Deployment, DeploymentConfiguration, DeploymentController, DeploymentControllerType as Controller,
        DeploymentRolloutState as RolloutState, DeploymentStrategy, Rollback, Service, ServiceDeployment,
        ServiceDeploymentBrief, ServiceDeploymentStatus as Status, ServiceRevisionSummary,
    },
};

use crate::aws::{
    response::{Failure, FailureKind},
    usage_scanner::calls::unclear,
};

/// Maximum seconds between the creation of a service and that of its first service deployment.
const CREATED_TOGETHER: i64 = 60;

/// References of one service to task definitions.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Task definitions that ECS returns directly.
    pub(super) task_definitions: BTreeSet<String>,
    /// Service revisions whose task definitions `DescribeServiceRevisions` returns.
    pub(super) service_revisions: BTreeSet<String>,
    /// Why a reference could not be resolved. The first access denial or, without one, the first
    /// failure.
    pub(super) unresolved: Option<Failure>,
}

impl References {
    /// Returns the references in the description of a service.
    pub(super) fn of(service: &Service) -> Self {
        let mut references = Self::default();
        let current = service.current_service_revisions().iter();
        for arn in current.map(|it| it.arn()) {
            references.service_revision("DescribeServices", arn);
        }
        let names_revisions = !references.service_revisions.is_empty();
        let own = service.task_definition();
        let deployments: Vec<_> = service.deployments().iter().map(|it| it.task_definition()).collect();
        let task_sets: Vec<_> = service.task_sets().iter().map(|it| it.task_definition()).collect();
        let named = deployments.iter().chain(&task_sets).chain([&own]).copied().flatten();
        references.task_definitions.extend(named.map(str::to_owned));
        if task_sets.contains(&None) {
            references.unclear("DescribeServices", "a task set names no task definition");
        }
        // An Express Mode service refers to service revisions instead.
        if deployments.contains(&None) && (own.is_some() || !names_revisions) {
            references.unclear("DescribeServices", "a deployment names no task definition");
        }
        // A service with an external controller has no reference before it has a task set.
        let has_no_task_set = controller(service) == Controller::External && service.task_sets.is_some();
        if references.task_definitions.is_empty() && !names_revisions && !has_no_task_set {
            references.unclear("DescribeServices", "the service names no task definition");
        }
        if ![Controller::Ecs, Controller::CodeDeploy, Controller::External].contains(&controller(service)) {
            let text = format!("unknown deployment controller {}", controller(service));
            references.unclear("DescribeServices", &text);
        }
        references
    }

    /// Adds the references of a service deployment as listed by `ListServiceDeployments`.
    pub(super) fn add_listed(&mut self, deployment: &ServiceDeploymentBrief) {
        self.service_revision("ListServiceDeployments", deployment.target_service_revision_arn());
    }

    /// Adds the references of a service deployment that is in progress.
    pub(super) fn add_described(&mut self, deployment: &ServiceDeployment) {
        let operation = "DescribeServiceDeployments";
        let target = deployment.target_service_revision();
        self.service_revision(operation, target.and_then(ServiceRevisionSummary::arn));
        for source in deployment.source_service_revisions() {
            self.service_revision(operation, source.arn());
        }
        if let Some(rollback) = deployment.rollback() {
            self.service_revision(operation, rollback.service_revision_arn());
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        let is_denied = |it: &Failure| it.kind == FailureKind::AccessDenied;
        // Only a denial is certain to need manual intervention.
        let kind = if is_denied(&failure) { failure.kind } else { FailureKind::Unavailable };
        if self.unresolved.is_none() || is_denied(&failure) && !self.is_denied() {
            self.unresolved = Some(Failure { kind, ..failure });
        }
    }

    pub(super) fn is_denied(&self) -> bool {
        self.unresolved.as_ref().is_some_and(|it| it.kind == FailureKind::AccessDenied)
    }

    pub(super) fn unclear(&mut self, operation: &str, text: &str) {
        self.fail(unclear(operation, text));
    }

    fn service_revision(&mut self, operation: &str, arn: Option<&str>) {
        match arn.filter(|it| !it.is_empty()) {
            Some(arn) => drop(self.service_revisions.insert(arn.to_owned())),
            None => self.unclear(operation, "a service revision has no ARN"),
        }
    }
}

/// Service deployments of a service as listed by `ListServiceDeployments`: those of the last 90
/// days.
pub(super) struct Listed<'a> {
    pub(super) in_progress: Vec<&'a ServiceDeploymentBrief>,
    /// The last successful service deployment, to which ECS rolls back.
    pub(super) last_success: Option<&'a ServiceDeploymentBrief>,
    /// ARNs to describe: those in progress, and the service's current one if it is older.
    pub(super) arns: Vec<String>,
}

impl<'a> Listed<'a> {
    pub(super) fn new(service: &Service, listed: &'a [ServiceDeploymentBrief]) -> Self {
        let in_progress: Vec<_> = listed.iter().filter(|it| is_in_progress(it.status())).collect();
        let successes = listed.iter().filter(|it| it.status() == Some(&Status::Successful));
        let last_success =
            successes.max_by_key(|it| it.finished_at().or(it.created_at()).map(DateTime::secs));
        let arns = in_progress.iter().filter_map(|it| it.service_deployment_arn());
        let is_listed = |arn: &&str| listed.iter().any(|it| it.service_deployment_arn() == Some(arn));
        let current = service.current_service_deployment().filter(|arn| !is_listed(arn));
        let arns = arns.chain(current).map(str::to_owned).collect();
        Self { in_progress, last_success, arns }
    }

    /// Returns true if the service deployment was listed as in progress.
    pub(super) fn is_in_progress(&self, arn: &str) -> bool {
        self.in_progress.iter().any(|it| it.service_deployment_arn() == Some(arn))
    }
}

/// Returns true if service deployments may refer to service revisions that are not in the
/// description of the service. Those are the revisions that a deployment in progress replaces and
/// would roll back to. A single completed rolling deployment replaces nothing, and task sets are
/// always in the description.
/// Source: `rolloutState` of `Deployment`, Amazon ECS API Reference.
pub(super) fn has_hidden_references(service: &Service) -> bool {
    let strategy = service.deployment_configuration().and_then(DeploymentConfiguration::strategy);
    let is_rolling = strategy.is_none_or(|it| *it == DeploymentStrategy::Rolling);
    let is_completed = |state: &RolloutState| *state == RolloutState::Completed;
    let is_steady = matches!(service.deployments(), [only] if only.rollout_state().is_some_and(is_completed));
    controller(service) == Controller::Ecs && !(is_rolling && is_steady)
}

/// Returns true unless the description of the service shows that no deployment is in progress. A
/// failed deployment has ended: ECS rolls back with a new one. Services behind a Classic Load
/// Balancer have no `rolloutState`.
/// Source: `rolloutState` of `Deployment`, Amazon ECS API Reference.
pub(super) fn is_deploying(service: &Service) -> bool {
    let has_failed = |it: &&Deployment| it.rollout_state() == Some(&RolloutState::Failed);
    let is_in_progress = |it: &Deployment| match it.rollout_state() {
        Some(state) => ![RolloutState::Completed, RolloutState::Failed].contains(state),
        None => it.running_count() != it.desired_count() || it.pending_count() > 0,
    };
    let deployments = service.deployments();
    deployments.iter().filter(|it| !has_failed(it)).count() > 1 || deployments.iter().any(is_in_progress)
}

/// Returns true unless the status is known to be final. A missing or unknown status counts as in
/// progress.
pub(super) fn is_in_progress(status: Option<&Status>) -> bool {
    let is_final = |status: &Status| {
        matches!(
            status,
            Status::Successful | Status::Stopped | Status::RollbackSuccessful | Status::RollbackFailed
        )
    };
    !status.is_some_and(is_final)
}

/// Returns true if ECS reports what a service deployment replaces: it names service revisions, or
/// it names none in a deployment that was created with the service.
/// Source: `describe-service-deployments`, AWS CLI Command Reference; the list is empty for the
/// first deployment.
pub(super) fn names_predecessor(service: &Service, deployment: &ServiceDeployment) -> bool {
    let is_first = || {
        let created = [service.created_at(), deployment.created_at()].map(|it| it.map(DateTime::secs));
        deployment.source_service_revisions.as_ref().is_some_and(Vec::is_empty)
            && matches!(created, [Some(service), Some(first)] if first <= service + CREATED_TOGETHER)
    };
    let rollback = deployment.rollback().and_then(Rollback::service_revision_arn);
    !deployment.source_service_revisions().is_empty() || rollback.is_some() || is_first()
}

/// Returns the deployment controller. The default is ECS.
/// Source: `deploymentController` of `CreateService`, Amazon ECS API Reference.
fn controller(service: &Service) -> Controller {
    service.deployment_controller().map_or(Controller::Ecs, |it| DeploymentController::r#type(it).clone())
}

#[cfg(test)]
mod tests;
