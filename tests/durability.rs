//! ECS responses are recorded, and no crash, lost reply or failed write changes the outcome.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Fault, Status};

use crate::support::{DEADLINE, Seen, World};

const DESCRIBE: Action = Action::DescribeTaskDefinition;
const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// Asserts that the row has the times of ECS, to the second.
fn assert_times(world: &World<'_>, seen: &Seen, revision: &str) {
    let record = world.west.describe(revision).expect("ECS has the revision");
    for (field, time) in
        [("registeredAt", Some(record.registered_at)), ("deregisteredAt", record.deregistered_at)]
    {
        let reported = seen.row(revision)[field].as_str().map(|text| text.parse().expect("a time"));
        let apart = time.expect("ECS has the time").as_second()
            - reported.map_or(0, k8s_openapi::jiff::Timestamp::as_second);
        assert!((0..=1).contains(&apart), "{field} of {record:?}: {seen}");
    }
}

#[tokio::test]
async fn revision_is_retired_by_its_short_form_and_by_its_arn() {
    let world = World::new().await;
    world.west.register_many("cpu-wave", 3);
    let arn = world.west.arn("cpu-wave:2");
    world.declare("cpu-wave", &["cpu-wave:1", &arn]).await;
    let _controller = world.start();

    let seen = world.wait_ready("cpu-wave").await;
    assert_eq!(seen.text("account"), "012345678910");
    assert_eq!(seen.text("region"), "us-west-2");
    assert_eq!(seen.text("progress"), "2/2");
    assert_eq!((seen.number("retired"), seen.number("waiting"), seen.number("rejected")), (2, 0, 0));
    let calls = world.ecs.calls_of(DEREGISTER);
    assert_eq!(calls.len(), 2);
    for (revision, call) in ["cpu-wave:1", "cpu-wave:2"].into_iter().zip(calls) {
        let row = seen.row(revision);
        assert_eq!(row["arn"], world.west.arn(revision));
        assert_eq!(row["status"], "INACTIVE");
        assert_eq!(row["reason"], "Retired");
        assert_eq!(row["requestId"], call.request_id);
        assert_times(&world, &seen, revision);
    }
    assert_eq!(world.west.status("cpu-wave:3"), Some(Status::Active));
}

#[tokio::test]
async fn revision_retired_already_causes_no_deregister_call() {
    let world = World::new().await;
    world.west.register_many("web", 2);
    world.west.set_status("web:1", Status::Inactive);
    world.west.set_status("web:2", Status::DeleteInProgress);
    world.declare("web", &["web:1", "web:2"]).await;
    let _controller = world.start();

    let seen = world.wait_ready("web").await;
    assert_eq!((&seen.row("web:1")["status"], seen.reason("web:1")), (&json!("INACTIVE"), "Retired"));
    assert_eq!(
        (&seen.row("web:2")["status"], seen.reason("web:2")),
        (&json!("DELETE_IN_PROGRESS"), "Deleting")
    );
    assert_times(&world, &seen, "web:1");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 0);
}

#[tokio::test]
async fn revision_deleted_after_its_retirement_is_reported_on_request() {
    let world = World::new().await;
    world.west.register("web");
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();
    world.wait_ready("web").await;
    world.west.remove("web:1");
    world.request("web", "2026-11-24T09:00:00Z").await;
    let seen = world.wait("web", "Deleted", |seen| seen.reason("web:1") == "Deleted").await;
    assert_eq!(seen.ready(), "True");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1);
}

#[tokio::test]
async fn rejected_revisions_report_the_error_of_ecs_and_all_others_are_retired() {
    let world = World::new().await;
    world.west.register_many("api", 39);
    let denied = Fault::on(DEREGISTER).revision("api:2").access_denied();
    let refused = Fault::on(DEREGISTER).revision("api:3").error("ClientException", "It is pinned.");
    world.ecs.fault(denied);
    world.ecs.fault(refused);
    let declared: Vec<String> = (1..=40).map(|number| format!("api:{number}")).collect();
    world.apply("api", json!({ "revisions": declared })).await.expect("admitted");
    let _controller = world.start();

    let seen = world.wait_until_blocked("api").await;
    assert_eq!(
        (seen.number("retired"), seen.number("waiting"), seen.number("rejected")),
        (37, 0, 3),
        "{seen}"
    );
    assert_eq!(seen.text("progress"), "37/40");
    let rejected = [
        ("api:2", "AccessDenied", "AccessDeniedException: User: "),
        ("api:3", "Refused", "ClientException: It is pinned."),
        ("api:40", "NotFound", "ClientException: Unable to describe task definition."),
    ];
    for (revision, reason, message) in rejected {
        assert_eq!(seen.reason(revision), reason);
        assert!(seen.message(revision).contains(message), "{seen}");
    }
    assert!(seen.ready_message().starts_with("37 of 40 revisions retired, 3 rejected: api:2: "), "{seen}");
}

