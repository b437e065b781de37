//! A model of the Kubernetes API server in memory: what a controller and the people beside it need of it, without a socket and without faults.

mod request;
mod store;
mod watch;

pub use self::{
    request::{Asked, Verb},
    store::{Change, Version},
    watch::Watch,
};

use self::store::{Key, Store};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch as signal;

/// The server, and the test's hold on it. Cheap to clone.
///
/// # Guarantees
///
/// As of Kubernetes: each write has a resource version of its own, later ones have greater ones; a write that carries
/// another one, or another uid, than the object is a conflict; a new spec is a new generation; what changes nothing is
/// no write; a watch from a resource version shows every change after it, once and in order.
#[derive(Clone)]
pub struct ModelApi {
    store: Arc<Mutex<Store>>,
    changed: signal::Sender<u64>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What a request is answered with.
pub enum Answer {
    /// A status and a body.
    Whole(u16, Value),
    /// A stream of changes.
    Watch(Watch),
}

impl ModelApi {
    /// A server that has no object yet. `clock` tells it the time.
    #[must_use]
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (store, changed) = (Arc::default(), signal::Sender::new(0));
        Self { store, changed, clock: Arc::new(clock) }
    }

    /// Carries a request out.
    #[must_use]
    pub fn answer(&self, asked: &Asked) -> Answer {
        let key = || Key::new(&asked.plural, &asked.namespace, asked.name.as_deref().unwrap_or_default());
        let (status, body) = match asked.verb {
            Verb::Watch => match asked.resource_version {
                Some(since) => return Answer::Watch(self.watch(&asked.plural, since, asked.timeout)),
                None => failure(400, "BadRequest", "this model watches from a resource version only"),
            },
            Verb::List => (200, self.list(asked)),
            Verb::Get => self.get(&key()).map_or_else(|| missing(&key()), |object| (200, object)),
            Verb::Create => {
                self.write(|store, now| store.create(&asked.plural, &asked.namespace, &asked.body, now))
            }
            Verb::Replace => self.write(|store, _| store.replace(&key(), &asked.body)),
            Verb::ApplyStatus if asked.field_manager.is_none() => failure(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            Verb::ApplyStatus => self.write(|store, _| store.apply_status(&key(), &asked.body)),
            Verb::Unknown => failure(405, "MethodNotAllowed", "this model does not know the request"),
        };
        Answer::Whole(status, body)
    }

    /// Makes an object, as a person does.
    ///
    /// # Panics
    ///
    /// When there is one of that name.
    pub fn make(&self, plural: &str, namespace: &str, object: &Value) {
        let (status, body) = self.write(|store, now| store.create(plural, namespace, object, now));
        assert_eq!(status, 201, "{body}");
    }

    /// Gives an object another spec and other annotations, as a person does.
    ///
    /// # Panics
    ///
    /// When there is no such object.
    pub fn edit(&self, plural: &str, namespace: &str, name: &str, spec: &Value, annotations: &Value) {
        let key = Key::new(plural, namespace, name);
        let (status, body) = self.write(|store, _| store.edit(&key, spec, annotations));
        assert_eq!(status, 200, "{body}");
    }

    /// Deletes an object, as a person does.
    ///
    /// # Panics
    ///
    /// When there is no such object.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let key = Key::new(plural, namespace, name);
        let (status, body) = self.write(|store, _| store.delete(&key));
        assert_eq!(status, 200, "{body}");
    }

    /// Every version of every object of a kind, in the order in which they were written.
    #[must_use]
    pub fn versions(&self, plural: &str) -> Vec<Version> {
        self.lock().history.iter().filter(|version| version.key.plural == plural).cloned().collect()
    }

    /// The objects of a kind as they are now.
    #[must_use]
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        self.lock().objects_of(plural).cloned().collect()
    }

    /// The changes of a kind after a resource version, for as long as `timeout`.
    fn watch(&self, plural: &str, since: u64, timeout: std::time::Duration) -> Watch {
        Watch::new(self.store.clone(), self.changed.subscribe(), plural.to_owned(), since, timeout)
    }

    fn list(&self, asked: &Asked) -> Value {
        let store = self.lock();
        let is_asked = |object: &&Value| {
            asked.namespace.is_empty() || object["metadata"]["namespace"] == json!(asked.namespace)
        };
        let items: Vec<&Value> = store.objects_of(&asked.plural).filter(is_asked).collect();
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
        let answer = write(&mut self.lock(), (self.clock)());
        self.changed.send_modify(|changes| *changes += 1);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder of the lock panics")
    }
}

/// A failure as Kubernetes words it.
#[must_use]
pub fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, body)
}

fn missing(key: &Key) -> (u16, Value) {
    failure(404, "NotFound", &format!("{} {:?} not found", key.plural, key.name))
}
