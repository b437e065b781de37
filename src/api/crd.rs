//! The CRDs of all kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::api::{EcsAccount, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement};

/// Returns the CRDs. Their descriptions are running text, which
/// `kubectl explain` wraps: they do not have the line breaks of the comments in the source.
#[must_use]
pub fn all() -> [CustomResourceDefinition; 3] {
    let crds = [TaskDefinitionRetirement::crd(), EcsAccount::crd(), TaskDefinitionRetentionPolicy::crd()];
    crds.map(|mut crd| {
        let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
        schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()).for_each(join_lines);
        crd
    })
}

fn join_lines(schema: &mut JSONSchemaProps) {
    if let Some(text) = &mut schema.description {
        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    schema.properties.iter_mut().flat_map(|fields| fields.values_mut()).for_each(join_lines);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        join_lines(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_running_text() {
        for crd in all() {
            let crd = serde_json::to_value(&crd).expect("it is serialized").to_string();
            let broken = crd.match_indices("\\n").filter(|(at, _)| {
                let (before, after) = (&crd[..*at], &crd[at + 2..]);
                !before.ends_with("\\n") && !after.starts_with("\\n")
            });
            assert_eq!(broken.count(), 0, "{crd}");
        }
    }
}
