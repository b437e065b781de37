//! Server-side apply: `spec.revisions` is the list of one manager, never a union of several.

use std::time::Duration;

use kube::{
    Api, Error,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use testkit::{control_plane::ControlPlane, simulated_ecs::Status};
use tokio::time::{Instant, sleep};

use crate::support::{CRD, DEADLINE, World, kind};

fn object(name: &str, spec: &Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, &kind());
    object.data = json!({ "spec": spec });
    object
}

async fn create(api: &Api<DynamicObject>, manager: &str, name: &str, spec: &Value) {
    let parameters = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    api.create(&parameters, &object(name, spec)).await.expect("the resource is admitted");
}

async fn apply(
    api: &Api<DynamicObject>,
    manager: &str,
    is_forced: bool,
    name: &str,
    spec: &Value,
) -> Result<Value, Error> {
    let parameters = PatchParams { force: is_forced, ..PatchParams::apply(manager) };
    let applied = api.patch(name, &parameters, &Patch::Apply(object(name, spec))).await?;
    Ok(applied.data["spec"].clone())
}

#[tokio::test]
async fn forced_apply_leaves_nothing_of_the_list_of_another_manager() {
    let world = World::new().await;
    world.west.register_many("web", 42);
    let api = world.api();
    let both = json!({ "suspend": true, "revisions": ["web:41", "web:42"] });
    create(&api, "kubectl-create", "web", &both).await;
    let _controller = world.start();
    world.wait("web", "Suspended", |seen| seen.ready_reason() == "Suspended").await;

    let one = json!({ "suspend": false, "revisions": ["web:41"] });
    let live = apply(&api, "argocd-controller", true, "web", &one).await.expect("it is forced");
    assert_eq!(live["revisions"], json!(["web:41"]));
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.text("progress"), "1/1");
    world.wait_until_all_is_seen().await;
    assert_eq!(world.west.status("web:41"), Some(Status::Inactive));
    assert_eq!(world.west.status("web:42"), Some(Status::Active));
}

#[tokio::test]
async fn list_is_that_of_the_manager_that_applied_last() {
    let world = World::new().await;
    let api = world.api();
    let managers =
        ["kubectl-create", "kubectl-client-side-apply", "kustomize-controller", "helm", "argocd-controller"];
    let (first, second) =
        (json!({ "revisions": ["web:1", "web:2"] }), json!({ "revisions": ["web:3", "web:2"] }));
    for before in managers {
        for after in managers.iter().filter(|after| **after != before) {
            for is_applied in [false, true] {
                let name = format!("{before}-{after}-{is_applied}");
                if is_applied {
                    apply(&api, before, false, &name, &first).await.expect("it is new");
                } else {
                    create(&api, before, &name, &first).await;
                }
                let conflict = apply(&api, after, false, &name, &second).await;
                assert!(matches!(&conflict, Err(Error::Api(status)) if status.is_conflict()), "{conflict:?}");
                let live = apply(&api, after, true, &name, &second).await.expect("it is forced");
                assert_eq!(live["revisions"], second["revisions"], "{name}");
            }
        }
    }
}

/// Returns the CRD of an earlier version, in which the list was a set.
fn crd_with_a_set() -> String {
    let mut crd: Value = serde_saphyr::from_str(CRD).expect("the CRD is YAML");
    let revisions = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/revisions";
    let revisions = crd.pointer_mut(revisions).expect("the CRD has it");
    assert_eq!(revisions["x-kubernetes-list-type"], "atomic");
    revisions["x-kubernetes-list-type"] = json!("set");
    let rows = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/revisions";
    let rows = crd.pointer_mut(rows).expect("the CRD has it");
    rows["x-kubernetes-list-type"] = json!("map");
    rows["x-kubernetes-list-map-keys"] = json!(["revision"]);
    crd.to_string()
}

#[tokio::test]
async fn crd_upgrade_makes_the_list_of_an_existing_object_atomic() {
    let plane = ControlPlane::start().await.expect("a control plane starts");
    let world = World::on(&plane, &crd_with_a_set()).await;
    world.west.register_many("web", 42);
    let api = world.api();
    let both = json!({ "suspend": true, "revisions": ["web:41", "web:42"] });
    let one = json!({ "suspend": false, "revisions": ["web:41"] });
    for name in ["web", "other"] {
        create(&api, "kubectl-create", name, &both).await;
    }
    let suspended = json!({ "suspend": true, "revisions": ["web:41"] });
    let merged = apply(&api, "argocd-controller", true, "web", &suspended).await.expect("it is forced");
    assert_eq!(merged["revisions"], json!(["web:41", "web:42"]), "a set is the union");
    let row = json!({ "revision": "web:42", "reason": "Suspended", "status": "ACTIVE" });
    let recorded = json!({ "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement",
        "status": { "revisions": [row] } });
    let manager = PatchParams::apply("ecs-retirement-controller").force();
    api.patch_status("web", &manager, &Patch::Apply(recorded)).await.expect("an earlier version wrote it");

    world.namespace.install_crds(CRD).await.expect("the CRD is upgraded");
    // The API server uses the new schema some time after it has stored the CRD.
    let dry_run = PatchParams::apply("argocd-controller").force().dry_run();
    let began = Instant::now();
    loop {
        let applied = api.patch("other", &dry_run, &Patch::Apply(object("other", &suspended))).await;
        let applied = applied.expect("it is forced").data;
        if applied["spec"]["revisions"] == suspended["revisions"] {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "the list is not atomic: {applied}");
        sleep(Duration::from_millis(20)).await;
    }
    let live = apply(&api, "argocd-controller", true, "web", &one).await.expect("it is forced");
    assert_eq!(live["revisions"], json!(["web:41"]));
    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.text("progress"), "1/1", "{seen}");
    assert_eq!(world.west.status("web:42"), Some(Status::Active));
}
