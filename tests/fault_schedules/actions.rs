//! Performs user actions and deploys.

use axum::{body::Bytes, http::HeaderMap};
use serde_json::{Value, json};
use testkit::simulated_ecs::{
    ACCESS_KEY, ACCOUNT, Cluster, Service, Task,
    in_process::{self, Sent},
};

use super::{
    kinds::{NAMESPACE, RETIREMENTS},
    users::{REGION, UserAction},
    world::World,
};

impl World {
    /// Performs a user action.
    pub fn perform(&self, action: &UserAction) {
        match action {
            UserAction::Create { kind, name, spec } => {
                let object = json!({
                    "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": kind.name(),
                    "metadata": { "name": name }, "spec": spec,
                });
                self.api.make(kind.plural(), kind.namespace(), &object);
            }
            UserAction::Edit { kind, name, spec } => {
                self.api.edit(kind.plural(), kind.namespace(), name, spec, &Value::Null);
            }
            UserAction::Request { kind, name } => {
                let annotations = json!({ "ecs-retirement.dev/requestedAt": "now" });
                let objects = self.api.objects(kind.plural());
                if let Some(object) = objects.iter().find(|it| it["metadata"]["name"] == *name) {
                    self.api.edit(kind.plural(), kind.namespace(), name, &object["spec"], &annotations);
                }
            }
            UserAction::Delete { kind, name } => self.api.delete(kind.plural(), kind.namespace(), name),
            UserAction::Approve { policy } => self.approve(policy),
            UserAction::LabelNamespace { labels } => self.label_namespace(labels),
            UserAction::Trust { role, is_trusted } => {
                let role = self.ecs.role(role);
                if *is_trusted {
                    role.trust(ACCOUNT);
                } else {
                    role.clear_trust();
                }
            }
            UserAction::RevokeSessions { role } => {
                self.ecs.role(role).remove();
                self.users.roles.iter().filter(|it| it.arn == *role).for_each(|it| self.create_role(it));
            }
            UserAction::Start { consumer, revision, is_service } => {
                let cluster = self.cluster(revision);
                if *is_service {
                    cluster.put_service(Service::steady(consumer, revision));
                } else {
                    cluster.put_task(Task::running(consumer, revision));
                }
                self.start_use(consumer, revision);
            }
            UserAction::Stop { consumer, revision, is_service } => {
                let cluster = self.cluster(revision);
                if *is_service {
                    cluster.remove_service(consumer);
                } else {
                    cluster.remove_task(consumer);
                }
                self.end_use(consumer);
            }
            UserAction::Deploy => self.deploy(),
            UserAction::Register { family } => drop(self.region_of(family).register(family)),
        }
    }

    /// Approves the current proposals of the policies whose proposals are approved.
    pub fn approve_all(&self) {
        let approved = self.users.policies.iter().filter(|policy| policy.is_approved);
        approved.for_each(|policy| self.approve(&policy.name));
    }

    fn approve(&self, policy: &str) {
        for mut object in self.api.objects(RETIREMENTS) {
            let (metadata, spec) = (object["metadata"].clone(), &mut object["spec"]);
            if metadata["labels"]["ecs-retirement.dev/policy"] == policy && spec["suspend"] == true {
                let name = metadata["name"].as_str().unwrap_or_default();
                spec["suspend"] = json!(false);
                self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &metadata["annotations"]);
            }
        }
    }

    fn cluster(&self, revision: &str) -> Cluster {
        self.region_of(revision).cluster("prod")
    }

    /// Registers a revision, as a deploy does, which consumes the account's request rate.
    fn deploy(&self) {
        let credential =
            format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/ecs/aws4_request");
        let target = "AmazonEC2ContainerServiceV20141113.RegisterTaskDefinition";
        let mut headers = HeaderMap::new();
        headers.insert("authorization", credential.parse().expect("the header value is valid"));
        headers.insert("x-amz-target", target.parse().expect("the header value is valid"));
        let body = json!({ "family": "deployed", "containerDefinitions": [{ "name": "web" }] }).to_string();
        let response = self.ecs.answer(&Sent { headers, body: Bytes::from(body) });
        let is_throttled = !matches!(response, in_process::Answer::Now(received) if received.status == 200);
        let mut journal = self.journal();
        journal.deploys.0 += 1;
        journal.deploys.1 += u64::from(is_throttled);
    }
}
