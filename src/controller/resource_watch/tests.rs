//! Watches an API server whose resource version goes back, in paused tokio time.

use std::{
    convert::Infallible,
    future::{pending, ready},
    pin::pin,
    sync::Arc,
};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use kube::{Client, runtime::reflector::store};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::service_fn;

use super::*;
use crate::{api::TaskDefinitionRetirement, controller::guarded::Guarded};

/// How the API server responds to a watch.
#[derive(Clone, Copy, Debug)]
enum WatchResponse {
    /// With HTTP status 504, as a watch cache does.
    TooLarge,
    /// With an `ERROR` event that contains status 504.
    TooLargeEvent,
    /// Without any event.
    Silence,
}

#[derive(Debug)]
struct ApiServer {
    watch: WatchResponse,
    version: u64,
    names: Vec<&'static str>,
    lists: u32,
    checks: u32,
}

type SharedServer = Arc<Mutex<ApiServer>>;

impl ApiServer {
    fn respond(&mut self, query: &str) -> (u16, Body) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 504, "reason": "Timeout",
            "message": "Too large resource version: 100, current: 50",
        });
        if query.contains("watch=true") {
            return match self.watch {
                WatchResponse::TooLarge => (504, Body::from(status.to_string())),
                WatchResponse::TooLargeEvent => {
                    let event = json!({ "type": "ERROR", "object": status });
                    (200, Body::from(format!("{event}\n")))
                }
                WatchResponse::Silence => {
                    let silence = stream::once(pending::<Result<Bytes, Infallible>>());
                    (200, Body::from_stream(silence))
                }
            };
        }
        let is_check = query.contains("limit=1&") || query.ends_with("limit=1");
        *(if is_check { &mut self.checks } else { &mut self.lists }) += 1;
        let limit = if is_check { 1 } else { usize::MAX };
        let items: Vec<Value> = self.names.iter().take(limit).map(|name| self.object(name)).collect();
        let remaining = self.names.len() - items.len();
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if remaining > 0 {
            metadata["continue"] = "next".into();
            metadata["remainingItemCount"] = remaining.into();
        }
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items });
        (200, Body::from(list.to_string()))
    }

    fn object(&self, name: &str) -> Value {
        json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "TaskDefinitionRetirement",
            "metadata": {
                "namespace": "platform",
                "name": name,
                "uid": name,
                "resourceVersion": self.version.to_string(),
            },
            "spec": { "revisions": ["web:1"] },
        })
    }
}

/// Watches an API server with the resources `a` and `b` at version 100, applies `change`, and waits
/// for `is_done`. Returns the time from the change until then.
async fn time_until(
    change: impl FnOnce(&mut ApiServer),
    is_done: impl Fn(&[String], &ApiServer) -> bool,
) -> Duration {
    let (watch, names) = (WatchResponse::Silence, vec!["a", "b"]);
    let server = SharedServer::new(Mutex::new(ApiServer { watch, version: 100, names, lists: 0, checks: 0 }));
    let handle = server.clone();
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let (status, body) = handle.lock().respond(&query);
        ready(Response::builder().status(status).body(body))
    });
    let (cache, mut writer) = store::<Guarded<TaskDefinitionRetirement>>();
    let api = Api::all(Client::new(service, "platform"));
    let mut events = pin!(events(api, cache.clone()));
    let mut change = Some(change);
    let mut changed_at = Instant::now();
    loop {
        // If no event arrived for a second, the first check is complete.
        if let Ok(event) = timeout(Duration::from_secs(1), events.next()).await {
            if let Some(Ok(event)) = event {
                writer.apply_watcher_event(&event);
            }
        } else if let Some(change) = change.take() {
            changed_at = Instant::now();
            change(&mut server.lock());
        }
        let mut names: Vec<String> = cache.state().iter().map(|object| object.name_any()).collect();
        names.sort();
        let server = server.lock();
        if change.is_none() && is_done(&names, &server) {
            return changed_at.elapsed();
        }
        assert!(changed_at.elapsed() < Duration::from_mins(90), "{names:?} {server:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn resources_are_listed_again_after_too_large_resource_version() {
    for response in [WatchResponse::TooLarge, WatchResponse::TooLargeEvent] {
        let restore = |server: &mut ApiServer| {
            (server.watch, server.version, server.names) = (response, 50, vec!["a", "c"]);
        };
        let took = time_until(restore, |names, _| names == ["a", "c"]).await;
        // The previous watch request lasts up to 25 seconds.
        assert!(took < Duration::from_secs(40), "{response:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn resources_are_listed_again_if_the_resource_version_goes_back() {
    let restore = |server: &mut ApiServer| (server.version, server.names) = (50, vec!["a", "c"]);
    let took = time_until(restore, |names, _| names == ["a", "c"]).await;
    assert!(took < Duration::from_secs(65), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn resources_are_listed_again_if_their_number_differs_from_the_watch() {
    for names in [vec!["a"], vec!["a", "b", "c"]] {
        let hide = |server: &mut ApiServer| (server.version, server.names) = (200, names.clone());
        let took = time_until(hide, |seen, _| seen == names).await;
        assert!(took < Duration::from_secs(125), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn resources_are_not_listed_again_if_checks_succeed() {
    let write = |server: &mut ApiServer| server.version = 200;
    let took = time_until(write, |_, server| {
        assert_eq!(server.lists, 1);
        server.checks >= 60
    })
    .await;
    assert!(took > Duration::from_mins(57), "one check per minute: {took:?}");
}
