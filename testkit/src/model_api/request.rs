//! Parses an HTTP request as a Kubernetes API request. No I/O.

use axum::http::{
    HeaderMap, Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use kube::client::Body;
use serde_json::Value;
use std::time::Duration;

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Lists all objects of a kind.
    List,
    /// Watches all objects of a kind.
    Watch,
    /// Creates an object.
    Create,
    /// Replaces an object.
    Replace,
    /// Applies the status with server-side apply, as its only owner.
    ApplyStatus,
    /// Changes an object with a JSON patch.
    JsonPatch,
    /// Deletes an object.
    Delete,
    /// Any request that the model does not support.
    Unknown,
}

/// One parsed request.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// The operation.
    pub verb: Verb,
    /// The kind, such as `leases`.
    pub plural: String,
    /// Empty for all namespaces, and for cluster-scoped objects.
    pub namespace: String,
    /// The name of the object, or `None` for a collection.
    pub name: Option<String>,
    /// The resource version from which a watch starts.
    pub resource_version: Option<u64>,
    /// The duration of a watch.
    pub timeout: Duration,
    /// The field manager, or `None` if the request does not name one.
    pub field_manager: Option<String>,
    /// True if the response must have only the metadata of objects.
    pub is_metadata_only: bool,
    /// Null without a body.
    pub body: Value,
}

impl ApiRequest {
    /// Reads and parses a request of kube's client.
    ///
    /// # Errors
    ///
    /// Returns an error if the body cannot be read.
    pub async fn receive(request: Request<Body>) -> kube::Result<Self> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        Ok(Self::read(head.method.as_str(), path, query, &head.headers, &body))
    }

    /// Parses a request for a kind of any API group.
    #[must_use]
    pub fn read(method: &str, path: &str, query: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.as_slice() {
            ["apis", _, _, rest @ ..] | ["api", _, rest @ ..] => rest,
            _ => &[],
        };
        let (namespace, plural, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => ("", "", rest),
        };
        let (name, subresource) = (rest.first().copied(), rest.get(1).copied());
        let header = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
        };
        let is_watch = matches!(parameter("watch"), Some("true" | "1"));
        let verb = match (method, name, subresource) {
            ("GET", None, None) if is_watch => Verb::Watch,
            ("GET", None, None) => Verb::List,
            ("GET", Some(_), None) => Verb::Get,
            ("POST", None, None) => Verb::Create,
            ("PUT", Some(_), None) => Verb::Replace,
            ("PATCH", Some(_), Some("status")) => Verb::ApplyStatus,
            ("PATCH", Some(_), None) if header(CONTENT_TYPE) == "application/json-patch+json" => {
                Verb::JsonPatch
            }
            ("DELETE", Some(_), None) => Verb::Delete,
            _ => Verb::Unknown,
        };
        let seconds = parameter("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(290);
        Self {
            verb,
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
            resource_version: parameter("resourceVersion").and_then(|version| version.parse().ok()),
            timeout: Duration::from_secs(seconds),
            field_manager: parameter("fieldManager").map(str::to_owned),
            is_metadata_only: header(ACCEPT).contains("as=PartialObjectMetadata"),
            body: serde_json::from_slice(body).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, path: &str, query: &str, body: &[u8]) -> ApiRequest {
        ApiRequest::read(method, path, query, &HeaderMap::new(), body)
    }

    #[test]
    fn read_parses_watch_list_and_status_apply_requests() {
        let all = "/apis/ecs-retirement.dev/v1alpha1/taskdefinitionretirements";
        let watch = read("GET", all, "&watch=true&timeoutSeconds=25&resourceVersion=7", b"");
        assert_eq!((watch.verb, watch.resource_version), (Verb::Watch, Some(7)));
        assert_eq!(watch.timeout, Duration::from_secs(25));
        assert_eq!(read("GET", all, "&limit=500", b"").verb, Verb::List);
        let one =
            "/apis/ecs-retirement.dev/v1alpha1/namespaces/platform/taskdefinitionretirements/web/status";
        let apply = read("PATCH", one, "&force=true&fieldManager=controller", br#"{"status": {}}"#);
        assert_eq!((apply.verb, apply.plural.as_str()), (Verb::ApplyStatus, "taskdefinitionretirements"));
        assert_eq!(apply.field_manager.as_deref(), Some("controller"));
        assert_eq!((apply.namespace.as_str(), apply.name.as_deref()), ("platform", Some("web")));
    }

    #[test]
    fn read_parses_requests_for_cluster_scoped_objects() {
        let account = read("GET", "/apis/ecs-retirement.dev/v1alpha1/ecsaccounts/prod", "", b"");
        let parsed = (account.verb, account.namespace.as_str(), account.plural.as_str());
        assert_eq!((parsed, account.name.as_deref()), ((Verb::Get, "", "ecsaccounts"), Some("prod")));
        let namespace = read("GET", "/api/v1/namespaces/platform", "", b"");
        let parsed = (namespace.verb, namespace.namespace.as_str(), namespace.plural.as_str());
        assert_eq!((parsed, namespace.name.as_deref()), ((Verb::Get, "", "namespaces"), Some("platform")));
    }

    #[test]
    fn read_distinguishes_patches_and_responses_by_their_media_type() {
        let one = "/apis/ecs-retirement.dev/v1alpha1/namespaces/platform/taskdefinitionretirements/web";
        let of = |name, media_type: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, media_type.parse().expect("a media type"));
            ApiRequest::read("PATCH", one, "", &headers, b"[]")
        };
        assert_eq!(of(CONTENT_TYPE, "application/json-patch+json").verb, Verb::JsonPatch);
        assert_eq!(of(CONTENT_TYPE, "application/merge-patch+json").verb, Verb::Unknown);
        assert!(of(ACCEPT, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io").is_metadata_only);
    }
}
