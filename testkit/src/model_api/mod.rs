//! An in-memory model of the Kubernetes API server: what a controller and its users need of it,
//! without sockets and without faults.

mod request;
mod store;
mod watch;

pub use self::{
    request::{ApiRequest, Verb},
    store::{Change, Version},
    watch::Watch,
};

use self::store::{Key, Store};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch as signal;

/// A handle on the modelled server. Cheap to clone.
///
/// # Guarantees
///
/// As in Kubernetes:
/// - Each write has its own, increasing resource version.
/// - A write with another resource version or UID than the object is a conflict.
/// - A changed spec increments the generation.
/// - A write without changes does not create a version.
/// - A watch from a resource version returns every later change once and in order.
/// - A deletion with other preconditions than the object's UID and resource version is a conflict.
/// - A JSON patch whose test fails is invalid, and changes nothing.
#[derive(Clone)]
pub struct ModelApi {
    store: Arc<Mutex<Store>>,
    changed: signal::Sender<u64>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// A response.
pub enum ApiResponse {
    /// An HTTP status and a body.
    Whole(u16, Value),
    /// A stream of changes.
    Watch(Watch),
}

impl ModelApi {
    /// Creates an empty server. `clock` returns the current time.
    #[must_use]
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (store, changed) = (Arc::default(), signal::Sender::new(0));
        Self { store, changed, clock: Arc::new(clock) }
    }

    /// Processes a request.
    #[must_use]
    pub fn respond(&self, request: &ApiRequest) -> ApiResponse {
        let key =
            || Key::new(&request.plural, &request.namespace, request.name.as_deref().unwrap_or_default());
        let (status, body) = match request.verb {
            Verb::Watch => match request.resource_version {
                Some(since) => {
                    return ApiResponse::Watch(self.watch(request, since));
                }
                None => failure(400, "BadRequest", "this model requires a resource version to watch from"),
            },
            Verb::List => (200, self.list(request)),
            Verb::Get => match self.get(&key()) {
                Some(object) if request.is_metadata_only => (200, metadata_only(&object)),
                Some(object) => (200, object),
                None => missing(&key()),
            },
            Verb::Create => {
                self.write(|store, now| store.create(&request.plural, &request.namespace, &request.body, now))
            }
            Verb::Replace => self.write(|store, _| store.replace(&key(), &request.body)),
            Verb::ApplyStatus if request.field_manager.is_none() => failure(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: \
                 fieldManager: Required value: is required for apply patch",
            ),
            Verb::ApplyStatus => self.write(|store, _| store.apply_status(&key(), &request.body)),
            Verb::JsonPatch => self.write(|store, _| store.json_patch(&key(), &request.body)),
            Verb::Delete => self.write(|store, _| store.delete(&key(), &request.body)),
            Verb::Unknown => failure(405, "MethodNotAllowed", "this model does not support the request"),
        };
        ApiResponse::Whole(status, body)
    }

    /// Creates an object, as a user does.
    ///
    /// # Panics
    ///
    /// Panics if an object of that name exists.
    pub fn make(&self, plural: &str, namespace: &str, object: &Value) {
        let (status, body) = self.write(|store, now| store.create(plural, namespace, object, now));
        assert_eq!(status, 201, "{body}");
    }

    /// Replaces the spec and the annotations of an object, as a user does.
    ///
    /// # Panics
    ///
    /// Panics if the object does not exist.
    pub fn edit(&self, plural: &str, namespace: &str, name: &str, spec: &Value, annotations: &Value) {
        let key = Key::new(plural, namespace, name);
        let (status, body) = self.write(|store, _| store.edit(&key, spec, annotations));
        assert_eq!(status, 200, "{body}");
    }

    /// Replaces the labels of an object, as a user does.
    ///
    /// # Panics
    ///
    /// Panics if the object does not exist.
    pub fn label(&self, plural: &str, namespace: &str, name: &str, labels: &Value) {
        let key = Key::new(plural, namespace, name);
        let (status, body) = self.write(|store, _| store.label(&key, labels));
        assert_eq!(status, 200, "{body}");
    }

    /// Deletes an object, as a user does.
    ///
    /// # Panics
    ///
    /// Panics if the object does not exist.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let key = Key::new(plural, namespace, name);
        let (status, body) = self.write(|store, _| store.delete(&key, &Value::Null));
        assert_eq!(status, 200, "{body}");
    }

    /// Deletes the objects whose owners are all deleted, as the garbage collector does.
    pub fn collect_garbage(&self) {
        let orphans = self.lock().orphans();
        for key in orphans {
            self.write(|store, _| store.delete(&key, &Value::Null));
        }
    }

    /// Returns every version of every object of a kind, in the order of the writes.
    #[must_use]
    pub fn versions(&self, plural: &str) -> Vec<Version> {
        self.lock().history.iter().filter(|version| version.key.plural == plural).cloned().collect()
    }

    /// Returns the current objects of a kind.
    #[must_use]
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        self.lock().objects_of(plural).cloned().collect()
    }

    /// Returns the changes of a kind after a resource version, until the timeout has elapsed.
    fn watch(&self, request: &ApiRequest, since: u64) -> Watch {
        Watch::new(self.store.clone(), self.changed.subscribe(), request, since)
    }

    fn list(&self, request: &ApiRequest) -> Value {
        let store = self.lock();
        let is_requested = |object: &&Value| {
            request.namespace.is_empty() || object["metadata"]["namespace"] == json!(request.namespace)
        };
        let items = store.objects_of(&request.plural).filter(is_requested);
        let items: Vec<Value> = if request.is_metadata_only {
            items.map(metadata_only).collect()
        } else {
            items.cloned().collect()
        };
        let api_version = items.first().map_or(json!("v1"), |it| it["apiVersion"].clone());
        json!({
            "kind": "List",
            "apiVersion": api_version,
            "metadata": { "resourceVersion": store.resource_version.to_string() },
            "items": items,
        })
    }

    fn get(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    fn write(&self, write: impl FnOnce(&mut Store, Timestamp) -> (u16, Value)) -> (u16, Value) {
        let response = write(&mut self.lock(), (self.clock)());
        self.changed.send_modify(|changes| *changes += 1);
        response
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("the mutex is not poisoned")
    }
}

/// Returns a failure in the format of Kubernetes.
#[must_use]
pub fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, body)
}

/// Returns only the metadata of an object.
fn metadata_only(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
    })
}

fn missing(key: &Key) -> (u16, Value) {
    failure(404, "NotFound", &format!("{} {:?} not found", key.plural, key.name))
}
