//! Usage scans: find the revisions in use in an account and region, at half of ECS's own rates.

use std::{collections::HashSet, mem, sync::Arc};

use aws_sdk_ecs::types::{DesiredStatus, Service, ServiceRevision, Task};
use k8s_openapi::jiff::Timestamp;

use crate::aws::{
    ecs_client::Ecs,
    response::{Failure, FailureKind},
    usage::{Found, User, short},
    usage_scanner::{
        calls::{CallError, Described},
        reader::{EcsReader, SERVICE_DEPLOYMENTS, SERVICE_REVISIONS, SERVICES, TASKS},
        references::{
            Listed, References, has_hidden_references, is_deploying, is_in_progress, names_predecessor,
        },
    },
};

mod calls;
mod reader;
mod references;

pub use reader::ScanBuckets;

/// Usage scanner of one account and region. Runs one scan at a time.
pub(super) struct UsageScanner {
    ecs: EcsReader,
    /// Listed clusters that did not exist in the last scan. Those that a failed scan did not reach
    /// are not included.
    gone: HashSet<String>,
}

impl UsageScanner {
    pub(super) fn new(ecs: Arc<Ecs>, buckets: Arc<ScanBuckets>) -> Self {
        Self { ecs: EcsReader { ecs, buckets }, gone: HashSet::new() }
    }

    /// Returns all users of all revisions, and the references that could not be resolved. Users are
    /// the services of every cluster, with their deployments, task sets and rollbacks, and the
    /// tasks that have not stopped.
    ///
    /// A listed cluster that does not exist in two consecutive scans has no users. In the second
    /// one, the first call about it must say so.
    ///
    /// # Errors
    /// Returns the failure of a call, unless it concerns only one service or one cluster. A partial
    /// scan is never used.
    pub(super) async fn scan(&mut self) -> Result<Found, Failure> {
        let (mut found, gone_before) = (Found::default(), mem::take(&mut self.gone));
        for cluster in &self.ecs.list_clusters().await.map_err(CallError::into_failure)? {
            match self.scan_cluster(cluster, &mut found).await {
                Ok(()) => {}
                Err(CallError::ClusterGone(_)) if gone_before.contains(cluster) => {
                    self.gone.insert(cluster.clone());
                }
                Err(CallError::ClusterGone(failure) | CallError::ClusterVanished(failure)) => {
                    self.gone.insert(cluster.clone());
                    found.note_unresolved(format!("cluster/{}", short(cluster)), failure);
                }
                Err(error) => return Err(error.into_failure()),
            }
        }
        Ok(found)
    }

    /// Adds the users in one cluster.
    async fn scan_cluster(&mut self, cluster: &str, found: &mut Found) -> Result<(), CallError> {
        let services = self.ecs.list_services(cluster).await?;
        let users = self.add_users(cluster, &services, found).await;
        users.map_err(CallError::of_existing_cluster)
    }

    async fn add_users(
        &mut self,
        cluster: &str,
        services: &[String],
        found: &mut Found,
    ) -> Result<(), CallError> {
        for arns in services.chunks(SERVICES) {
            for (arn, service) in self.ecs.describe_services(cluster, arns).await? {
                Box::pin(self.add_service(cluster, &arn, service, found)).await?;
            }
        }
        for status in [DesiredStatus::Running, DesiredStatus::Stopped] {
            for arns in self.ecs.list_tasks(cluster, &status).await?.chunks(TASKS) {
                for (arn, task) in self.ecs.describe_tasks(cluster, arns).await? {
                    add_task(cluster, &arn, task, found);
                }
            }
        }
        Ok(())
    }

    /// Adds the revisions that a service uses. Describes the service again if it was changed or
    /// deleted between two calls.
    async fn add_service(
        &mut self,
        cluster: &str,
        arn: &str,
        service: Described<Service>,
        found: &mut Found,
    ) -> Result<(), CallError> {
        let mut references = self.references(cluster, service).await?;
        if references.unresolved.is_some() && !references.is_denied() {
            references = References::default();
            for (_, service) in self.ecs.describe_services(cluster, &[arn.to_owned()]).await? {
                references = self.references(cluster, service).await?;
            }
        }
        let user = User::Service { cluster: short(cluster).to_owned(), name: short(arn).to_owned() };
        for task_definition in &references.task_definitions {
            found.note(Some(task_definition), &user);
        }
        if let Some(failure) = references.unresolved {
            found.note_unresolved(user.to_string(), failure);
        }
        Ok(())
    }

    async fn references(
        &mut self,
        cluster: &str,
        service: Described<Service>,
    ) -> Result<References, CallError> {
        let mut references = References::default();
        match service {
            // ECS returns deleted services for some time.
            Described::Found(service) if service.status() == Some("INACTIVE") => {}
            Described::Missing(_) => {}
            Described::Unclear(failure) => references.fail(failure),
            Described::Found(service) => {
                references = References::of(&service);
                if has_hidden_references(&service) {
                    self.add_deployments(cluster, &service, &mut references).await?;
                }
                self.add_service_revisions(&mut references).await?;
            }
        }
        Ok(references)
    }

