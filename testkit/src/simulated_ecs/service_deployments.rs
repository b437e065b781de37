//! The calls of ECS that tell how a service came to its revision, and where it would go back to; pure.

use super::{
    batch::{self, Found},
    caller::Caller,
    clusters::{Clusters, cluster_name, name_in_cluster},
    identifier::name_in_arn,
    reply::{Answer, Failure},
    service::{Service, number},
    services::service_arn,
    store::epoch_seconds,
};
use jiff::SignedDuration;
use serde_json::{Map, Value, json};

const LARGEST_BATCH: usize = 20;

/// One service deployment, which made a service revision of this task definition.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub(super) status: &'static str,
    pub(super) task_definition: String,
    /// Those of the last 90 days are.
    pub(super) is_listed: bool,
}

impl Rollout {
    pub(super) fn new(status: &'static str, task_definition: &str) -> Self {
        Self { status, task_definition: task_definition.to_owned(), is_listed: true }
    }

    fn is_over(&self) -> bool {
        matches!(self.status, "SUCCESSFUL" | "STOPPED" | "ROLLBACK_SUCCESSFUL" | "ROLLBACK_FAILED")
    }
}

/// A service, by which its rollouts get their ARNs.
#[derive(Clone, Copy)]
struct Owner<'a> {
    caller: &'a Caller,
    cluster: &'a str,
    service: &'a Service,
}

/// The newest comes first. Nothing for a service that is deployed by task sets.
pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    let named = input["service"].as_str().unwrap_or_default();
    let cluster = match &input["cluster"] {
        Value::Null => None,
        value => Some(cluster_name(value, caller)?),
    };
    let (cluster, name) = name_in_cluster(named, "service/", cluster, caller)?;
    let members = clusters.members(cluster)?;
    let service = members.services.get(name).ok_or_else(|| Failure::not_found("Service"))?;
    let owner = Owner { caller, cluster, service };
    let wanted = input["status"].as_array().filter(|statuses| !statuses.is_empty());
    let newest_first = (0..service.rollouts.len()).rev().enumerate();
    let listed = newest_first
        .filter(|(_, index)| service.rollouts[*index].is_listed)
        .filter(|(_, index)| {
            wanted.is_none_or(|statuses| statuses.contains(&json!(service.rollouts[*index].status)))
        })
        .map(|(age, index)| {
            let mut brief = owner.facts(index);
            brief.insert("targetServiceRevisionArn".to_owned(), json!(owner.revision_arn(index)));
            (format!("{age:06}"), Value::Object(brief))
        });
    batch::list(input, "serviceDeployments", &format!("{cluster}/{name}"), 20, listed)
}

pub(super) fn describe(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    describe_by_arn(
        (clusters, caller, input),
        ("serviceDeploymentArns", "service-deployment/", "serviceDeployments"),
        Owner::deployment_arn,
        Owner::describe,
    )
}

pub(super) fn describe_revisions(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    describe_by_arn(
        (clusters, caller, input),
        ("serviceRevisionArns", "service-revision/", "serviceRevisions"),
        Owner::revision_arn,
        Owner::describe_revision,
    )
}

fn describe_by_arn<'a>(
    (clusters, caller, input): (&'a Clusters, &'a Caller, &'a Value),
    (asked, kind, answered): (&str, &str, &str),
    arn_of: fn(Owner<'a>, usize) -> String,
    description_of: fn(Owner<'a>, usize) -> Found,
) -> Answer {
    let found = batch::names(input, asked, LARGEST_BATCH)?.into_iter().map(|arn| {
        let mut path = name_in_arn(arn, kind, caller)?.split('/');
        let (cluster, name) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let service = clusters.get(cluster).and_then(|members| members.services.get(name));
        let owner = service.map(|service| Owner { caller, cluster, service });
        let described = owner.and_then(|owner| {
            let index = (0..owner.service.rollouts.len()).find(|index| arn_of(owner, *index) == arn)?;
            Some(description_of(owner, index))
        });
        Ok(described.unwrap_or_else(|| Err(arn.to_owned())))
    });
    batch::describe(answered, found)
}

impl Owner<'_> {
    fn revision_arn(self, index: usize) -> String {
        let number = number(&self.service.rollouts[index].task_definition);
        self.caller.ecs_arn(&format!("service-revision/{}/{}/{number}", self.cluster, self.service.name))
    }

    fn deployment_arn(self, index: usize) -> String {
        let (earlier, these) = self.service.rollouts.split_at(index);
        let task_definition = &these[0].task_definition;
        let repeats = earlier.iter().filter(|rollout| rollout.task_definition == *task_definition).count();
        let id = format!("{:021x}", number((task_definition, repeats)));
        self.caller.ecs_arn(&format!("service-deployment/{}/{}/{id}", self.cluster, self.service.name))
    }

    /// The revision that a rollback would go back to.
    fn last_good_before(self, index: usize) -> Option<usize> {
        self.service.rollouts[..index].iter().rposition(|rollout| rollout.status == "SUCCESSFUL")
    }

    /// What both the list and the description of a service deployment show. Each began a minute after the
    /// one before.
    fn facts(self, index: usize) -> Map<String, Value> {
        let rollout = &self.service.rollouts[index];
        let age = i64::try_from(self.service.rollouts.len() - index).unwrap_or_default();
        let began = epoch_seconds(self.service.put_at - SignedDuration::from_mins(age));
        let mut facts = Map::from_iter([
            ("serviceDeploymentArn".to_owned(), json!(self.deployment_arn(index))),
            ("serviceArn".to_owned(), json!(service_arn(self.caller, self.cluster, &self.service.name))),
            ("clusterArn".to_owned(), json!(self.caller.ecs_arn(&format!("cluster/{}", self.cluster)))),
            ("createdAt".to_owned(), began.clone()),
            ("startedAt".to_owned(), began.clone()),
            ("status".to_owned(), json!(rollout.status)),
        ]);
        if rollout.is_over() {
            facts.insert("finishedAt".to_owned(), began);
        }
        facts
    }

    /// A deployment of which a service revision is MISSING cannot be described: the failure names the service revision.
    fn describe(self, index: usize) -> Found {
        let mut facts = self.facts(index);
        let summary = |index| json!({"arn": self.revision_arn(index)});
        let source = self.last_good_before(index);
        if let Some(lost) = [Some(index), source].into_iter().flatten().find(|it| self.is_lost(*it)) {
            return Err(self.revision_arn(lost));
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

    fn is_lost(self, index: usize) -> bool {
        self.service.lost.contains(&self.service.rollouts[index].task_definition)
    }

    fn describe_revision(self, index: usize) -> Found {
        if self.is_lost(index) {
            return Err(self.revision_arn(index));
        }
        Ok(json!({
            "serviceRevisionArn": self.revision_arn(index),
            "serviceArn": service_arn(self.caller, self.cluster, &self.service.name),
            "clusterArn": self.caller.ecs_arn(&format!("cluster/{}", self.cluster)),
            "taskDefinition": self.service.rollouts[index].task_definition,
            "createdAt": epoch_seconds(self.service.put_at),
        }))
    }
}
