//! A task as a test arranges it and as ECS describes it; pure.

use super::caller::Caller;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A task of one task definition revision; standalone, unless it is said to be of a service.
///
/// The revision goes by `family:revision`; the ARN does as well. It need not exist.
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

/// When a task stopped, as far as ECS shows it.
#[derive(Clone, Copy, Debug)]
enum StoppedAt {
    /// When it was put into its cluster.
    Put,
    Time(Timestamp),
    Hidden,
}

/// For how long ECS shows a task that has stopped.
/// Source: "Amazon ECS stopped tasks error messages", Amazon ECS Developer Guide.
const SHOWN: SignedDuration = SignedDuration::from_hours(1);

impl Task {
    /// It is to run, and runs.
    #[must_use]
    pub fn running(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "RUNNING", "RUNNING")
    }

    /// It is to run, and does not yet.
    #[must_use]
    pub fn pending(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "RUNNING", "PENDING")
    }

    /// It is to stop, and has not yet.
    #[must_use]
    pub fn stopping(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "STOPPING")
    }

    /// It has stopped: when it was put into its cluster, unless [`Self::stopped_at`] says otherwise.
    #[must_use]
    pub fn stopped(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "STOPPED")
    }

    /// It stopped at this time.
    #[must_use]
    pub fn stopped_at(self, time: Timestamp) -> Self {
        Self { stopped_at: StoppedAt::Time(time), ..self }
    }

    /// ECS does not show when it stopped.
    #[must_use]
    pub fn without_stopped_at(self) -> Self {
        Self { stopped_at: StoppedAt::Hidden, ..self }
    }

    /// It has stopped and is about to be forgotten.
    #[must_use]
    pub fn deleted(id: &str, revision: &str) -> Self {
        Self::new(id, revision, "STOPPED", "DELETED")
    }

    /// It was started by this service.
    #[must_use]
    pub fn of_service(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }
    }

    /// Who started it, in the words of whoever did.
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
            stopped_at: StoppedAt::Put,
        }
    }

    /// The same with its revision as an ARN, put into its cluster at `now`.
    pub(super) fn with_arn(self, arn: impl Fn(&str) -> String, now: Timestamp) -> Self {
        let stopped_at = match self.stopped_at {
            StoppedAt::Put => StoppedAt::Time(now),
            other => other,
        };
        Self { revision: arn(&self.revision), stopped_at, ..self }
    }

    /// When it stopped, if it has and that is shown.
    fn stop(&self) -> Option<Timestamp> {
        match self.stopped_at {
            StoppedAt::Time(time) if ["STOPPED", "DELETED"].contains(&self.last_status) => Some(time),
            _ => None,
        }
    }

    /// Whether ECS still shows it: a task that has stopped vanishes after an hour.
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

    /// What ECS shows when asked.
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
