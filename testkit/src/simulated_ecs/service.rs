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
    /// Oldest first.
    pub(super) rollouts: Vec<Rollout>,
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
            rollouts: vec![Rollout::new("SUCCESSFUL", revision)],
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
        for revision in deployments.chain(task_sets).chain(rollouts).chain([&mut self.task_definition]) {
            *revision = arn(revision);
        }
        Self { put_at: now, ..self }
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
        let controller = if self.task_sets.is_empty() { "ECS" } else { "CODE_DEPLOY" };
        json!({
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
            "schedulingStrategy": "REPLICA",
            "createdAt": created_at,
        })
    }
}

/// A number such as ECS gives to deployments and service revisions: always the same for the same thing.
pub(super) fn number(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}
