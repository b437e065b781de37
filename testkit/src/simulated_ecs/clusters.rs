//! The clusters of one account and region, what runs in them, and the call that lists them; pure.

use super::{
    batch,
    caller::Caller,
    identifier::name_in_arn,
    reply::{Answer, Failure},
    service::Service,
    task::Task,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Every cluster by its name.
#[derive(Default)]
pub(super) struct Clusters(BTreeMap<String, Members>);

/// What is in one cluster, by name and by id.
#[derive(Default)]
pub(super) struct Members {
    pub(super) services: BTreeMap<String, Service>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) vanished: Option<Vanished>,
}

/// What calls in a cluster answer that is listed, but does not exist any more: some are for days.
#[derive(Clone, Copy, Debug)]
pub enum Vanished {
    /// `ClusterNotFoundException`.
    NotFound,
    /// `InvalidParameterException` with ECS's text on inactive clusters.
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
    /// What is in a cluster, which is made where it does not exist.
    pub(super) fn members_of(&mut self, cluster: &str) -> &mut Members {
        self.0.entry(cluster.to_owned()).or_default()
    }

    pub(super) fn remove(&mut self, cluster: &str) {
        self.0.remove(cluster);
    }

    pub(super) fn get(&self, cluster: &str) -> Option<&Members> {
        self.0.get(cluster)
    }

    /// The name of the cluster a call names, short or as an ARN, and what is in it.
    pub(super) fn named<'a>(
        &'a self,
        named: &'a Value,
        caller: &Caller,
    ) -> Result<(&'a str, &'a Members), Failure> {
        let name = cluster_name(named, caller)?;
        Ok((name, self.members(name)?))
    }

    /// What is in a cluster that exists.
    pub(super) fn members(&self, name: &str) -> Result<&Members, Failure> {
        let members = self.get(name).ok_or_else(|| Failure::not_found("Cluster"))?;
        members.vanished.map_or(Ok(members), |vanished| Err(vanished.failure()))
    }
}

/// The cluster a call names; `default` for a call that names none.
pub(super) fn cluster_name<'a>(named: &'a Value, caller: &Caller) -> Result<&'a str, Failure> {
    let name = named.as_str().unwrap_or("default");
    if name.starts_with("arn:") { name_in_arn(name, "cluster/", caller) } else { Ok(name) }
}

/// The cluster and the name in `name` or in the ARN of a thing that belongs to a cluster, which must be this
/// one where one is given.
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
    let (owner, name) = path.split_once('/').ok_or_else(invalid)?;
    if cluster.is_some_and(|cluster| cluster != owner) {
        return Err(invalid());
    }
    Ok((owner, name))
}

pub(super) fn list(clusters: &Clusters, caller: &Caller, input: &Value) -> Answer {
    let arns =
        clusters.0.keys().map(|name| (name.clone(), json!(caller.ecs_arn(&format!("cluster/{name}")))));
    batch::list(input, "clusterArns", "", 100, arns)
}
