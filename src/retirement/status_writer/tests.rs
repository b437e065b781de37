//! Tests of status writes and events.

use serde_json::json;
use testkit::simulated_ecs::Action::DeregisterTaskDefinition;

use crate::{
    api::Reason,
    retirement::tests::{Between, CREATE_EVENT, GET, World},
};

#[tokio::test(start_paused = true)]
async fn event_names_the_controller_the_action_the_resource_and_the_time() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1", "999999999999"], json!({ "inUse": "Retire" }));
    world.reconcile("web").await.expect("a reconcile");
    let id = &world.ecs.calls_of(DeregisterTaskDefinition)[0].request_id;
    let uid = &world.object("web")["metadata"]["uid"];
    let events: Vec<_> = world.api.objects("events");
    let retired = events.iter().find(|event| event["reason"] == "Retired").expect("an event");
    let name = retired["metadata"]["name"].as_str().unwrap_or_default();
    assert!(name.starts_with("web-") && name.len() > "web-".len(), "{name}");
    let fields = [
        ("action", json!("Retire")),
        ("eventTime", json!("1970-01-01T00:00:30.000000Z")),
        ("note", json!(format!("web:1 (AWS request id {id})"))),
        ("reportingController", json!("ecs-retirement-controller")),
        ("reportingInstance", json!("controller-1")),
        ("type", json!("Normal")),
    ];
    for (field, value) in fields {
        assert_eq!(retired[field], value, "{field}");
    }
    let regarding = &retired["regarding"];
    assert_eq!((&regarding["kind"], &regarding["name"]), (&json!("TaskDefinitionRetirement"), &json!("web")));
    assert_eq!((&regarding["namespace"], &regarding["uid"]), (&json!("platform"), uid));
    let warning = events.iter().find(|event| event["reason"] == "Invalid").expect("an event");
    assert_eq!(warning["type"], "Warning");
}

#[tokio::test(start_paused = true)]
async fn failed_event_does_not_stop_the_reconcile() {
    let world = World::with_full_buckets().await;
    world.make("web", &["web:1"], json!({ "inUse": "Retire" }));
    world.before(CREATE_EVENT, 1, Between::Refuse(500));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!(world.reasons("web"), [Reason::Retired]);
}

#[tokio::test(start_paused = true)]
async fn unreadable_resource_is_reported_once_in_its_status() {
    let world = World::with_full_buckets().await;
    world.make("web", &[], json!({}));
    world.edit("web", &json!({ "revisions": "web:1" }));
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    let status = world.status("web");
    assert_eq!(status.observed_generation, Some(2));
    let ready = status.conditions.iter().find(|it| it.type_ == "Ready").expect("a condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "InvalidSpec"));
    assert!(ready.message.contains("revisions"), "{}", ready.message);
    let writes = world.writes("web");
    world.requests();
    assert_eq!(world.reconcile("web").await.expect("a reconcile"), None);
    assert_eq!((world.requests(), world.writes("web")), (vec![GET.to_owned()], writes));
}