    /// Adds the service revisions that deployments in progress deploy, replace, and roll back to.
    async fn add_deployments(
        &mut self,
        cluster: &str,
        service: &Service,
        references: &mut References,
    ) -> Result<(), CallError> {
        let operation = "DescribeServiceDeployments";
        let arn = service.service_arn().unwrap_or_default();
        let listed = self.ecs.list_service_deployments(cluster, arn).await;
        let Some(listed) = unless_rejected(listed, references)? else { return Ok(()) };
        let listed = Listed::new(service, &listed);
        for deployment in &listed.in_progress {
            references.add_listed(deployment);
        }
        let mut is_deploying = !listed.in_progress.is_empty() || is_deploying(service);
        // A deployment without an ARN cannot be described.
        let mut is_resolved = listed.in_progress.iter().all(|it| it.service_deployment_arn().is_some());
        let mut is_described = false;
        for arns in listed.arns.chunks(SERVICE_DEPLOYMENTS) {
            let described = match self.ecs.describe_service_deployments(arns).await {
                // The list includes the predecessor unless it was deployed more than 90 days ago.
                Err(CallError::Failed(failure)) if failure.kind == FailureKind::AccessDenied => {
                    if listed.last_success.is_none() {
                        references.fail(failure);
                    }
                    continue;
                }
                other => unless_rejected(other, references)?.unwrap_or_default(),
            };
            for (arn, deployment) in described {
                match deployment {
                    Described::Found(deployment) if is_in_progress(deployment.status()) => {
                        is_deploying = true;
                        is_described = true;
                        is_resolved &= names_predecessor(service, &deployment);
                        references.add_described(&deployment);
                    }
                    // The description of the service is older than the end of the deployment.
                    Described::Found(_) if listed.is_in_progress(&arn) => {
                        references.unclear(operation, "a deployment ended during the scan");
                    }
                    Described::Found(_) => {}
                    Described::Missing(failure) | Described::Unclear(failure) => references.fail(failure),
                }
            }
        }
        match listed.last_success.filter(|_| is_deploying) {
            Some(deployment) => references.add_listed(deployment),
            None if is_deploying && !(is_described && is_resolved) => {
                references.unclear(operation, "what a deployment replaces is not known");
            }
            None => {}
        }
        Ok(())
    }

    async fn add_service_revisions(&mut self, references: &mut References) -> Result<(), CallError> {
        let arns: Vec<String> = references.service_revisions.iter().cloned().collect();
        for arns in arns.chunks(SERVICE_REVISIONS) {
            let described = self.ecs.describe_service_revisions(arns).await;
            for (arn, revision) in unless_rejected(described, references)?.unwrap_or_default() {
                match revision {
                    Described::Found(ServiceRevision { task_definition: Some(it), .. }) => {
                        references.task_definitions.insert(it);
                    }
                    Described::Found(_) => {
                        let text = format!("{arn} names no task definition");
                        references.unclear("DescribeServiceRevisions", &text);
                    }
                    Described::Missing(failure) | Described::Unclear(failure) => references.fail(failure),
                }
            }
        }
        Ok(())
    }
}

/// Returns the response to a call about one service. If ECS rejected the call, marks the references
/// of the service as unresolved and returns `None`, so that the scan continues.
fn unless_rejected<T>(
    result: Result<T, CallError>,
    references: &mut References,
) -> Result<Option<T>, CallError> {
    match result {
        Ok(response) => Ok(Some(response)),
        // The error of a call about one service does not show that its cluster has no other users.
        Err(
            CallError::ServiceGone(failure)
            | CallError::ClusterGone(failure)
            | CallError::ClusterVanished(failure),
        ) => {
            references.fail(failure);
            Ok(None)
        }
        Err(CallError::Failed(failure))
            if matches!(failure.kind, FailureKind::AccessDenied | FailureKind::Refused) =>
        {
            references.fail(failure);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// Adds a task to `found`. A task of a service counts as a use by the service. ECS returns stopped
/// tasks for an hour.
fn add_task(cluster: &str, arn: &str, task: Described<Task>, found: &mut Found) {
    let (cluster, id) = (short(cluster).to_owned(), short(arn).to_owned());
    let task = match task {
        Described::Found(task) => task,
        Described::Missing(_) => return,
        Described::Unclear(failure) => {
            return found.note_unresolved(User::Task { cluster, id }.to_string(), failure);
        }
    };
    let user = match task.group().and_then(|group| group.strip_prefix("service:")) {
        Some(name) => User::Service { cluster, name: name.to_owned() },
        None => User::Task { cluster, id },
    };
    if matches!(task.last_status(), Some("STOPPED" | "DELETED")) {
        let at = task.stopped_at().or(task.execution_stopped_at()).or(task.stopping_at());
        let at = at.and_then(|at| Timestamp::from_second(at.secs()).ok());
        found.note_stopped(task.task_definition_arn(), at, &user);
    } else {
        found.note(task.task_definition_arn(), &user);
    }
}

#[cfg(test)]
mod tests;
