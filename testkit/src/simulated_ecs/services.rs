//! `ListServices` and `DescribeServices`, with the semantics of ECS. No I/O.

use super::{
    batch,
    caller::Caller,
    clusters::{Clusters, name_in_cluster},
    reply::CallResult,
};
use serde_json::{Value, json};

/// Lists ACTIVE services of one `resourceManagementType`. The default excludes services that ECS
/// manages; ECS does not document its default.
pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    let (cluster, members) = clusters.resolve(&input["cluster"], caller)?;
    let management_type = input["resourceManagementType"].as_str().unwrap_or("CUSTOMER");
    let active = members
        .services
        .values()
        .filter(|service| service.is_active() && service.resource_management_type() == management_type);
    let arns =
        active.map(|service| (service.name.clone(), json!(service_arn(caller, cluster, &service.name))));
    batch::list(input, "serviceArns", &format!("{cluster}/{management_type}"), 10, arns)
}

pub(super) fn describe(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    let (cluster, members) = clusters.resolve(&input["cluster"], caller)?;
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
