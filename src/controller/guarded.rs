//! A resource as the API server returns it, even if it does not parse.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{
    Resource,
    api::ObjectMeta,
    core::object::{HasSpec, HasStatus},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// A resource, or only its metadata if it does not parse. An unreadable resource does not stop the
/// watch of the others.
///
/// kube's `DeserializeGuard` does the same for any kind, but copies each object including its
/// managed fields. With ten thousand resources this takes most of the time of a restart.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, ObjectMeta>);

#[derive(Deserialize)]
struct Parts {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

/// The metadata that the controller uses. The managed fields are skipped: they are longer than
/// everything else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    generation: Option<i64>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(read: Metadata) -> Self {
        let Metadata {
            namespace,
            name,
            uid,
            generation,
            resource_version,
            deletion_timestamp,
            labels,
            annotations,
            owner_references,
        } = read;
        Self {
            namespace,
            name,
            uid,
            generation,
            resource_version,
            deletion_timestamp,
            labels,
            annotations,
            owner_references,
            ..Self::default()
        }
    }
}

impl<'de, K> Deserialize<'de> for Guarded<K>
where
    K: Resource + HasSpec<Spec: DeserializeOwned> + HasStatus<Status: DeserializeOwned> + Default,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(deserializer)?;
        let metadata = metadata.into();
        let parsed = (Deserialize::deserialize(&spec), Deserialize::deserialize(&status));
        Ok(Self(match parsed {
            (Ok(spec), Ok(status)) => {
                let mut resource = K::default();
                *resource.meta_mut() = metadata;
                *resource.spec_mut() = spec;
                *resource.status_mut() = status;
                Ok(resource)
            }
            _ => Err(metadata),
        }))
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Guarded<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|metadata| metadata, Resource::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(resource) => resource.meta_mut(),
            Err(metadata) => metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use kube::{ResourceExt, api::ApiResource};
    use serde_json::json;

    use super::*;
    use crate::api::TaskDefinitionRetirement;

    fn read(spec: &Value, status: &Value) -> Guarded<TaskDefinitionRetirement> {
        let object = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "TaskDefinitionRetirement",
            "metadata": {
                "namespace": "platform",
                "name": "web",
                "uid": "5f2c",
                "generation": 3,
                "resourceVersion": "7",
                "deletionTimestamp": "1970-01-01T00:00:00Z",
                "annotations": { "note": "long" },
                "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
            },
            "spec": spec,
            "status": status,
        });
        // Parsed from text, as in responses of the API server.
        serde_json::from_str(&object.to_string()).expect("an object with metadata")
    }

    #[test]
    fn unreadable_resource_keeps_its_metadata() {
        let good = (json!({ "revisions": ["api:1"] }), json!({ "progress": "0/1" }));
        let whole = read(&good.0, &good.1);
        let resource = whole.0.as_ref().expect("a resource");
        assert_eq!(resource.spec.revisions, ["api:1"]);
        assert_eq!(resource.status.as_ref().map(|status| status.progress.as_str()), Some("0/1"));
        assert!(read(&good.0, &Value::Null).0.expect("a resource without a status").status.is_none());
        let metadata = ObjectMeta {
            namespace: Some("platform".to_owned()),
            name: Some("web".to_owned()),
            uid: Some("5f2c".to_owned()),
            generation: Some(3),
            resource_version: Some("7".to_owned()),
            deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            annotations: Some([("note".to_owned(), "long".to_owned())].into()),
            ..ObjectMeta::default()
        };
        assert_eq!(whole.meta(), &metadata, "the metadata that is used, without managed fields");

        let bad_spec = json!({ "revisions": "api:1" });
        let bad_status = json!({ "revisions": 7 });
        for bad in [read(&bad_spec, &good.1), read(&good.0, &bad_status), read(&Value::Null, &good.1)] {
            assert!(bad.0.is_err());
            assert_eq!((bad.namespace().as_deref(), bad.name_any().as_str()), (Some("platform"), "web"));
        }
    }

    #[test]
    fn readable_and_unreadable_resources_have_the_same_kind_and_mutable_metadata() {
        let kind = ApiResource::erase::<TaskDefinitionRetirement>(&());
        assert_eq!(ApiResource::erase::<Guarded<TaskDefinitionRetirement>>(&()), kind);
        for spec in [json!({ "revisions": ["api:1"] }), Value::Null] {
            let mut object = read(&spec, &Value::Null);
            assert_eq!(object.annotations().len(), 1);
            object.annotations_mut().clear();
            assert!(object.annotations().is_empty());
        }
    }
}