#[tokio::test]
async fn refusal_because_another_caller_was_faster_is_success() {
    let world = World::new().await;
    world.west.register("web");
    world.ecs.refuse_repeated_deregistration(true);
    let west = world.west.clone();
    world.ecs.before(DEREGISTER, 1, async move { west.set_status("web:1", Status::Inactive) });
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.reason("web:1"), "Retired");
    assert!(seen.row("web:1")["requestId"].is_null(), "another caller deregistered it: {seen}");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1);
}

#[tokio::test]
async fn deregistration_time_is_read_until_ecs_reports_it() {
    let world = World::new().await;
    world.west.register("web");
    // DescribeTaskDefinition succeeds before the deregistration, and fails twice after it.
    world.ecs.fault(Fault::on(DESCRIBE).nth(2).server_error());
    world.ecs.fault(Fault::on(DESCRIBE).nth(3).throttle());
    let spec = json!({ "revisions": ["web:1"], "inUse": "Retire" });
    world.apply("web", spec).await.expect("admitted");
    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert!(
        seen.row("web:1")["deregisteredAt"].is_null() && !seen.row("web:1")["requestId"].is_null(),
        "{seen}"
    );
    let seen = world.wait("web", "time", |seen| !seen.row("web:1")["deregisteredAt"].is_null()).await;
    assert!(!seen.row("web:1")["requestId"].is_null() && seen.row("web:1")["message"].is_null(), "{seen}");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1);
}

/// Makes the API server refuse statuses with a retired revision. Returns the name of the policy.
async fn refuse_retired_statuses(world: &World<'_>) -> String {
    let name = format!("refuse-{}", world.namespace.name());
    let policy = json!({
        "metadata": { "name": name },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["ecs-retirement.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["taskdefinitionretirements/status"],
            }]},
            "validations": [{ "expression": "object.status.retired == 0", "message": "not now" }],
        },
    });
    let binding = json!({
        "metadata": { "name": name },
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": world.namespace.name() } } },
        },
    });
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.namespace.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.namespace.client());
    let read = |value: Value| serde_json::from_value(value).expect("a policy");
    policies.create(&PostParams::default(), &read(policy)).await.expect("the policy is admitted");
    let binding = serde_json::from_value(binding).expect("a binding");
    bindings.create(&PostParams::default(), &binding).await.expect("the binding is admitted");

    // The policy is in force once it refuses a status.
    world.declare("probe", &["probe:1"]).await;
    let patch = kube::api::Patch::Merge(json!({ "status": { "retired": 1 } }));
    let began = tokio::time::Instant::now();
    while world.api().patch_status("probe", &kube::api::PatchParams::default(), &patch).await.is_ok() {
        assert!(began.elapsed() < DEADLINE, "the policy is never enforced");
    }
    world.delete("probe").await;
    name
}

#[tokio::test]
async fn ecs_response_survives_a_status_that_cannot_be_written() {
    let world = World::new().await;
    world.west.register("web");
    let policy = refuse_retired_statuses(&world).await;
    world.declare("web", &["web:1"]).await;
    let controller = world.start();
    let calls = world.ecs.wait_for_calls(DEREGISTER, 1, DEADLINE).await;
    let began = tokio::time::Instant::now();
    while !controller.log().contains("not now") {
        assert!(began.elapsed() < DEADLINE, "the write is not refused: {}", controller.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.seen("web").await.ready(), "False");

    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.namespace.client());
    bindings.delete(&policy, &DeleteParams::default()).await.expect("the binding can be deleted");
    let seen = world.wait_ready("web").await;
    assert_eq!(seen.row("web:1")["requestId"], calls[0].request_id, "{seen}");
    assert_times(&world, &seen, "web:1");
    assert_eq!(world.ecs.calls_of(DEREGISTER).len(), 1);
}

#[tokio::test]
async fn status_written_by_another_client_meanwhile_is_corrected() {
    let world = World::new().await;
    world.west.register("web");
    let api = world.api();
    world.ecs.before(DEREGISTER, 1, async move {
        let status = json!({ "status": { "progress": "9/9", "retired": 9 } });
        let patch = kube::api::Patch::Merge(status);
        api.patch_status("web", &kube::api::PatchParams::default(), &patch).await.expect("it is written");
    });
    world.declare("web", &["web:1"]).await;
    let _controller = world.start();
    let seen = world.wait_ready("web").await;
    assert_eq!((seen.text("progress"), seen.number("retired")), ("1/1", 1));
}
