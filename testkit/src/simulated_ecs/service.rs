//! A service, as configured by a test and described by ECS. No I/O.

use super::{caller::Caller, service_deployments::Rollout, store::epoch_seconds};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A service, with everything that uses a task definition revision through it.
///
/// Revisions are named by `family:revision` or by ARN and need not exist.
#[derive(Clone, Debug)]
pub struct Service {
    pub(super) name: String,
    status: &'static str,
    task_definition: String,
    desired_count: i32,
    deployments: Vec<Deployment>,
    task_sets: Vec<TaskSet>,
    controller: Option<&'static str>,
    strategy: &'static str,
    is_express: bool,
    /// Oldest first.
    pub(super) rollouts: Vec<Rollout>,
    /// Task definitions whose service revisions ECS reports as MISSING.
    pub(super) missing_revisions: Vec<String>,
    pub(super) added_at: Timestamp,
}

#[derive(Clone, Debug)]
struct Deployment {
    status: &'static str,
    rollout_state: &'static str,
    task_definition: String,
}

#[derive(Clone, Debug)]
struct TaskSet {
    status: &'static str,
    task_definition: String,
}

impl Service {
    /// Creates a service that runs one task of this revision, without a deployment in progress.
    #[must_use]
    pub fn steady(name: &str, revision: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: "ACTIVE",
            task_definition: revision.to_owned(),
            desired_count: 1,
            deployments: vec![Deployment {
                status: "PRIMARY",
                rollout_state: "COMPLETED",
                task_definition: revision.to_owned(),
            }],
            task_sets: Vec::new(),
            controller: None,
            strategy: "ROLLING",
            is_express: false,
            rollouts: vec![Rollout::new("SUCCESSFUL", revision)],
            missing_revisions: Vec::new(),
            added_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// Sets the desired number of tasks, which may be 0.
    #[must_use]
    pub fn desired_count(self, desired_count: i32) -> Self {
        Self { desired_count, ..self }
    }

    /// Starts a deployment that replaces this revision; the previous deployment is still there.
    #[must_use]
    pub fn deploying_from(self, revision: &str) -> Self {
        let mut service = self.replacing("IN_PROGRESS", revision);
        service.deployments.push(Deployment {
            status: "ACTIVE",
            rollout_state: "COMPLETED",
            task_definition: revision.to_owned(),
        });
        service
    }

    /// Fails the deployment; ECS is rolling back to this revision.
    ///
    /// The revision appears only in the service deployments, not in the service or its deployments.
    #[must_use]
    pub fn rolling_back_to(self, revision: &str) -> Self {
        self.replacing("ROLLBACK_IN_PROGRESS", revision)
    }

    /// Starts a deployment that would roll back to this revision, of which no tasks are left.
    ///
    /// The revision appears only in the service deployments, not in the service or its deployments.
    #[must_use]
    pub fn replacing_all_of(self, revision: &str) -> Self {
        self.replacing("IN_PROGRESS", revision)
    }

    /// Creates a service whose first deployment is in progress, without a rollback target.
    #[must_use]
    pub fn first_deployment(name: &str, revision: &str) -> Self {
        let mut service = Self::steady(name, revision);
        service.deployments[0].rollout_state = "IN_PROGRESS";
        service.rollouts[0].status = "IN_PROGRESS";
        service
    }

    /// Makes its successful deployments older than 90 days: described by ARN, but not listed.
    /// Source: `ListServiceDeployments`, Amazon ECS API Reference.
    #[must_use]
    pub fn with_successes_older_than_90_days(mut self) -> Self {
        for rollout in self.rollouts.iter_mut().filter(|rollout| rollout.status == "SUCCESSFUL") {
            rollout.is_listed = false;
        }
        self
    }

    /// Makes the service revision of this task definition revision MISSING, like those created
    /// before 2024-10-25.
    /// Source: `failures` of `DescribeServiceDeployments` and `DescribeServiceRevisions`, Amazon
    /// ECS API Reference.
    #[must_use]
    pub fn without_service_revision(mut self, revision: &str) -> Self {
        self.missing_revisions.push(revision.to_owned());
        self
    }

    /// Creates an Express Mode service: managed by ECS, listed only with that
    /// `resourceManagementType`, and without its own task definition. `currentServiceRevisions`
    /// names its service revisions.
    #[must_use]
    pub fn express(name: &str, revision: &str) -> Self {
        let service = Self { is_express: true, strategy: "CANARY", ..Self::steady(name, revision) };
        Self { deployments: Vec::new(), ..service }
    }

    /// Creates a service with the deployment controller EXTERNAL: only its task sets have a task
    /// definition.
    #[must_use]
    pub fn external(name: &str, revision: &str) -> Self {
        let service = Self::steady(name, revision).with_task_set(revision);
        Self { controller: Some("EXTERNAL"), ..service }
    }

    /// Sets the deployment strategy, such as `BLUE_GREEN`. The default is `ROLLING`.
    #[must_use]
    pub fn strategy(self, strategy: &'static str) -> Self {
        Self { strategy, ..self }
    }

    /// Adds a finished deployment of this revision before all others.
    #[must_use]
    pub fn deployed_before(mut self, revision: &str) -> Self {
        self.rollouts.insert(0, Rollout::new("SUCCESSFUL", revision));
        self
    }

    /// Makes the service use task sets: a PRIMARY one of its own revision, and this ACTIVE one.
    #[must_use]
    pub fn with_task_set(mut self, revision: &str) -> Self {
        if self.task_sets.is_empty() {
            self.task_sets.push(TaskSet { status: "PRIMARY", task_definition: self.task_definition.clone() });
        }
        self.task_sets.push(TaskSet { status: "ACTIVE", task_definition: revision.to_owned() });
        self.deployments.clear();
        self.rollouts.clear();
        self
    }

    /// Makes the service DRAINING: deleted, with tasks that are stopping. It is described but not
    /// listed.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { status: "DRAINING", desired_count: 0, ..self }
    }

