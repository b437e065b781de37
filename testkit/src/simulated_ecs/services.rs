//! The calls of ECS that list and describe services, with the semantics of ECS; pure.

use super::{
    batch,
    caller::Caller,
    clusters::{Clusters, name_in_cluster},
    reply::Answer,
};
use serde_json::{Value, json};

/// Without `resourceManagementType`, those that ECS manages are left out: ECS does not document whether it does so.
pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    let (cluster, members) = clusters.named(&input["cluster"], caller)?;
    let wanted = input["resourceManagementType"].as_str().unwrap_or("CUSTOMER");
    let active = members
        .services
        .values()
        .filter(|service| service.is_active() && service.resource_management_type() == wanted);
    let arns =
        active.map(|service| (service.name.clone(), json!(service_arn(caller, cluster, &service.name))));
    batch::list(input, "serviceArns", &format!("{cluster}/{wanted}"), 10, arns)
}

pub(super) fn describe(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    let (cluster, members) = clusters.named(&input["cluster"], caller)?;
    let found = batch::names(input, "services", 10)?.into_iter().map(|named| {
        let (_, name) = name_in_cluster(named, "service/", Some(cluster), caller)?;
        let service = members.services.get(name);
        Ok(service
            .map(|service| service.describe(caller, cluster))
            .ok_or_else(|| service_arn(caller, cluster, name)))
    });
    batch::describe("services", found)
}

pub(super) fn service_arn(caller: &Caller, cluster: &str, name: &str) -> String {
    caller.ecs_arn(&format!("service/{cluster}/{name}"))
}
