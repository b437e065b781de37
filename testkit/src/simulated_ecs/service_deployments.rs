//! `ListServiceDeployments`, `DescribeServiceDeployments` and `DescribeServiceRevisions`, with the
//! semantics of ECS. No I/O.

use super::{
    batch::{self, Found},
    caller::Caller,
    clusters::{Clusters, cluster_name, name_in_cluster},
    identifier::name_in_arn,
    reply::{CallResult, Failure},
    service::{Service, number},
    services::service_arn,
    store::epoch_seconds,
};
use jiff::SignedDuration;
use serde_json::{Map, Value, json};

const MAX_BATCH_SIZE: usize = 20;

/// One service deployment, which created a service revision of this task definition.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub(super) status: &'static str,
    pub(super) task_definition: String,
    /// True for deployments of the last 90 days.
    pub(super) is_listed: bool,
}

impl Rollout {
    pub(super) fn new(status: &'static str, task_definition: &str) -> Self {
        Self { status, task_definition: task_definition.to_owned(), is_listed: true }
    }

    fn is_finished(&self) -> bool {
        matches!(self.status, "SUCCESSFUL" | "STOPPED" | "ROLLBACK_SUCCESSFUL" | "ROLLBACK_FAILED")
    }
}

/// A service with its cluster and caller, which determine the ARNs of its rollouts.
#[derive(Clone, Copy)]
struct ServiceContext<'a> {
    caller: &'a Caller,
    cluster: &'a str,
    service: &'a Service,
}

/// Lists the deployments of a service, newest first. Empty for a service with task sets.
pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    let named = input["service"].as_str().unwrap_or_default();
    let cluster = match &input["cluster"] {
        Value::Null => None,
        value => Some(cluster_name(value, caller)?),
    };
    let (cluster, name) = name_in_cluster(named, "service/", cluster, caller)?;
    let members = clusters.members(cluster)?;
    let service = members.services.get(name).ok_or_else(|| Failure::not_found("Service"))?;
    let context = ServiceContext { caller, cluster, service };
    let statuses_filter = input["status"].as_array().filter(|statuses| !statuses.is_empty());
    let newest_first = (0..service.rollouts.len()).rev().enumerate();
    let listed = newest_first
        .filter(|(_, index)| service.rollouts[*index].is_listed)
        .filter(|(_, index)| {
            statuses_filter.is_none_or(|statuses| statuses.contains(&json!(service.rollouts[*index].status)))
        })
        .map(|(age, index)| {
            let mut summary = context.facts(index);
            summary.insert("targetServiceRevisionArn".to_owned(), json!(context.revision_arn(index)));
            (format!("{age:06}"), Value::Object(summary))
        });
    batch::list(input, "serviceDeployments", &format!("{cluster}/{name}"), 20, listed)
}

pub(super) fn describe(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    describe_by_arn(
        (clusters, caller, input),
        ("serviceDeploymentArns", "service-deployment/", "serviceDeployments"),
        ServiceContext::deployment_arn,
        ServiceContext::describe,
    )
}

pub(super) fn describe_revisions(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    describe_by_arn(
        (clusters, caller, input),
        ("serviceRevisionArns", "service-revision/", "serviceRevisions"),
        ServiceContext::revision_arn,
        ServiceContext::describe_revision,
    )
}