    /// Makes the service INACTIVE: deleted, without tasks. It is described for a while but not
    /// listed.
    #[must_use]
    pub fn inactive(self) -> Self {
        Self { status: "INACTIVE", desired_count: 0, ..self }
    }

    fn replacing(mut self, status: &'static str, revision: &str) -> Self {
        if let Some(primary) = self.deployments.first_mut() {
            primary.rollout_state = "IN_PROGRESS";
        }
        if let Some(mut latest) = self.rollouts.pop() {
            latest.status = status;
            self.rollouts.extend([Rollout::new("SUCCESSFUL", revision), latest]);
        }
        self
    }

    /// Resolves each revision to an ARN; `now` is when the service is added to its cluster.
    pub(super) fn with_arns(mut self, arn: impl Fn(&str) -> String, now: Timestamp) -> Self {
        let deployments = self.deployments.iter_mut().map(|it| &mut it.task_definition);
        let task_sets = self.task_sets.iter_mut().map(|it| &mut it.task_definition);
        let rollouts = self.rollouts.iter_mut().map(|it| &mut it.task_definition);
        let others = self.missing_revisions.iter_mut().chain([&mut self.task_definition]);
        for revision in deployments.chain(task_sets).chain(rollouts).chain(others) {
            *revision = arn(revision);
        }
        Self { added_at: now, ..self }
    }

    /// Returns who manages the service: `CUSTOMER` or `ECS`.
    pub(super) fn resource_management_type(&self) -> &'static str {
        if self.is_express { "ECS" } else { "CUSTOMER" }
    }

    /// Returns true if the service is listed.
    pub(super) fn is_active(&self) -> bool {
        self.status == "ACTIVE"
    }

    /// Returns the description of the service.
    #[expect(clippy::too_many_lines, reason = "one object of the ECS API")]
    pub(super) fn describe(&self, caller: &Caller, cluster: &str) -> Value {
        let path = format!("{cluster}/{}", self.name);
        let (cluster_arn, service_arn) =
            (caller.ecs_arn(&format!("cluster/{cluster}")), caller.ecs_arn(&format!("service/{path}")));
        let created_at = epoch_seconds(self.added_at);
        let deployments = self.deployments.iter().map(|deployment| {
            json!({
                "id": format!("ecs-svc/{}", number(&deployment.task_definition)),
                "status": deployment.status,
                "taskDefinition": deployment.task_definition,
                "rolloutState": deployment.rollout_state,
                "desiredCount": self.desired_count,
                "runningCount": self.desired_count,
                "pendingCount": 0,
                "failedTasks": 0,
                "createdAt": created_at,
                "updatedAt": created_at,
            })
        });
        let task_sets = self.task_sets.iter().map(|task_set| {
            let id = format!("ecs-svc/{}", number(&task_set.task_definition));
            json!({
                "id": id,
                "taskSetArn": caller.ecs_arn(&format!("task-set/{path}/{id}")),
                "serviceArn": service_arn,
                "clusterArn": cluster_arn,
                "status": task_set.status,
                "taskDefinition": task_set.task_definition,
                "computedDesiredCount": self.desired_count,
                "runningCount": self.desired_count,
                "pendingCount": 0,
                "stabilityStatus": "STEADY_STATE",
                "createdAt": created_at,
                "updatedAt": created_at,
            })
        });
        let default_controller = if self.task_sets.is_empty() { "ECS" } else { "CODE_DEPLOY" };
        let controller = self.controller.unwrap_or(default_controller);
        let mut description = json!({
            "serviceName": self.name,
            "serviceArn": service_arn,
            "clusterArn": cluster_arn,
            "status": self.status,
            "desiredCount": self.desired_count,
            "runningCount": self.desired_count,
            "pendingCount": 0,
            "taskDefinition": self.task_definition,
            "deployments": deployments.collect::<Vec<_>>(),
            "taskSets": task_sets.collect::<Vec<_>>(),
            "deploymentController": {"type": controller},
            "deploymentConfiguration": {"strategy": self.strategy},
            "resourceManagementType": self.resource_management_type(),
            "schedulingStrategy": "REPLICA",
            "createdAt": created_at,
        });
        if self.is_express || controller == "EXTERNAL" {
            description["taskDefinition"] = Value::Null;
        }
        if self.is_express {
            let current = self.rollouts.iter().rev().take(1);
            let arn = |it: &Rollout| {
                caller.ecs_arn(&format!("service-revision/{path}/{}", number(&it.task_definition)))
            };
            description["currentServiceRevisions"] = current.map(|it| json!({"arn": arn(it)})).collect();
        }
        description
    }
}

/// Returns a stable number for IDs of deployments and service revisions.
pub(super) fn number(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}
