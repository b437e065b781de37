//! A task, as configured by a test and described by ECS. No I/O.

use super::caller::Caller;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A task of one task definition revision; standalone unless [`Task::of_service`] is called.
///
/// The revision is named by `family:revision` or by ARN and need not exist.
#[derive(Clone, Debug)]
pub struct Task {
    pub(super) id: String,
    revision: String,
    pub(super) desired_status: &'static str,
    last_status: &'static str,
    pub(super) service: Option<String>,
    pub(super) started_by: Option<String>,
    stopped_at: StoppedAt,
}

/// When a task stopped, as shown by ECS.
#[derive(Clone, Copy, Debug)]
enum StoppedAt {
    /// The time at which the task was added to its cluster.
    Added,
    Time(Timestamp),
    Hidden,
}

/// How long ECS shows a stopped task.
/// Source: "Amazon ECS stopped tasks error messages", Amazon ECS Developer Guide.
const SHOWN: SignedDuration = SignedDuration::from_hours(1);

impl Task {
    /// Creates a running task.
    #[must_use]
    pub fn running(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "RUNNING", "RUNNING")
    }

    /// Creates a task that has not started yet.
    #[must_use]
    pub fn pending(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "RUNNING", "PENDING")
    }

    /// Creates a task that is stopping.
    #[must_use]
    pub fn stopping(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "STOPPING")
    }

    /// Creates a stopped task. It stopped when it was added to its cluster, unless
    /// [`Self::stopped_at`] is called.
    #[must_use]
    pub fn stopped(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "STOPPED")
    }

    /// Sets when it stopped.
    #[must_use]
    pub fn stopped_at(self, time: Timestamp) -> Self {
        Self { stopped_at: StoppedAt::Time(time), ..self }
    }

    /// Hides when it stopped.
    #[must_use]
    pub fn without_stopped_at(self) -> Self {
        Self { stopped_at: StoppedAt::Hidden, ..self }
    }

    /// Creates a stopped task that is about to be removed.
    #[must_use]
    pub fn deleted(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "DELETED")
    }

    /// Sets the service that started it.
    #[must_use]
    pub fn of_service(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }
    }

    /// Sets `startedBy`.
    #[must_use]
    pub fn started_by(self, started_by: &str) -> Self {
        Self { started_by: Some(started_by.to_owned()), ..self }
    }

    fn new(id: &str, revision: &str, desired_status: &'static str, last_status: &'static str) -> Self {
        Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            desired_status,
            last_status,
            service: None,
            started_by: None,
            stopped_at: StoppedAt::Added,
        }
    }

    /// Resolves the revision to an ARN; `now` is when the task is added to its cluster.
    pub(super) fn with_arn(self, arn: impl Fn(&str) -> String, now: Timestamp) -> Self {
        let stopped_at = match self.stopped_at {
            StoppedAt::Added => StoppedAt::Time(now),
            other => other,
        };
        Self { revision: arn(&self.revision), stopped_at, ..self }
    }

    /// Returns when it stopped, if it has stopped and the time is not hidden.
    fn stop(&self) -> Option<Timestamp> {
        match self.stopped_at {
            StoppedAt::Time(time) if ["STOPPED", "DELETED"].contains(&self.last_status) => Some(time),
            _ => None,
        }
    }

    /// Returns true if ECS still shows the task: a stopped task disappears after an hour.
    pub(super) fn is_shown(&self, now: Timestamp) -> bool {
        self.stop().is_none_or(|at| now.duration_since(at) < SHOWN)
    }

    pub(super) fn family(&self) -> &str {
        let name = self.revision.rsplit('/').next().unwrap_or_default();
        name.split(':').next().unwrap_or_default()
    }

    pub(super) fn arn(&self, caller: &Caller, cluster: &str) -> String {
        caller.ecs_arn(&format!("task/{cluster}/{}", self.id))
    }

    /// Returns the description of the task.
    pub(super) fn describe(&self, caller: &Caller, cluster: &str) -> Value {
        let group = match &self.service {
            Some(service) => format!("service:{service}"),
            None => format!("family:{}", self.family()),
        };
        let mut description = json!({
            "taskArn": self.arn(caller, cluster),
            "clusterArn": caller.ecs_arn(&format!("cluster/{cluster}")),
            "taskDefinitionArn": self.revision,
            "lastStatus": self.last_status,
            "desiredStatus": self.desired_status,
            "group": group,
            "launchType": "FARGATE",
        });
        if let Some(at) = self.stop() {
            description["stoppedAt"] = json!(at.as_duration().as_secs_f64());
        }
        if let Some(started_by) = &self.started_by {
            description["startedBy"] = json!(started_by);
        }
        description
    }
}
