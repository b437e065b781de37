//! The objects and their version history. No I/O.

use super::{failure, missing};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The plural of the kind, such as `leases`.
    pub plural: String,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    pub(super) fn new(plural: &str, namespace: &str, name: &str) -> Self {
        Self { plural: plural.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// The event type of a write in a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object was created.
    Added,
    /// The object was changed.
    Modified,
    /// The object was deleted; the version is its last one.
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

/// One object after a write.
#[derive(Clone, Debug)]
pub struct Version {
    /// The object.
    pub key: Key,
    /// The resource version of the write.
    pub resource_version: u64,
    /// The kind of write.
    pub change: Change,
    /// The object after the write.
    pub object: Value,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) history: Vec<Version>,
    pub(super) resource_version: u64,
    created: u64,
}

type Response = (u16, Value);

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
    ) -> Response {
        self.created += 1;
        let prefix = object["metadata"]["generateName"].as_str();
        let name = match (object["metadata"]["name"].as_str(), prefix) {
            (Some(name), _) => name.to_owned(),
            (None, prefix) => format!("{}{:05}", prefix.unwrap_or_default(), self.created),
        };
        let key = Key::new(plural, namespace, &name);
        if self.objects.contains_key(&key) {
            return failure(409, "AlreadyExists", &format!("{plural} {name:?} already exists"));
        }
        let mut object = object.clone();
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(format!("00000000-0000-4000-9000-{:012x}", self.created));
        metadata["generation"] = json!(1);
        metadata["creationTimestamp"] = json!(second(now));
        (201, self.append(key, Change::Added, object))
    }

    pub(super) fn replace(&mut self, key: &Key, object: &Value) -> Response {
        let Some(current) = self.objects.get(key) else { return missing(key) };
        if let Some(conflict) = conflict(current, object) {
            return conflict;
        }
        let mut object = object.clone();
        for field in ["uid", "generation", "creationTimestamp"] {
            object["metadata"][field] = current["metadata"][field].clone();
        }
        self.change(key, object)
    }

    /// Writes as a user: keeps the status, and increments the generation if the spec changes.
    pub(super) fn edit(&mut self, key: &Key, spec: &Value, annotations: &Value) -> Response {
        let Some(current) = self.objects.get(key) else { return missing(key) };
        let mut object = current.clone();
        object["spec"] = spec.clone();
        object["metadata"]["annotations"] = annotations.clone();
        self.update(key, object)
    }

    /// Replaces the labels as a user.
    pub(super) fn label(&mut self, key: &Key, labels: &Value) -> Response {
        let Some(current) = self.objects.get(key) else { return missing(key) };
        let mut object = current.clone();
        object["metadata"]["labels"] = labels.clone();
        self.update(key, object)
    }

    /// Applies a JSON patch to everything but the status.
    pub(super) fn json_patch(&mut self, key: &Key, operations: &Value) -> Response {
        let Some(current) = self.objects.get(key) else { return missing(key) };
        let Ok(patch) = serde_json::from_value::<json_patch::Patch>(operations.clone()) else {
            return failure(400, "BadRequest", "the body is not a JSON patch");
        };
        let mut object = current.clone();
        if let Err(error) = json_patch::patch(&mut object, &patch) {
            return failure(422, "Invalid", &error.to_string());
        }
        if let Some(conflict) = conflict(current, &object) {
            return conflict;
        }
        self.update(key, object)
    }

    pub(super) fn apply_status(&mut self, key: &Key, patch: &Value) -> Response {
        let Some(current) = self.objects.get(key) else { return missing(key) };
        if let Some(conflict) = conflict(current, patch) {
            return conflict;
        }
        let mut object = current.clone();
        // The whole status has one owner, so fields that it does not apply are removed.
        object["status"] = patch["status"].clone();
        self.change(key, object)
    }

    /// Deletes an object if it has the UID and resource version of the preconditions in `options`.
    pub(super) fn delete(&mut self, key: &Key, options: &Value) -> Response {
        let Some(current) = self.objects.get(key).cloned() else { return missing(key) };
        if let Some(conflict) = conflict(&current, &json!({ "metadata": options["preconditions"] })) {
            return conflict;
        }
        let uid = current["metadata"]["uid"].clone();
        self.append(key.clone(), Change::Deleted, current);
        self.objects.remove(key);
        let details = json!({ "name": key.name, "kind": key.plural, "uid": uid });
        let success = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        (200, success)
    }

    /// Returns the objects that have owners of which none exists.
    pub(super) fn orphans(&self) -> Vec<Key> {
        let exists = |uid: &Value| self.objects.values().any(|it| it["metadata"]["uid"] == *uid);
        let is_orphan = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|it| !it.is_empty() && !it.iter().any(|owner| exists(&owner["uid"])))
        };
        self.objects.iter().filter(|(_, object)| is_orphan(object)).map(|(key, _)| key.clone()).collect()
    }

    /// Writes an object but for its status and what the API server sets. A changed spec increments
    /// the generation.
    fn update(&mut self, key: &Key, mut object: Value) -> Response {
        let current = &self.objects[key];
        for field in ["name", "namespace", "uid", "generation", "creationTimestamp"] {
            if let Some(value) = current["metadata"].get(field) {
                object["metadata"][field] = value.clone();
            }
        }
        if let Some(status) = current.get("status") {
            object["status"] = status.clone();
        }
        if object["spec"] != current["spec"] {
            let generation = current["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            object["metadata"]["generation"] = json!(generation);
        }
        self.change(key, object)
    }

    fn change(&mut self, key: &Key, mut object: Value) -> Response {
        let current = &self.objects[key];
        object["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        if *current == object {
            (200, object)
        } else {
            (200, self.append(key.clone(), Change::Modified, object))
        }
    }

    fn append(&mut self, key: Key, change: Change, mut object: Value) -> Value {
        self.resource_version += 1;
        object["metadata"]["resourceVersion"] = json!(self.resource_version.to_string());
        let resource_version = self.resource_version;
        self.history.push(Version { key: key.clone(), resource_version, change, object: object.clone() });
        self.objects.insert(key, object.clone());
        object
    }
}

