//! ECS calls of a usage scan, each at half of the rate of its bucket.

use std::sync::Arc;

use aws_sdk_ecs::types::{
    DesiredStatus, ResourceManagementType, Service, ServiceDeployment, ServiceDeploymentBrief,
    ServiceRevision, Task,
};
use futures::TryFutureExt;

use crate::aws::{
    ecs_client::Ecs,
    permit_queue::Pacing,
    usage_scanner::calls::{Bucket, CallError, Described, described, paced, pages},
};

/// Maximum number of items in a page and in a batch of each API.
/// Source: the ECS API Reference, at each action.
const PAGE: i32 = 100;
pub(super) const SERVICES: usize = 10;
pub(super) const TASKS: usize = 100;
pub(super) const SERVICE_DEPLOYMENTS: usize = 20;
pub(super) const SERVICE_REVISIONS: usize = 20;

/// Half of the burst and rate of ECS's buckets.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const SMALL: Pacing = Pacing { per_second: 10.0, burst: 25 };
const LARGE: Pacing = Pacing { per_second: 10.0, burst: 50 };

/// Token buckets of the calls of usage scans in one account and region.
pub struct ScanBuckets {
    clusters: Bucket,
    services: Bucket,
    tasks: Bucket,
    deployments: Bucket,
    revisions: Bucket,
}

impl Default for ScanBuckets {
    fn default() -> Self {
        Self {
            clusters: Bucket::new(SMALL),
            services: Bucket::new(LARGE),
            tasks: Bucket::new(LARGE),
            deployments: Bucket::new(SMALL),
            revisions: Bucket::new(SMALL),
        }
    }
}

/// Rate-limited ECS client of a usage scan.
pub(super) struct EcsReader {
    pub(super) ecs: Arc<Ecs>,
    pub(super) buckets: Arc<ScanBuckets>,
}

impl EcsReader {
    pub(super) async fn list_clusters(&self) -> Result<Vec<String>, CallError> {
        let client = &self.ecs.client;
        pages(&self.ecs, &self.buckets.clusters, "ListClusters", |token| {
            let call = client.list_clusters().max_results(PAGE).set_next_token(token).send();
            call.map_ok(|page| (page.cluster_arns, page.next_token))
        })
        .await
    }

    /// Lists all services. Those managed by ECS are listed separately because it is not documented
    /// whether they are listed without this filter.
    pub(super) async fn list_services(&self, cluster: &str) -> Result<Vec<String>, CallError> {
        let (client, mut all) = (&self.ecs.client, Vec::new());
        for managed_by in [None, Some(ResourceManagementType::Ecs)] {
            let listed = pages(&self.ecs, &self.buckets.services, "ListServices", |token| {
                let call = client.list_services().cluster(cluster).max_results(PAGE).set_next_token(token);
                let call = call.set_resource_management_type(managed_by.clone()).send();
                call.map_ok(|page| (page.service_arns, page.next_token))
            });
            let listed = listed.await;
            all.extend(match managed_by {
                None => listed?,
                Some(_) => listed.map_err(CallError::of_existing_cluster)?,
            });
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    pub(super) async fn describe_services(
        &self,
        cluster: &str,
        arns: &[String],
    ) -> Result<Vec<(String, Described<Service>)>, CallError> {
        let operation = "DescribeServices";
        let call =
            || self.ecs.client.describe_services().cluster(cluster).set_services(Some(arns.to_vec())).send();
        let response = paced(&self.ecs, &self.buckets.services, operation, call).await?;
        let services = response.services.unwrap_or_default();
        let failures = response.failures.unwrap_or_default();
        Ok(described(operation, arns, services, Service::service_arn, &failures))
    }

    pub(super) async fn list_tasks(
        &self,
        cluster: &str,
        status: &DesiredStatus,
    ) -> Result<Vec<String>, CallError> {
        let client = &self.ecs.client;
        pages(&self.ecs, &self.buckets.tasks, "ListTasks", |token| {
            let call = client.list_tasks().cluster(cluster).desired_status(status.clone()).max_results(PAGE);
            let call = call.set_next_token(token).send();
            call.map_ok(|page| (page.task_arns, page.next_token))
        })
        .await
    }

    pub(super) async fn describe_tasks(
        &self,
        cluster: &str,
        arns: &[String],
    ) -> Result<Vec<(String, Described<Task>)>, CallError> {
        let operation = "DescribeTasks";
        let call = || self.ecs.client.describe_tasks().cluster(cluster).set_tasks(Some(arns.to_vec())).send();
        let response = paced(&self.ecs, &self.buckets.tasks, operation, call).await?;
        let tasks = response.tasks.unwrap_or_default();
        let failures = response.failures.unwrap_or_default();
        Ok(described(operation, arns, tasks, Task::task_arn, &failures))
    }

    /// Lists service deployments in every status, including statuses that later API versions add.
    pub(super) async fn list_service_deployments(
        &self,
        cluster: &str,
        service: &str,
    ) -> Result<Vec<ServiceDeploymentBrief>, CallError> {
        let client = &self.ecs.client;
        pages(&self.ecs, &self.buckets.deployments, "ListServiceDeployments", |token| {
            let call = client.list_service_deployments().cluster(cluster).service(service).max_results(PAGE);
            let call = call.set_next_token(token).send();
            call.map_ok(|page| (page.service_deployments, page.next_token))
        })
        .await
    }

    pub(super) async fn describe_service_deployments(
        &self,
        arns: &[String],
    ) -> Result<Vec<(String, Described<ServiceDeployment>)>, CallError> {
        let operation = "DescribeServiceDeployments";
        let call = || {
            self.ecs
                .client
                .describe_service_deployments()
                .set_service_deployment_arns(Some(arns.to_vec()))
                .send()
        };
        let response = paced(&self.ecs, &self.buckets.deployments, operation, call).await?;
        let deployments = response.service_deployments.unwrap_or_default();
        let failures = response.failures.unwrap_or_default();
        Ok(described(operation, arns, deployments, ServiceDeployment::service_deployment_arn, &failures))
    }

    pub(super) async fn describe_service_revisions(
        &self,
        arns: &[String],
    ) -> Result<Vec<(String, Described<ServiceRevision>)>, CallError> {
        let operation = "DescribeServiceRevisions";
        let call = || {
            self.ecs.client.describe_service_revisions().set_service_revision_arns(Some(arns.to_vec())).send()
        };
        let response = paced(&self.ecs, &self.buckets.revisions, operation, call).await?;
        let revisions = response.service_revisions.unwrap_or_default();
        let failures = response.failures.unwrap_or_default();
        Ok(described(operation, arns, revisions, ServiceRevision::service_revision_arn, &failures))
    }
}
