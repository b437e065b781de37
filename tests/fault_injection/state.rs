//! The state of the API server: the end state of every resource, and every version before it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::World;

/// The end state of the namespace: every resource and the ECS status of its revisions, without
/// times and IDs.
pub type End = BTreeMap<String, Value>;

/// Returns the current state of every resource except the fence. Times are replaced by whether they
/// are set, and request IDs are removed.
pub async fn end(world: &World<'_>) -> End {
    let listed = world.api().list(&ListParams::default()).await.expect("the resources can be listed").items;
    let others = listed.into_iter().filter(|it| !it.name_any().starts_with("fence"));
    others
        .map(|it| {
            let mut status = it.data["status"].clone();
            for row in status["revisions"].as_array_mut().into_iter().flatten() {
                for time in ["registeredAt", "deregisteredAt", "unusedSince"] {
                    row[time] = json!(!row[time].is_null());
                }
                row["requestId"] = Value::Null;
                let ours = row["revision"].as_str().filter(|it| !it.starts_with("arn:"));
                row["ecs"] = json!(format!("{:?}", ours.and_then(|it| world.west.status(it))));
            }
            for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastTransitionTime"] = Value::Null;
            }
            (it.name_any(), json!({ "generation": it.metadata.generation, "status": status }))
        })
        .collect()
}

pub async fn resource_versions(world: &World<'_>) -> BTreeMap<String, String> {
    let listed = world.api().list(&ListParams::default()).await.expect("the resources can be listed").items;
    listed.into_iter().map(|it| (it.name_any(), it.resource_version().unwrap_or_default())).collect()
}

/// Every version of every resource of a namespace, as observed by a watch that bypasses the proxy.
pub struct Versions {
    seen: Arc<Mutex<Vec<Value>>>,
    watching: JoinHandle<()>,
}

impl Versions {
    pub fn collect(api: Api<DynamicObject>) -> Self {
        let seen = Arc::<Mutex<Vec<Value>>>::default();
        let sink = seen.clone();
        let watching = tokio::spawn(async move {
            let parameters = WatchParams::default().timeout(290);
            let mut events = api.watch(&parameters, "0").await.expect("the watch starts").boxed();
            while let Some(event) = events.next().await {
                if let Ok(WatchEvent::Added(it) | WatchEvent::Modified(it) | WatchEvent::Deleted(it)) = event
                {
                    let version = serde_json::to_value(it).expect("an object is JSON");
                    sink.lock().expect("the lock is not poisoned").push(version);
                }
            }
        });
        Self { seen, watching }
    }

    pub fn all(&self) -> Vec<Value> {
        self.seen.lock().expect("the lock is not poisoned").clone()
    }
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
