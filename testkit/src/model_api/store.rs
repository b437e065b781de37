//! The objects, and every version they had; pure.

use super::{failure, missing};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind, such as `leases`.
    pub plural: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    pub(super) fn new(plural: &str, namespace: &str, name: &str) -> Self {
        Self { plural: plural.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What a watch calls a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted; the version is the last one it had.
    Deleted,
}

impl Change {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One object as a write left it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Which object.
    pub key: Key,
    /// Of the write.
    pub resource_version: u64,
    /// Which kind of write.
    pub change: Change,
    /// The object after it.
    pub object: Value,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) history: Vec<Version>,
    pub(super) resource_version: u64,
    made: u64,
}

type Written = (u16, Value);

impl Store {
    pub(super) fn objects_of(&self, plural: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |(key, _)| key.plural == plural).map(|(_, object)| object)
    }

    pub(super) fn create(
        &mut self,
        plural: &str,
        namespace: &str,
        object: &Value,
        now: Timestamp,
    ) -> Written {
        self.made += 1;
        let prefix = object["metadata"]["generateName"].as_str();
        let name = match (object["metadata"]["name"].as_str(), prefix) {
            (Some(name), _) => name.to_owned(),
            (None, prefix) => format!("{}{:05}", prefix.unwrap_or_default(), self.made),
        };
        let key = Key::new(plural, namespace, &name);
        if self.objects.contains_key(&key) {
            return failure(409, "AlreadyExists", &format!("{plural} {name:?} already exists"));
        }
        let mut object = object.clone();
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(namespace);
        metadata["uid"] = json!(format!("00000000-0000-4000-9000-{:012x}", self.made));
        metadata["generation"] = json!(1);
        metadata["creationTimestamp"] = json!(second(now));
        (201, self.keep(key, Change::Added, object))
    }

    pub(super) fn replace(&mut self, key: &Key, object: &Value) -> Written {
        let Some(held) = self.objects.get(key) else { return missing(key) };
        if let Some(conflict) = conflict(held, object) {
            return conflict;
        }
        let mut object = object.clone();
        for field in ["uid", "generation", "creationTimestamp"] {
            object["metadata"][field] = held["metadata"][field].clone();
        }
        self.change(key, object)
    }

    /// A person's write: the status stays, and a new spec is a new generation.
    pub(super) fn edit(&mut self, key: &Key, spec: &Value, annotations: &Value) -> Written {
        let Some(held) = self.objects.get(key) else { return missing(key) };
        let mut object = held.clone();
        if object["spec"] != *spec {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            object["metadata"]["generation"] = json!(generation);
            object["spec"] = spec.clone();
        }
        object["metadata"]["annotations"] = annotations.clone();
        self.change(key, object)
    }

    pub(super) fn apply_status(&mut self, key: &Key, patch: &Value) -> Written {
        let Some(held) = self.objects.get(key) else { return missing(key) };
        if let Some(conflict) = conflict(held, patch) {
            return conflict;
        }
        let mut object = held.clone();
        // The whole status has one owner: what it does not apply is gone.
        object["status"] = patch["status"].clone();
        self.change(key, object)
    }

    pub(super) fn delete(&mut self, key: &Key) -> Written {
        match self.objects.get(key).cloned() {
            Some(object) => {
                let object = self.keep(key.clone(), Change::Deleted, object);
                self.objects.remove(key);
                (200, object)
            }
            None => missing(key),
        }
    }

    fn change(&mut self, key: &Key, mut object: Value) -> Written {
        let held = &self.objects[key];
        object["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"].clone();
        if *held == object { (200, object) } else { (200, self.keep(key.clone(), Change::Modified, object)) }
    }

    fn keep(&mut self, key: Key, change: Change, mut object: Value) -> Value {
        self.resource_version += 1;
        object["metadata"]["resourceVersion"] = json!(self.resource_version.to_string());
        let resource_version = self.resource_version;
        self.history.push(Version { key: key.clone(), resource_version, change, object: object.clone() });
        self.objects.insert(key, object.clone());
        object
    }
}

/// A write that speaks of another version, or of another object of that name.
fn conflict(held: &Value, written: &Value) -> Option<Written> {
    let differs = |field: &str| {
        let written = &written["metadata"][field];
        !written.is_null() && *written != held["metadata"][field]
    };
    let field = ["uid", "resourceVersion"].into_iter().find(|field| differs(field))?;
    let message = format!("Operation cannot be fulfilled: {field} in precondition differs from the object's");
    Some(failure(409, "Conflict", &message))
}

/// Kubernetes keeps no fractions of a second.
fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "taskdefinitionretirements";

    fn made() -> (Store, Key, Value) {
        let mut store = Store::default();
        let object = json!({"metadata": {"name": "web"}, "spec": {"revisions": ["web:1"]}});
        let (status, object) = store.create(KIND, "platform", &object, Timestamp::UNIX_EPOCH);
        assert_eq!(status, 201);
        (store, Key::new(KIND, "platform", "web"), object)
    }

    fn status(object: &Value, progress: &str) -> Value {
        json!({"metadata": object["metadata"], "status": {"progress": progress}})
    }

    #[test]
    fn a_status_made_from_an_older_version_or_for_another_object_is_a_conflict() {
        let (mut store, key, first) = made();
        let (code, second) = store.apply_status(&key, &status(&first, "0/1"));
        assert_eq!((code, &second["metadata"]["generation"]), (200, &json!(1)));
        assert_eq!(store.apply_status(&key, &status(&first, "1/1")).0, 409);
        assert_eq!(store.delete(&key).0, 200);
        assert_eq!(store.apply_status(&key, &status(&second, "1/1")).0, 404);
        store.create(KIND, "platform", &json!({"metadata": {"name": "web"}}), Timestamp::UNIX_EPOCH);
        assert_eq!(store.apply_status(&key, &status(&second, "1/1")).0, 409);
    }

    #[test]
    fn what_changes_nothing_is_no_version_and_a_new_spec_is_a_new_generation() {
        let (mut store, key, object) = made();
        let (_, object) = store.apply_status(&key, &status(&object, "0/1"));
        let (_, same) = store.apply_status(&key, &status(&object, "0/1"));
        assert_eq!(same, object);
        assert_eq!(store.history.len(), 2);
        let (_, edited) = store.edit(&key, &json!({"revisions": ["web:2"]}), &Value::Null);
        assert_eq!(edited["metadata"]["generation"], 2);
        assert_eq!(edited["status"], object["status"]);
    }
}