fn describe_by_arn<'a>(
    (clusters, caller, input): (&'a Clusters, &'a Caller, &'a Value),
    (input_field, kind, output_field): (&str, &str, &str),
    arn_of: fn(ServiceContext<'a>, usize) -> String,
    description_of: fn(ServiceContext<'a>, usize) -> Found,
) -> CallResult {
    let found = batch::names(input, input_field, MAX_BATCH_SIZE)?.into_iter().map(|arn| {
        let mut path = name_in_arn(arn, kind, caller)?.split('/');
        let (cluster, name) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let service = clusters.get(cluster).and_then(|members| members.services.get(name));
        let context = service.map(|service| ServiceContext { caller, cluster, service });
        let described = context.and_then(|context| {
            let index = (0..context.service.rollouts.len()).find(|index| arn_of(context, *index) == arn)?;
            Some(description_of(context, index))
        });
        Ok(described.unwrap_or_else(|| Err(arn.to_owned())))
    });
    batch::describe(output_field, found)
}

impl ServiceContext<'_> {
    fn revision_arn(self, index: usize) -> String {
        let number = number(&self.service.rollouts[index].task_definition);
        self.caller.ecs_arn(&format!("service-revision/{}/{}/{number}", self.cluster, self.service.name))
    }

    fn deployment_arn(self, index: usize) -> String {
        let (earlier, rest) = self.service.rollouts.split_at(index);
        let task_definition = &rest[0].task_definition;
        let repeats = earlier.iter().filter(|rollout| rollout.task_definition == *task_definition).count();
        let id = format!("{:021x}", number((task_definition, repeats)));
        self.caller.ecs_arn(&format!("service-deployment/{}/{}/{id}", self.cluster, self.service.name))
    }

    /// Returns the index of the deployment that a rollback would restore.
    fn last_successful_before(self, index: usize) -> Option<usize> {
        self.service.rollouts[..index].iter().rposition(|rollout| rollout.status == "SUCCESSFUL")
    }

    /// Returns the fields that both the list and the description show. Each deployment began a
    /// minute after the previous one.
    fn facts(self, index: usize) -> Map<String, Value> {
        let rollout = &self.service.rollouts[index];
        let age = i64::try_from(self.service.rollouts.len() - index).unwrap_or_default();
        let began = epoch_seconds(self.service.added_at - SignedDuration::from_mins(age));
        let mut facts = Map::from_iter([
            ("serviceDeploymentArn".to_owned(), json!(self.deployment_arn(index))),
            ("serviceArn".to_owned(), json!(service_arn(self.caller, self.cluster, &self.service.name))),
            ("clusterArn".to_owned(), json!(self.caller.ecs_arn(&format!("cluster/{}", self.cluster)))),
            ("createdAt".to_owned(), began.clone()),
            ("startedAt".to_owned(), began.clone()),
            ("status".to_owned(), json!(rollout.status)),
        ]);
        if rollout.is_finished() {
            facts.insert("finishedAt".to_owned(), began);
        }
        facts
    }

    /// Describes a deployment. If one of its service revisions is MISSING, it cannot be described,
    /// and the failure names that service revision.
    fn describe(self, index: usize) -> Found {
        let mut facts = self.facts(index);
        let summary = |index| json!({"arn": self.revision_arn(index)});
        let source = self.last_successful_before(index);
        if let Some(missing) = [Some(index), source].into_iter().flatten().find(|it| self.is_missing(*it)) {
            return Err(self.revision_arn(missing));
        }
        facts.insert("targetServiceRevision".to_owned(), summary(index));
        facts.insert("sourceServiceRevisions".to_owned(), source.map(summary).into_iter().collect());
        let rolls_back = self.service.rollouts[index].status.starts_with("ROLLBACK_");
        if let Some(source) = source.filter(|_| rolls_back) {
            let rollback = json!({"serviceRevisionArn": self.revision_arn(source)});
            facts.insert("rollback".to_owned(), rollback);
        }
        Ok(Value::Object(facts))
    }

    fn is_missing(self, index: usize) -> bool {
        self.service.missing_revisions.contains(&self.service.rollouts[index].task_definition)
    }

    fn describe_revision(self, index: usize) -> Found {
        if self.is_missing(index) {
            return Err(self.revision_arn(index));
        }
        Ok(json!({
            "serviceRevisionArn": self.revision_arn(index),
            "serviceArn": service_arn(self.caller, self.cluster, &self.service.name),
            "clusterArn": self.caller.ecs_arn(&format!("cluster/{}", self.cluster)),
            "taskDefinition": self.service.rollouts[index].task_definition,
            "createdAt": epoch_seconds(self.service.added_at),
        }))
    }
}
