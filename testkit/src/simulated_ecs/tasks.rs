//! `ListTasks` and `DescribeTasks`, with the semantics of ECS. No I/O.

use super::{
    batch,
    caller::Caller,
    clusters::{Clusters, name_in_cluster},
    reply::{CallResult, Failure},
    task::Task,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const MAX_BATCH_SIZE: usize = 100;

pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value, now: Timestamp) -> CallResult {
    let (cluster, members) = clusters.resolve(&input["cluster"], caller)?;
    let desired_status = match &input["desiredStatus"] {
        Value::Null => "RUNNING",
        value => value
            .as_str()
            .filter(|status| ["RUNNING", "PENDING", "STOPPED"].contains(status))
            .ok_or_else(|| Failure::invalid_parameter(format!("Invalid desired status: {value}")))?,
    };
    let filters = ["family", "serviceName", "startedBy"].map(|field| input[field].as_str());
    for (field, exclusive) in [("serviceName", filters[1]), ("startedBy", filters[2])] {
        if exclusive.is_some() && filters.iter().flatten().count() > 1 {
            return Err(Failure::invalid_parameter(format!("cannot specify {field} with other arguments")));
        }
    }
    let [family, service, started_by] = filters;
    if service.is_some_and(|service| !members.services.contains_key(service)) {
        return Err(Failure::not_found("Service"));
    }
    let is_listed = |task: &&Task| {
        task.is_shown(now)
            && task.desired_status == desired_status
            && family.is_none_or(|family| family == task.family())
            && (service.is_none() || service == task.service.as_deref())
            && (started_by.is_none() || started_by == task.started_by.as_deref())
    };
    let listed = members.tasks.values().filter(is_listed);
    let arns = listed.map(|task| (task.id.clone(), json!(task.arn(caller, cluster))));
    let scope = format!("{cluster}/{desired_status}/{filters:?}");
    batch::list(input, "taskArns", &scope, 100, arns)
}

pub(super) fn describe(clusters: &Clusters, caller: &Caller, input: &Value, now: Timestamp) -> CallResult {
    let (cluster, members) = clusters.resolve(&input["cluster"], caller)?;
    let found = batch::names(input, "tasks", MAX_BATCH_SIZE)?.into_iter().map(|named| {
        let (_, id) = name_in_cluster(named, "task/", Some(cluster), caller)?;
        let task = members.tasks.get(id).filter(|task| task.is_shown(now));
        Ok(task
            .map(|task| task.describe(caller, cluster))
            .ok_or_else(|| caller.ecs_arn(&format!("task/{cluster}/{id}"))))
    });
    batch::describe("tasks", found)
}
