//! The calls that find out who uses which revisions in an account and region: one after another, at half of ECS's own rates.

use std::collections::HashSet;

use aws_config::SdkConfig;
use aws_sdk_ecs::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::{
        DeploymentController, DeploymentControllerType, DeploymentRolloutState, DesiredStatus,
        Failure as Missing, Service, ServiceDeploymentBrief, ServiceDeploymentStatus as Status,
        ServiceRevision, Task,
    },
};

use futures::TryFutureExt;
use tokio::time::Instant;

use crate::ecs::{
    answer::{Failure, FailureKind},
    client::observed,
    error::failure,
    pacer::{Line, Pacing, Turn},
    usage::{Found, User, short},
};

/// The most that a page, and a batch, of each API holds.
/// Source: the ECS API Reference, at each action.
const PAGE: i32 = 100;
const SERVICES: usize = 10;
const TASKS: usize = 100;
const REVISIONS: usize = 20;

/// How often a call is made within a scan while ECS throttles it, or has a fault that may pass: a scan is many calls, and worth nothing
/// if one of them fails.
const TRIES: u32 = 3;

/// Half of ECS's buckets.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const SMALL: Pacing = Pacing { per_second: 10.0, burst: 25 };
const LARGE: Pacing = Pacing { per_second: 10.0, burst: 50 };

/// The deployments of a service that are not over: what they deploy, or roll back to, is in use.
const UNDER_WAY: [Status; 5] = [
    Status::Pending,
    Status::InProgress,
    Status::StopRequested,
    Status::RollbackRequested,
    Status::RollbackInProgress,
];

/// Makes scans, one at a time.
pub(super) struct Scanner {
    client: Client,
    clusters: Bucket,
    services: Bucket,
    tasks: Bucket,
    deployments: Bucket,
    revisions: Bucket,
}

type Answer<T, E> = Result<T, SdkError<E, HttpResponse>>;

