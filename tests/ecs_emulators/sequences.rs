//! Sequences of changes on each emulator, and the details of the rows that they end in.

use aws_sdk_ecs::types::{
    DeploymentConfiguration,
    TaskDefinitionStatus::{Active, Inactive},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use testkit::emulator::{Emulator, Product};

use super::{BOTH, Setup, arn, arn_in};
use crate::{
    in_use::{NOTICED, wait_in_use},
    support::stop,
};

fn seconds(time: &Value) -> i64 {
    let time = time.as_str().expect("a time").parse::<Timestamp>();
    time.expect("RFC 3339").as_second()
}

#[tokio::test]
async fn status_of_a_retired_revision_has_its_account_region_arn_and_request_id() {
    for product in BOTH {
        let setup = Setup::new(product).await;
        let [revision] = setup.register("").await;
        setup.world.declare("web", &[&arn(&revision)]).await;
        let _controller = setup.start();

        let seen = setup.world.wait_ready("web").await;
        assert_eq!((seen.text("account"), seen.text("region")), (Emulator::ACCOUNT, Emulator::REGION));
        assert_eq!((seen.text("progress"), seen.ready_reason()), ("1/1", "Retired"));
        let row = seen.row(&revision);
        assert_eq!((&row["status"], &row["reason"]), (&json!("INACTIVE"), &json!("Retired")), "{seen}");
        assert_eq!(row["arn"], arn(&revision));
        assert!(row["requestId"].is_string(), "{seen}");
    }
}

/// On moto only: ministack reports the time.
#[tokio::test]
async fn deregistration_time_that_moto_never_reports_is_awaited_for_a_limited_time() {
    let setup = Setup::new(Product::Moto).await;
    let [revision] = setup.register("").await;
    setup.world.declare("web", &[&revision]).await;
    let _controller = setup.start();
    let seen = setup.world.wait("web", "Ready without a message", |seen| {
        seen.ready() == "True" && seen.row(&revision)["message"].is_null()
    });
    let seen = seen.await;
    assert!(seen.row(&revision)["requestId"].is_string(), "{seen}");
    assert!(seen.row(&revision)["deregisteredAt"].is_null(), "{seen}");
}

/// On ministack only: moto reports no times.
#[tokio::test]
async fn times_of_a_retired_revision_are_those_that_ecs_reports() {
    let setup = Setup::new(Product::Ministack).await;
    let [before, revision] = setup.register("").await;
    setup.deregister(&before).await;
    let deregistered = setup.describe(&before).await.deregistered_at;
    setup.world.declare("web", &[&before, &revision]).await;
    let _controller = setup.start();
    let has_times = |row: &Value| row["registeredAt"].is_string() && row["deregisteredAt"].is_string();
    let seen = setup.world.wait("web", "times", |seen| {
        seen.ready() == "True" && [&before, &revision].iter().all(|it| has_times(seen.row(it)))
    });
    let seen = seen.await;
    for it in [&before, &revision] {
        let (row, described) = (seen.row(it), setup.describe(it).await);
        assert_eq!(Some(seconds(&row["registeredAt"])), described.registered_at.map(|time| time.secs()));
        assert_eq!(Some(seconds(&row["deregisteredAt"])), described.deregistered_at.map(|time| time.secs()));
    }
    assert_eq!(setup.describe(&before).await.deregistered_at, deregistered, "it was not deregistered again");
}

#[tokio::test]
async fn missing_revision_that_is_registered_later_is_retired_only_on_request() {
    for product in BOTH {
        let setup = Setup::new(product).await;
        let revision = setup.name(":1");
        setup.world.declare("api", &[&revision]).await;
        let mut controller = setup.start();
        let seen = setup.world.wait_until_blocked("api").await;
        assert_eq!((seen.reason(&revision), seen.ready()), ("NotFound", "False"), "{seen}");
        assert!(seen.message(&revision).contains("ClientException: "), "{seen}");

        let [registered] = setup.register("").await;
        assert_eq!(registered, revision);
        stop(&mut controller).await;
        let _controller = setup.start();
        setup.wait_until_caught_up().await;
        assert_eq!(setup.world.seen("api").await.reason(&revision), "NotFound");
        setup.assert_status(&revision, Some(&Active)).await;

        setup.world.request("api", "now").await;
        let seen = setup.world.wait_ready("api").await;
        assert_eq!(seen.text("lastHandledReconcileAt"), "now");
        setup.assert_status(&revision, Some(&Inactive)).await;
    }
}

#[tokio::test]
async fn suspended_and_dry_run_resources_retire_once_they_are_resumed() {
    for product in BOTH {
        let setup = Setup::new(product).await;
        let [first, second] = setup.register("").await;
        let on_hold =
            [("suspended", "suspend", "Suspended", &first), ("dry-run", "dryRun", "DryRun", &second)];
        for (name, field, _, revision) in on_hold {
            let spec = json!({ "revisions": [revision], field: true });
            setup.world.apply(name, spec).await.expect("admitted");
        }
        let _controller = setup.start();
        for (name, _, reason, revision) in on_hold {
            let seen = setup.world.wait(name, reason, |seen| seen.reason(revision) == reason).await;
            assert_eq!((seen.ready(), &seen.row(revision)["status"]), ("False", &json!("ACTIVE")), "{seen}");
        }
        setup.wait_until_caught_up().await;
        for (name, _, _, revision) in on_hold {
            setup.assert_status(revision, Some(&Active)).await;
            setup.world.declare(name, &[revision]).await;
            setup.world.wait_ready(name).await;
            setup.assert_status(revision, Some(&Inactive)).await;
        }
    }
}

#[tokio::test]
async fn revision_is_retired_once_the_service_that_uses_it_is_deleted() {
    let delete = async |product| {
        let setup = Setup::new(product).await;
        let [revision] = setup.register("").await;
        let cluster = setup.name("");
        setup.create_service(&cluster, &revision, 0).await;
        setup.world.declare("web", &[&revision]).await;
        let _controller = setup.start();
        let seen = wait_in_use(&setup.world, "web").await;
        assert_eq!(seen.row(&revision)["usedBy"], json!([format!("service/{cluster}/web")]), "{seen}");
        setup.assert_status(&revision, Some(&Active)).await;

        setup.delete_service(&cluster).await;
        setup.world.wait_for("web", "Ready=True", NOTICED, |seen| seen.ready() == "True").await;
        setup.assert_status(&revision, Some(&Inactive)).await;
    };
    tokio::join!(delete(Product::Moto), delete(Product::Ministack));
}

/// On ministack only: moto models neither. Uses its own instance: ministack lists a deployment in
/// progress incompletely, which may delay other revisions of the account.
#[tokio::test]
async fn revisions_are_retired_once_their_deployment_is_replaced_and_their_task_stopped() {
    let emulator = Emulator::start(Product::Ministack).await.expect("ministack starts");
    let setup = Setup::on(&emulator).await;
    let client = emulator.client();
    let [replaced, deployed, run] = setup.register("").await;
    let cluster = setup.name("");
    setup.create_service(&cluster, &replaced, 1).await;
    // Cannot complete: the one task must keep running, and there is no capacity for another.
    let deployment = client.update_service().cluster(&cluster).service("web").task_definition(&deployed);
    deployment.send().await.expect("a service can be updated");
    // From here only the old deployment shows that the service may need the revision again.
    let running = client.list_tasks().cluster(&cluster).send().await.expect("tasks can be listed");
    for task in running.task_arns() {
        client.stop_task().cluster(&cluster).task(task).send().await.expect("a task can be stopped");
    }
    let task = client.run_task().cluster(&cluster).task_definition(&run).send().await;
    let task = task.expect("a task can be run").tasks.and_then(|tasks| tasks.into_iter().next());
    let task = task.and_then(|task| task.task_arn).expect("one task");
    setup.world.declare("web", &[&replaced, &deployed, &run]).await;
    let _controller = setup.start();

    let service = format!("service/{cluster}/web");
    let id = task.rsplit('/').next().expect("an identifier");
    let users = [(&replaced, service.clone()), (&deployed, service), (&run, format!("task/{cluster}/{id}"))];
    let seen = setup.world.wait("web", "all in use", |seen| {
        users.iter().all(|(revision, user)| seen.row(revision)["usedBy"] == json!([user]))
    });
    seen.await;
    for (revision, _) in &users {
        setup.assert_status(revision, Some(&Active)).await;
    }

    let relaxed = DeploymentConfiguration::builder().maximum_percent(200).minimum_healthy_percent(0).build();
    let deployment =
        client.update_service().cluster(&cluster).service("web").deployment_configuration(relaxed);
    deployment.send().await.expect("a service can be updated");
    client.stop_task().cluster(&cluster).task(&task).send().await.expect("a task can be stopped");
    setup.world.wait_for("web", "two retired", NOTICED, |seen| seen.number("retired") == 2).await;
    assert_eq!(setup.world.seen("web").await.reason(&deployed), "InUse");
    for (revision, status) in [(&replaced, Inactive), (&deployed, Active), (&run, Inactive)] {
        setup.assert_status(revision, Some(&status)).await;
    }
}

#[tokio::test]
async fn two_resources_with_the_same_revision_both_report_it_and_cause_one_call() {
    for product in BOTH {
        let setup = Setup::new(product).await;
        let [revision] = setup.register("").await;
        setup.world.declare("short", &[&revision]).await;
        setup.world.declare("arn", &[&arn(&revision)]).await;
        let _controller = setup.start();

        let mut calls = 0;
        for name in ["short", "arn"] {
            let seen = setup.world.wait_ready(name).await;
            assert_eq!(seen.reason(&revision), "Retired", "{seen}");
            calls += usize::from(seen.row(&revision)["requestId"].is_string());
        }
        assert_eq!(calls, 1);
    }
}

/// On moto only: it takes these for the revision, and ministack does not.
#[tokio::test]
async fn revisions_that_only_moto_would_accept_are_refused_at_admission() {
    let setup = Setup::new(Product::Moto).await;
    let [revision] = setup.register("").await;
    let _controller = setup.start();
    for suffix in ["", ":0", ":01", ":+1", ": 1", ":latest"] {
        let declared = setup.name(suffix);
        let refused = setup.world.apply("web", json!({ "revisions": [declared] })).await;
        let message = refused.expect_err(&declared);
        assert!(message.contains("write family:revision"), "{message}");
    }
    setup.wait_until_caught_up().await;
    setup.assert_status(&revision, Some(&Active)).await;
}

#[tokio::test]
async fn mixed_resource_retires_what_it_can_and_reports_each_revision() {
    for product in BOTH {
        let setup = Setup::new(product).await;
        let [short, long, inactive, undeclared] = setup.register("").await;
        setup.deregister(&inactive).await;
        let missing = setup.name(":99");
        let foreign = arn_in(Emulator::REGION, "999999999999", &undeclared);
        setup.world.declare("web", &[&short, &arn(&long), &inactive, &missing, &foreign]).await;
        let _controller = setup.start();

        let seen = setup.world.wait_until_blocked("web").await;
        let expected = [
            (&short, "Retired"),
            (&long, "Retired"),
            (&inactive, "Retired"),
            (&missing, "NotFound"),
            (&foreign, "WrongAccount"),
        ];
        for (revision, reason) in expected {
            assert_eq!(seen.reason(revision), reason, "{seen}");
        }
        assert!(seen.row(&inactive)["requestId"].is_null(), "another caller deregistered it: {seen}");
        assert_eq!(seen.text("progress"), "3/5");
        assert_eq!((seen.number("retired"), seen.number("waiting"), seen.number("rejected")), (3, 0, 2));
        for revision in [short, long, inactive] {
            setup.assert_status(&revision, Some(&Inactive)).await;
        }
        setup.assert_status(&undeclared, Some(&Active)).await;
        setup.assert_status(&missing, None).await;
    }
}
