//! The clusters of one account and region, their contents, and `ListClusters`. No I/O.

use super::{
    batch,
    caller::Caller,
    identifier::name_in_arn,
    reply::{CallResult, Failure},
    service::Service,
    task::Task,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// All clusters by name.
#[derive(Default)]
pub(super) struct Clusters(BTreeMap<String, Members>);

/// The contents of one cluster, by name and by ID.
#[derive(Default)]
pub(super) struct Members {
    pub(super) services: BTreeMap<String, Service>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) vanished: Option<Vanished>,
}

/// The error of calls for a cluster that is listed but does not exist. ECS may list such clusters
/// for days.
#[derive(Clone, Copy, Debug)]
pub enum Vanished {
    /// `ClusterNotFoundException`.
    NotFound,
    /// `InvalidParameterException` with the message of ECS for inactive clusters.
    Inactive,
}

impl Vanished {
    fn failure(self) -> Failure {
        match self {
            Self::NotFound => Failure::not_found("Cluster"),
            Self::Inactive => Failure::invalid_parameter(
                "The specified cluster is inactive. Specify an active cluster and try again.",
            ),
        }
    }
}

impl Clusters {
    /// Returns the contents of a cluster, which is created if it does not exist.
    pub(super) fn members_of(&mut self, cluster: &str) -> &mut Members {
        self.0.entry(cluster.to_owned()).or_default()
    }

    pub(super) fn remove(&mut self, cluster: &str) {
        self.0.remove(cluster);
    }

    pub(super) fn get(&self, cluster: &str) -> Option<&Members> {
        self.0.get(cluster)
    }

    /// Returns the name and the contents of the cluster that a call names, by name or ARN.
    pub(super) fn resolve<'a>(
        &'a self,
        value: &'a Value,
        caller: &Caller,
    ) -> Result<(&'a str, &'a Members), Failure> {
        let name = cluster_name(value, caller)?;
        Ok((name, self.members(name)?))
    }

    /// Returns the contents of an existing cluster.
    pub(super) fn members(&self, name: &str) -> Result<&Members, Failure> {
        let members = self.get(name).ok_or_else(|| Failure::not_found("Cluster"))?;
        members.vanished.map_or(Ok(members), |vanished| Err(vanished.failure()))
    }
}

/// Returns the name of the cluster in a call; `default` if it names none.
pub(super) fn cluster_name<'a>(value: &'a Value, caller: &Caller) -> Result<&'a str, Failure> {
    let name = value.as_str().unwrap_or("default");
    if name.starts_with("arn:") { name_in_arn(name, "cluster/", caller) } else { Ok(name) }
}

/// Returns the cluster and the name of a resource given by name or ARN. If `cluster` is given, an
/// ARN must name that cluster.
pub(super) fn name_in_cluster<'a>(
    text: &'a str,
    kind: &str,
    cluster: Option<&'a str>,
    caller: &Caller,
) -> Result<(&'a str, &'a str), Failure> {
    if !text.starts_with("arn:") {
        return Ok((cluster.unwrap_or("default"), text));
    }
    let path = name_in_arn(text, kind, caller)?;
    let invalid = || Failure::invalid_parameter(format!("Invalid identifier: {text}"));
    let (arn_cluster, name) = path.split_once('/').ok_or_else(invalid)?;
    if cluster.is_some_and(|cluster| cluster != arn_cluster) {
        return Err(invalid());
    }
    Ok((arn_cluster, name))
}

pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> CallResult {
    let arns =
        clusters.0.keys().map(|name| (name.clone(), json!(caller.ecs_arn(&format!("cluster/{name}")))));
    batch::list(input, "clusterArns", "", 100, arns)
}