impl Scanner {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self {
            client: Client::new(config),
            clusters: Bucket::new(SMALL),
            services: Bucket::new(LARGE),
            tasks: Bucket::new(LARGE),
            deployments: Bucket::new(SMALL),
            revisions: Bucket::new(SMALL),
        }
    }

    /// All users of all revisions: the services of every cluster with their deployments, task sets and rollbacks, and the tasks
    /// that run or have not stopped yet.
    ///
    /// # Errors
    /// Where any part of it cannot be had: then nothing is known.
    pub(super) async fn scan(&mut self) -> Result<Found, Failure> {
        let mut found = Found::default();
        for cluster in self.list_clusters().await? {
            for services in self.list_services(&cluster).await?.chunks(SERVICES) {
                for service in self.describe_services(&cluster, services).await? {
                    self.note_service(&cluster, &service, &mut found).await?;
                }
            }
            for status in [DesiredStatus::Running, DesiredStatus::Stopped] {
                for tasks in self.list_tasks(&cluster, &status).await?.chunks(TASKS) {
                    for task in self.describe_tasks(&cluster, tasks).await? {
                        note_task(&cluster, &task, &mut found);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn note_service(
        &mut self,
        cluster: &str,
        service: &Service,
        found: &mut Found,
    ) -> Result<(), Failure> {
        // A deleted service is shown for a while.
        if service.status() == Some("INACTIVE") {
            return Ok(());
        }
        let name = service.service_name().unwrap_or_default().to_owned();
        let user = User::Service { cluster: short(cluster).to_owned(), name };
        found.note(service.task_definition(), &user);
        service.deployments().iter().for_each(|it| found.note(it.task_definition(), &user));
        service.task_sets().iter().for_each(|it| found.note(it.task_definition(), &user));
        if !may_roll_back(service) {
            return Ok(());
        }
        let arn = service.service_arn().unwrap_or_default();
        let under_way = self.list_service_deployments(cluster, arn, &UNDER_WAY).await?;
        if under_way.is_empty() {
            return Ok(());
        }
        // A deployment that fails is rolled back to what was last deployed with success.
        let done = self.list_service_deployments(cluster, arn, &[Status::Successful]).await?;
        let last = done.iter().max_by_key(|it| it.finished_at().or(it.created_at()).map(DateTime::secs));
        let targets: Vec<String> = under_way
            .iter()
            .chain(last)
            .filter_map(|it| it.target_service_revision_arn())
            .map(str::to_owned)
            .collect();
        for revisions in targets.chunks(REVISIONS) {
            for revision in self.describe_service_revisions(revisions).await? {
                found.note(Some(&revision), &user);
            }
        }
        Ok(())
    }

    async fn list_clusters(&mut self) -> Result<Vec<String>, Failure> {
        let client = &self.client;
        pages(&mut self.clusters, "ListClusters", |token| {
            let call = client.list_clusters().max_results(PAGE).set_next_token(token).send();
            call.map_ok(|page| (page.cluster_arns.unwrap_or_default(), page.next_token))
        })
        .await
    }

    async fn list_services(&mut self, cluster: &str) -> Result<Vec<String>, Failure> {
        let client = &self.client;
        pages(&mut self.services, "ListServices", |token| {
            let call = client.list_services().cluster(cluster).max_results(PAGE).set_next_token(token).send();
            call.map_ok(|page| (page.service_arns.unwrap_or_default(), page.next_token))
        })
        .await
    }

    async fn describe_services(&mut self, cluster: &str, arns: &[String]) -> Result<Vec<Service>, Failure> {
        let operation = "DescribeServices";
        let call =
            || self.client.describe_services().cluster(cluster).set_services(Some(arns.to_vec())).send();
        let answer = paced(&mut self.services, operation, call).await?;
        let (services, missing) = (answer.services.unwrap_or_default(), answer.failures.unwrap_or_default());
        complete(operation, arns, services, Service::service_arn, &missing)
    }

    async fn list_tasks(&mut self, cluster: &str, status: &DesiredStatus) -> Result<Vec<String>, Failure> {
        let client = &self.client;
        pages(&mut self.tasks, "ListTasks", |token| {
            let call = client.list_tasks().cluster(cluster).desired_status(status.clone()).max_results(PAGE);
            let call = call.set_next_token(token).send();
            call.map_ok(|page| (page.task_arns.unwrap_or_default(), page.next_token))
        })
        .await
    }

    async fn describe_tasks(&mut self, cluster: &str, arns: &[String]) -> Result<Vec<Task>, Failure> {
        let operation = "DescribeTasks";
        let call = || self.client.describe_tasks().cluster(cluster).set_tasks(Some(arns.to_vec())).send();
        let answer = paced(&mut self.tasks, operation, call).await?;
        let (tasks, missing) = (answer.tasks.unwrap_or_default(), answer.failures.unwrap_or_default());
        complete(operation, arns, tasks, Task::task_arn, &missing)
    }

    async fn list_service_deployments(
        &mut self,
        cluster: &str,
        service: &str,
        statuses: &[Status],
    ) -> Result<Vec<ServiceDeploymentBrief>, Failure> {
        let client = &self.client;
        let listed = pages(&mut self.deployments, "ListServiceDeployments", |token| {
            let call = client.list_service_deployments().cluster(cluster).service(service).max_results(PAGE);
            let call = call.set_status(Some(statuses.to_vec())).set_next_token(token).send();
            call.map_ok(|page| (page.service_deployments.unwrap_or_default(), page.next_token))
        })
        .await?;
        Ok(listed
            .into_iter()
            .filter(|it| it.status().is_none_or(|status| statuses.contains(status)))
            .collect())
    }

    /// The task definitions of service revisions.
    async fn describe_service_revisions(&mut self, arns: &[String]) -> Result<Vec<String>, Failure> {
        let operation = "DescribeServiceRevisions";
        let call =
            || self.client.describe_service_revisions().set_service_revision_arns(Some(arns.to_vec())).send();
        let answer = paced(&mut self.revisions, operation, call).await?;
        let (revisions, missing) =
            (answer.service_revisions.unwrap_or_default(), answer.failures.unwrap_or_default());
        let revisions =
            complete(operation, arns, revisions, ServiceRevision::service_revision_arn, &missing)?;
        Ok(revisions.into_iter().filter_map(|it| it.task_definition).collect())
    }
}

/// Whether a deployment of the service may be under way that its own description does not show in full. One that ECS itself
/// deploys, and whose only deployment is completed, has none. Other deployment controllers have task sets, which are shown.
/// Source: `rolloutState` of `Deployment` in the ECS API Reference.
fn may_roll_back(service: &Service) -> bool {
    let controller = service.deployment_controller().map(DeploymentController::r#type);
    if controller.is_some_and(|it| *it != DeploymentControllerType::Ecs) {
        return false;
    }
    let is_completed = |state: &DeploymentRolloutState| *state == DeploymentRolloutState::Completed;
    !matches!(service.deployments(), [only] if only.rollout_state().is_some_and(is_completed))
}

/// A task that has stopped is shown for an hour. A task of a service stands for the service.
fn note_task(cluster: &str, task: &Task, found: &mut Found) {
    if task.last_status() == Some("STOPPED") {
        return;
    }
    let cluster = short(cluster).to_owned();
    let user = match task.group().and_then(|group| group.strip_prefix("service:")) {
        Some(name) => User::Service { cluster, name: name.to_owned() },
        None => User::Task { cluster, id: short(task.task_arn().unwrap_or_default()).to_owned() },
    };
    found.note(task.task_definition_arn(), &user);
}

/// All pages of a list.
async fn pages<T, E, F>(
    bucket: &mut Bucket,
    operation: &'static str,
    page: impl Fn(Option<String>) -> F,
) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Answer<(Vec<T>, Option<String>), E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    loop {
        let (items, next) = paced(bucket, operation, || page(tokens.last().cloned())).await?;
        all.extend(items);
        match next.filter(|token| !token.is_empty()) {
            None => return Ok(all),
            Some(token) if tokens.contains(&token) => {
                return Err(refused(operation, "the same page came twice"));
            }
            Some(token) => tokens.push(token),
        }
    }
}

/// Makes a call when the bucket has a token for it. One that fails in passing steps back and is made again.
async fn paced<T, E, F>(
    bucket: &mut Bucket,
    operation: &'static str,
    call: impl Fn() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Answer<T, E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut tries = 0;
    loop {
        bucket.take().await;
        tries += 1;
        let failure = match observed(operation, call()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => failure(&error),
        };
        let may_pass = matches!(
            failure.kind,
            FailureKind::Throttled | FailureKind::ServerFault | FailureKind::Unavailable
        );
        if !may_pass || tries == TRIES {
            tracing::warn!(operation, message = failure.message, "call to AWS failed");
            // That something is gone while one looks says nothing of revisions.
            let kind = if failure.kind == FailureKind::Absent { FailureKind::Refused } else { failure.kind };
            let message = format!("ecs:{operation}: {}", failure.message);
            let operation = failure.operation.unwrap_or(operation);
            return Err(Failure { kind, message, ..failure }.during(operation));
        }
        // Whatever the reason, the next one is to come later.
        bucket.0.throttled(Instant::now());
    }
}

/// Checks that each of those asked for was answered, or is gone meanwhile.
fn complete<T>(
    operation: &'static str,
    asked: &[String],
    answered: Vec<T>,
    arn: impl Fn(&T) -> Option<&str>,
    missing: &[Missing],
) -> Result<Vec<T>, Failure> {
    if let Some(other) = missing.iter().find(|it| it.reason() != Some("MISSING")) {
        let text = [other.arn(), other.reason()].map(Option::unwrap_or_default).join(": ");
        return Err(refused(operation, &text));
    }
    let told = answered.iter().filter_map(arn).chain(missing.iter().filter_map(|it| it.arn()));
    let told: HashSet<&str> = told.map(short).collect();
    match asked.iter().find(|asked| !told.contains(short(asked))) {
        Some(untold) => Err(refused(operation, &format!("nothing was answered of {untold}"))),
        None => Ok(answered),
    }
}

fn refused(operation: &str, text: &str) -> Failure {
    Failure::new(FailureKind::Refused, format!("ecs:{operation}: {text}"))
}

/// One of ECS's buckets, for the one scan at a time.
struct Bucket(Line<()>);

impl Bucket {
    fn new(pacing: Pacing) -> Self {
        Self(Line::new(pacing, Instant::now()))
    }

    async fn take(&mut self) {
        while self.0.take(&(), Instant::now()) == Turn::Later {
            if let Some(due) = self.0.next_call(Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            self.0.call(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