/// Returns a conflict if the write names another resource version or UID.
fn conflict(current: &Value, requested: &Value) -> Option<Response> {
    let differs = |field: &str| {
        let requested = &requested["metadata"][field];
        !requested.is_null() && *requested != current["metadata"][field]
    };
    let field = ["uid", "resourceVersion"].into_iter().find(|field| differs(field))?;
    let message = format!("Operation cannot be fulfilled: {field} in precondition differs from the object's");
    Some(failure(409, "Conflict", &message))
}

/// Kubernetes timestamps have no fractions of a second.
fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "taskdefinitionretirements";

    fn created() -> (Store, Key, Value) {
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
    fn status_apply_conflicts_if_it_names_an_older_version_or_another_object() {
        let (mut store, key, first) = created();
        let (code, second) = store.apply_status(&key, &status(&first, "0/1"));
        assert_eq!((code, &second["metadata"]["generation"]), (200, &json!(1)));
        assert_eq!(store.apply_status(&key, &status(&first, "1/1")).0, 409);
        assert_eq!(store.delete(&key, &Value::Null).0, 200);
        assert_eq!(store.apply_status(&key, &status(&second, "1/1")).0, 404);
        store.create(KIND, "platform", &json!({"metadata": {"name": "web"}}), Timestamp::UNIX_EPOCH);
        assert_eq!(store.apply_status(&key, &status(&second, "1/1")).0, 409);
    }

    #[test]
    fn write_without_changes_adds_no_version_and_a_new_spec_increments_the_generation() {
        let (mut store, key, object) = created();
        let (_, object) = store.apply_status(&key, &status(&object, "0/1"));
        let (_, same) = store.apply_status(&key, &status(&object, "0/1"));
        assert_eq!(same, object);
        assert_eq!(store.history.len(), 2);
        let (_, edited) = store.edit(&key, &json!({"revisions": ["web:2"]}), &Value::Null);
        assert_eq!(edited["metadata"]["generation"], 2);
        assert_eq!(edited["status"], object["status"]);
    }

    #[test]
    fn json_patch_whose_test_fails_changes_nothing() {
        let (mut store, key, first) = created();
        let operations = |version: &Value| {
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": version },
                { "op": "replace", "path": "/spec/revisions", "value": ["web:2"] },
                { "op": "replace", "path": "/status", "value": {} },
            ])
        };
        let (_, second) = store.apply_status(&key, &status(&first, "0/1"));
        assert_eq!(store.json_patch(&key, &operations(&first["metadata"]["resourceVersion"])).0, 422);
        let (code, third) = store.json_patch(&key, &operations(&second["metadata"]["resourceVersion"]));
        assert_eq!((code, &third["metadata"]["generation"]), (200, &json!(2)));
        assert_eq!((&third["spec"]["revisions"][0], &third["status"]), (&json!("web:2"), &second["status"]));
    }

    #[test]
    fn delete_conflicts_if_a_precondition_differs() {
        let (mut store, key, first) = created();
        store.apply_status(&key, &status(&first, "0/1"));
        let version = json!({ "resourceVersion": first["metadata"]["resourceVersion"] });
        assert_eq!(store.delete(&key, &json!({ "preconditions": version })).0, 409);
        let uid = json!({ "uid": first["metadata"]["uid"] });
        assert_eq!(store.delete(&key, &json!({ "preconditions": uid })).0, 200);
    }

    #[test]
    fn orphan_is_an_object_without_any_of_its_owners() {
        let (mut store, owner, object) = created();
        let uid = &object["metadata"]["uid"];
        let child = json!({ "metadata": { "name": "child", "ownerReferences": [{ "uid": uid }] } });
        store.create(KIND, "platform", &child, Timestamp::UNIX_EPOCH);
        assert!(store.orphans().is_empty());
        store.delete(&owner, &Value::Null);
        assert_eq!(store.orphans(), [Key::new(KIND, "platform", "child")]);
    }
}
