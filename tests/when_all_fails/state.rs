//! What the API server holds: the state of every resource, compared in the end, and every version on the way there.

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

/// What is left of the namespace when the dust has settled: every resource, and what ECS says of its revisions, times and ids apart.
pub type End = BTreeMap<String, Value>;

/// Every resource but the fence, as it is; times and ids are only said to be there.
pub async fn end(world: &World<'_>) -> End {
    let listed = world.api().list(&ListParams::default()).await.expect("they can be listed").items;
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
    let listed = world.api().list(&ListParams::default()).await.expect("they can be listed").items;
    listed.into_iter().map(|it| (it.name_any(), it.resource_version().unwrap_or_default())).collect()
}

/// Every version of every resource of a namespace, as a watch past the proxy sees them.
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
            let mut events = api.watch(&parameters, "0").await.expect("a watch").boxed();
            while let Some(event) = events.next().await {
                if let Ok(WatchEvent::Added(it) | WatchEvent::Modified(it) | WatchEvent::Deleted(it)) = event
                {
                    let version = serde_json::to_value(it).expect("an object is JSON");
                    sink.lock().expect("no holder panics").push(version);
                }
            }
        });
        Self { seen, watching }
    }

    pub fn all(&self) -> Vec<Value> {
        self.seen.lock().expect("no holder panics").clone()
    }
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
