//! A service as a test arranges it and as ECS describes it; pure.

use super::{caller::Caller, service_deployments::Rollout, store::epoch_seconds};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A service, with all that uses a task definition revision through it.
///
/// Revisions go by `family:revision`; the ARN does as well. They need not exist.
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
    pub(super) lost: Vec<String>,
    pub(super) put_at: Timestamp,
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
    /// A service that runs one task of this revision, and is not about to change.
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
            lost: Vec::new(),
            put_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// How many tasks it is to run; none is a number, too.
    #[must_use]
    pub fn desired_count(self, desired_count: i32) -> Self {
        Self { desired_count, ..self }
    }

    /// Its deployment is in progress, and the one of this revision is still there.
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

    /// Its deployment has failed, and ECS is about to go back to this revision.
    ///
    /// Only the service deployments tell: neither the service nor its deployments name the revision.
    #[must_use]
    pub fn rolling_back_to(self, revision: &str) -> Self {
        self.replacing("ROLLBACK_IN_PROGRESS", revision)
    }

    /// Its deployment is in progress, and would go back to this revision, of which no tasks are left.
    ///
    /// Only the service deployments tell: neither the service nor its deployments name the revision.
    #[must_use]
    pub fn replacing_all_of(self, revision: &str) -> Self {
        self.replacing("IN_PROGRESS", revision)
    }

    /// Its first deployment is in progress: there is nothing to roll back to.
    #[must_use]
    pub fn first_deployment(name: &str, revision: &str) -> Self {
        let mut service = Self::steady(name, revision);
        service.deployments[0].rollout_state = "IN_PROGRESS";
        service.rollouts[0].status = "IN_PROGRESS";
        service
    }

    /// Its successful deployments are older than 90 days: described by ARN, but not listed.
    /// Source: `ListServiceDeployments`, Amazon ECS API Reference.
    #[must_use]
    pub fn with_successes_older_than_90_days(mut self) -> Self {
        for rollout in self.rollouts.iter_mut().filter(|rollout| rollout.status == "SUCCESSFUL") {
            rollout.is_listed = false;
        }
        self
    }

    /// The service revision of this task definition revision is MISSING, as are those made before 2024-10-25.
    /// Source: `failures` of `DescribeServiceDeployments` and `DescribeServiceRevisions`, Amazon ECS API Reference.
    #[must_use]
    pub fn without_service_revision(mut self, revision: &str) -> Self {
        self.lost.push(revision.to_owned());
        self
    }

    /// An Express Mode service: managed by ECS, listed only with that `resourceManagementType`, and without a task
    /// definition of its own; `currentServiceRevisions` names its service revisions.
    #[must_use]
    pub fn express(name: &str, revision: &str) -> Self {
        let service = Self { is_express: true, strategy: "CANARY", ..Self::steady(name, revision) };
        Self { deployments: Vec::new(), ..service }
    }

    /// The deployment controller is EXTERNAL: the service has no task definition of its own, but its task sets do.
    #[must_use]
    pub fn external(name: &str, revision: &str) -> Self {
        let service = Self::steady(name, revision).with_task_set(revision);
        Self { controller: Some("EXTERNAL"), ..service }
    }

    /// How ECS replaces its tasks, such as `BLUE_GREEN`; `ROLLING` unless said.
    #[must_use]
    pub fn strategy(self, strategy: &'static str) -> Self {
        Self { strategy, ..self }
    }

    /// It was deployed with this revision, before all other deployments; nothing is left of that.
    #[must_use]
    pub fn deployed_before(mut self, revision: &str) -> Self {
        self.rollouts.insert(0, Rollout::new("SUCCESSFUL", revision));
        self
    }

    /// It is deployed from outside, by task sets: the PRIMARY one of its own revision, and this ACTIVE one.
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

    /// It is deleted and its tasks are stopping: described, but not listed any more.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { status: "DRAINING", desired_count: 0, ..self }
    }

    /// It is deleted and nothing runs any more: described for a while, but not listed.
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

    /// The same with each revision as an ARN.
    pub(super) fn with_arns(mut self, arn: impl Fn(&str) -> String, now: Timestamp) -> Self {
        let deployments = self.deployments.iter_mut().map(|it| &mut it.task_definition);
        let task_sets = self.task_sets.iter_mut().map(|it| &mut it.task_definition);
        let rollouts = self.rollouts.iter_mut().map(|it| &mut it.task_definition);
        let others = self.lost.iter_mut().chain([&mut self.task_definition]);
        for revision in deployments.chain(task_sets).chain(rollouts).chain(others) {
            *revision = arn(revision);
        }
        Self { put_at: now, ..self }
    }

    /// Who manages it: `CUSTOMER` or `ECS`.
    pub(super) fn resource_management_type(&self) -> &'static str {
        if self.is_express { "ECS" } else { "CUSTOMER" }
    }

    /// Only these are listed.
    pub(super) fn is_active(&self) -> bool {
        self.status == "ACTIVE"
    }

    /// What ECS shows when asked.
    pub(super) fn describe(&self, caller: &Caller, cluster: &str) -> Value {
        let path = format!("{cluster}/{}", self.name);
        let (cluster_arn, service_arn) =
            (caller.ecs_arn(&format!("cluster/{cluster}")), caller.ecs_arn(&format!("service/{path}")));
        let created_at = epoch_seconds(self.put_at);
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
        let by_sets = if self.task_sets.is_empty() { "ECS" } else { "CODE_DEPLOY" };
        let controller = self.controller.unwrap_or(by_sets);
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

/// A number such as ECS gives to deployments and service revisions: always the same for the same thing.
pub(super) fn number(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}
