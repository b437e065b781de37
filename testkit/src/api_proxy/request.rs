//! Parses the method and the URI of an API server request. No I/O.

use axum::http::{Method, Uri};

/// The verb, as in Kubernetes authorization.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    /// Returns true for verbs that may change an object.
    #[must_use]
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A parsed request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    pub verb: Verb,
    /// The plural, followed by a slash and the subresource if there is one, such as
    /// `taskdefinitionretirements/status`.
    pub resource: String,
    /// Empty if the request does not name one.
    pub namespace: String,
    /// Empty if the request does not name one.
    pub name: String,
}

impl Request {
    /// Parses `/api/V/...` and `/apis/GROUP/V/...`. Any other path is used as the resource.
    #[must_use]
    pub fn read(method: &Method, uri: &Uri) -> Self {
        let mut parts = uri.path().trim_matches('/').split('/');
        let skipped = if parts.next() == Some("apis") { 2 } else { 1 };
        let mut parts = parts.skip(skipped).peekable();
        let mut namespace = String::new();
        let mut first = parts.next().unwrap_or_default();
        if first == "namespaces"
            && let Some(named) = parts.next()
        {
            // A path that ends here names a namespace itself, which is not distinguished.
            named.clone_into(&mut namespace);
            first = parts.next().unwrap_or(first);
        }
        let name = parts.next().unwrap_or_default().to_owned();
        let resource = match parts.next() {
            Some(subresource) => format!("{first}/{subresource}"),
            None => first.to_owned(),
        };
        let is_watch = uri.query().unwrap_or_default().split('&').any(|it| it == "watch=true");
        let verb = match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if is_watch => Verb::Watch,
            _ if name.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        Self { verb, resource, namespace, name }
    }

    /// Returns true for a watch in one namespace. Other tests change the objects of other watches.
    pub(super) fn is_watch_of_a_namespace(&self) -> bool {
        self.verb == Verb::Watch && !self.namespace.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_parses_verb_resource_namespace_and_name() {
        let retirements = "/apis/ecs-retirement.dev/v1alpha1/namespaces/test/taskdefinitionretirements";
        let leases = "/apis/coordination.k8s.io/v1/namespaces/test/leases/controller";
        let table = [
            (
                Method::GET,
                format!("{retirements}/web"),
                Verb::Get,
                "taskdefinitionretirements",
                "test",
                "web",
            ),
            (
                Method::GET,
                format!("{retirements}?limit=5"),
                Verb::List,
                "taskdefinitionretirements",
                "test",
                "",
            ),
            (
                Method::GET,
                format!("{retirements}?limit=5&watch=true"),
                Verb::Watch,
                "taskdefinitionretirements",
                "test",
                "",
            ),
            (
                Method::PATCH,
                format!("{retirements}/web/status?force=true"),
                Verb::Patch,
                "taskdefinitionretirements/status",
                "test",
                "web",
            ),
            (Method::PUT, leases.to_owned(), Verb::Update, "leases", "test", "controller"),
            (Method::POST, "/api/v1/namespaces/test/events".to_owned(), Verb::Create, "events", "test", ""),
            (Method::GET, "/api/v1/nodes/one".to_owned(), Verb::Get, "nodes", "", "one"),
        ];
        for (method, uri, verb, resource, namespace, name) in table {
            let request = Request::read(&method, &uri.parse().expect("a URI"));
            let (resource, namespace) = (resource.to_owned(), namespace.to_owned());
            assert_eq!(request, Request { verb, resource, namespace, name: name.to_owned() }, "{uri}");
        }
    }
}
