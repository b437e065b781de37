//! Parses an HTTP request as a call of ECS (awsJson 1.1) or STS (awsQuery). No I/O.

use super::{
    action::{Action, Service},
    caller::{Caller, account_of},
    clusters::cluster_name,
    form,
};
use axum::http::{HeaderMap, header::AUTHORIZATION};
use serde_json::Value;

const TARGET_PREFIX: &str = "AmazonEC2ContainerServiceV20141113.";

/// One parsed call.
pub(super) struct Request {
    pub(super) service: Service,
    pub(super) action: Action,
    pub(super) action_name: String,
    /// `None` without a signature.
    pub(super) scope: Option<CredentialScope>,
    /// The token of temporary credentials.
    pub(super) session_token: Option<String>,
    /// `None` if the body is not a JSON object. For STS, the fields of the form.
    pub(super) input: Option<Value>,
}

/// The credential scope of a signature.
pub(super) struct CredentialScope {
    pub(super) access_key: String,
    pub(super) region: String,
    pub(super) service: String,
}

impl Request {
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let scope =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(CredentialScope::parse);
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let (service, action_name, input) = if let Some(target) = text("x-amz-target") {
            let name = target.strip_prefix(TARGET_PREFIX).unwrap_or(target).to_owned();
            (Service::Ecs, name, serde_json::from_slice(body).ok().filter(Value::is_object))
        } else {
            let fields = Value::Object(form::parse(body));
            let name = fields["Action"].as_str().unwrap_or_default().to_owned();
            (Service::Sts, name, Some(fields))
        };
        Self {
            service,
            action: Action::of(service, &action_name),
            action_name,
            scope,
            session_token: text("x-amz-security-token").map(str::to_owned),
            input,
        }
    }

    /// Returns the caller of `AssumeRoleWithWebIdentity`, which has no signature, from the role.
    pub(super) fn web_identity(&self) -> Option<Caller> {
        let role = self.role_to_assume().filter(|_| self.action == Action::AssumeRoleWithWebIdentity)?;
        Some(Caller::of(account_of(role)?, ""))
    }

    /// Returns the ARN of the role that an STS call would assume.
    pub(super) fn role_to_assume(&self) -> Option<&str> {
        let assumes = [Action::AssumeRole, Action::AssumeRoleWithWebIdentity].contains(&self.action);
        self.input.as_ref().filter(|_| assumes)?["RoleArn"].as_str()
    }

    /// Returns the resource of the IAM check: the first one that the call names, or `*` if IAM does
    /// not support resource-level permissions for the call.
    pub(super) fn resource(&self, caller: &Caller) -> String {
        let field = match self.action {
            Action::DescribeServices => "services",
            Action::DescribeTasks => "tasks",
            Action::ListServiceDeployments => "service",
            Action::DescribeServiceDeployments => "serviceDeploymentArns",
            Action::DescribeServiceRevisions => "serviceRevisionArns",
            _ => return "*".to_owned(),
        };
        let input = self.input.as_ref().unwrap_or(&Value::Null);
        let first = input[field].get(0).unwrap_or(&input[field]).as_str().unwrap_or("*");
        if first.starts_with("arn:") {
            return first.to_owned();
        }
        let kind = if field == "tasks" { "task" } else { "service" };
        let cluster = cluster_name(&input["cluster"], caller).unwrap_or("*");
        caller.ecs_arn(&format!("{kind}/{cluster}/{first}"))
    }

    /// Returns all task definitions that the call names, as written.
    pub(super) fn task_definitions(&self) -> Vec<&str> {
        let Some(input) = &self.input else {
            return Vec::new();
        };
        let one = input["taskDefinition"].as_str();
        let many = input["taskDefinitions"].as_array().into_iter().flatten();
        one.into_iter().chain(many.filter_map(Value::as_str)).collect()
    }
}

impl CredentialScope {
    /// Parses `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, ...`.
    fn parse(authorization: &str) -> Option<Self> {
        let (_, credential) = authorization.split_once("Credential=")?;
        let credential = credential.split([',', ' ']).next()?;
        let parts: Vec<&str> = credential.split('/').collect();
        let &[access_key, _, region, service, "aws4_request"] = parts.as_slice() else {
            return None;
        };
        Some(Self {
            access_key: access_key.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
        })
    }
}
