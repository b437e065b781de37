//! Users of task definitions in the simulated ECS, as the AWS SDK for Rust sees them.

mod support;

use aws_sdk_ecs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{DeploymentRolloutState, DesiredStatus, Failure, ServiceDeploymentStatus},
};
use std::fmt::Debug;
use support::{Refusal, config};
use testkit::simulated_ecs::{
    ACCESS_KEY, ACCOUNT, Action, Cluster, Fault, Region, Service, SimulatedEcs, Status, Task,
};

/// Returns a server, a region, its cluster `prod`, and a client that never retries.
async fn start() -> (SimulatedEcs, Region, Cluster, Client) {
    let ecs = SimulatedEcs::start().await;
    let west = ecs.region(ACCOUNT, "us-west-2");
    let prod = west.cluster("prod");
    let client = Client::new(&config(&ecs, ACCESS_KEY, "us-west-2"));
    (ecs, west, prod, client)
}

/// Returns the ARN of a resource in the region of [`start`].
fn arn(resource: &str) -> String {
    format!("arn:aws:ecs:us-west-2:{ACCOUNT}:{resource}")
}

fn revision(name: &str) -> String {
    arn(&format!("task-definition/{name}"))
}

fn refusal<T: Debug, E: ProvideErrorMetadata>(reply: Result<T, SdkError<E>>) -> Refusal {
    support::refusal(&reply.expect_err("the call is rejected"))
}

fn api_error(code: &str, message: &str) -> Refusal {
    (code.to_owned(), message.to_owned())
}

fn missing(failures: &[Failure]) -> Vec<&str> {
    assert!(failures.iter().all(|failure| failure.reason() == Some("MISSING")), "{failures:?}");
    failures.iter().filter_map(Failure::arn).collect()
}

async fn service(client: &Client, name: &str) -> aws_sdk_ecs::types::Service {
    let reply = client.describe_services().cluster("prod").services(name).send().await;
    let mut services = reply.expect("the cluster exists").services.unwrap_or_default();
    services.pop().expect("the service exists")
}

#[tokio::test]
async fn clusters_and_services_are_listed_in_pages() {
    let (ecs, west, _prod, client) = start().await;
    for number in 0..250 {
        let service = Service::steady(&format!("web-{number}"), &format!("web-{number}:1"));
        west.cluster(["prod", "staging", "test"][number % 3]).put_service(service);
    }
    let pages = client.list_clusters().max_results(2).into_paginator().items().send();
    let clusters: Vec<String> = pages.collect::<Result<_, _>>().await.expect("both pages are listed");
    assert_eq!(clusters, ["cluster/prod", "cluster/staging", "cluster/test"].map(arn));
    let mut described = Vec::new();
    for cluster in &clusters {
        let pages = client.list_services().cluster(cluster).max_results(50).into_paginator().items().send();
        let arns: Vec<String> = pages.collect::<Result<_, _>>().await.expect("all pages are listed");
        for batch in arns.chunks(10) {
            let call = client.describe_services().cluster(cluster).set_services(Some(batch.to_vec()));
            let reply = call.send().await.expect("ten names are allowed");
            assert_eq!(missing(reply.failures()), [""; 0]);
            described.extend(reply.services.unwrap_or_default().into_iter().map(|it| it.task_definition));
        }
    }
    let mut expected: Vec<_> = (0..250).map(|number| Some(revision(&format!("web-{number}:1")))).collect();
    expected.sort();
    described.sort();
    assert_eq!(described, expected);
    assert_eq!(ecs.calls_of(Action::ListServices).len(), 6);
    assert_eq!(ecs.calls_of(Action::DescribeServices).len(), 9 + 9 + 9);
}

#[tokio::test]
async fn page_has_the_default_size_and_its_token_is_valid_only_for_the_same_list() {
    let (_ecs, west, prod, client) = start().await;
    for number in 0..25 {
        prod.put_service(Service::steady(&format!("web-{number}"), "web:1"));
        west.cluster("test").put_service(Service::steady(&format!("web-{number}"), "web:1"));
    }
    let list = || client.list_services().cluster("prod");
    let page = list().send().await.expect("a page");
    assert_eq!(page.service_arns().len(), 10);
    let token = page.next_token().expect("the page is not the last one");
    let other_list = client.list_services().cluster("test").next_token(token).send().await;
    assert_eq!(refusal(other_list).1, "Invalid token");
    assert_eq!(refusal(list().max_results(101).send().await).0, "InvalidParameterException");
}

#[tokio::test]
async fn service_description_contains_its_revision_deployments_and_task_sets() {
    let (_ecs, west, prod, client) = start().await;
    west.register_many("web", 3);
    west.set_status("web:2", Status::Inactive);
    prod.put_service(Service::steady("steady", "web:3").desired_count(0));
    prod.put_service(Service::steady("deploying", "web:3").deploying_from("web:2"));
    prod.put_service(Service::steady("sets", "web:3").with_task_set("web:1"));

    let steady = service(&client, "steady").await;
    assert_eq!(steady.service_arn(), Some(arn("service/prod/steady").as_str()));
    assert_eq!(steady.cluster_arn(), Some(arn("cluster/prod").as_str()));
    assert_eq!(steady.task_definition(), Some(revision("web:3").as_str()));
    assert_eq!((steady.status(), steady.desired_count(), steady.running_count()), (Some("ACTIVE"), 0, 0));
    assert!(steady.created_at().is_some());
    assert_eq!(steady.deployments()[0].rollout_state(), Some(&DeploymentRolloutState::Completed));

    let deploying = service(&client, &arn("service/prod/deploying")).await;
    let seen: Vec<_> = deploying.deployments().iter().map(|it| (it.status(), it.task_definition())).collect();
    let (new, old) = (revision("web:3"), revision("web:2"));
    assert_eq!(seen, [(Some("PRIMARY"), Some(new.as_str())), (Some("ACTIVE"), Some(old.as_str()))]);
    assert_eq!(deploying.deployments()[0].rollout_state(), Some(&DeploymentRolloutState::InProgress));

    let sets = service(&client, "sets").await;
    let seen: Vec<_> = sets.task_sets().iter().map(|it| (it.status(), it.task_definition())).collect();
    let old = revision("web:1");
    assert_eq!(seen, [(Some("PRIMARY"), Some(new.as_str())), (Some("ACTIVE"), Some(old.as_str()))]);
    assert!(sets.deployments().is_empty());
}

#[tokio::test]
async fn deleted_service_is_described_but_not_listed() {
    let (_ecs, _west, prod, client) = start().await;
    prod.put_service(Service::steady("draining", "web:1").draining());
    prod.put_service(Service::steady("inactive", "web:1").inactive());
    prod.put_service(Service::steady("gone", "web:1"));
    prod.remove_service("gone");
    let listed = client.list_services().cluster("prod").send().await.expect("the cluster exists");
    assert_eq!(listed.service_arns(), [""; 0]);
    let call = client.describe_services().cluster("prod").services("draining").services("inactive");
    let reply = call.services("gone").send().await.expect("missing names are not an error");
    let statuses: Vec<_> = reply.services().iter().filter_map(|it| it.status()).collect();
    assert_eq!(statuses, ["DRAINING", "INACTIVE"]);
    assert_eq!(missing(reply.failures()), [arn("service/prod/gone")]);
}

#[tokio::test]
async fn rollback_target_appears_only_in_service_deployments() {
    let (_ecs, _west, prod, client) = start().await;
    prod.put_service(Service::steady("web", "web:3").rolling_back_to("web:2").deployed_before("web:1"));
    let described = format!("{:?}", service(&client, "web").await);
    assert!(!described.contains("web:2"), "{described}");

    let list = || client.list_service_deployments().service(arn("service/prod/web"));
    let all = list().send().await.expect("the service exists");
    let statuses: Vec<_> = all.service_deployments().iter().filter_map(|it| it.status().cloned()).collect();
    let done = ServiceDeploymentStatus::Successful;
    assert_eq!(statuses, [ServiceDeploymentStatus::RollbackInProgress, done.clone(), done]);
    assert!(all.service_deployments()[0].finished_at().is_none());
    assert!(all.service_deployments()[1].finished_at() < all.service_deployments()[0].started_at());

    let call = client.list_service_deployments().cluster("prod").service("web");
    let call = call.status(ServiceDeploymentStatus::RollbackInProgress);
    let rolling_back = call.send().await.expect("the service exists");
    let [brief] = rolling_back.service_deployments() else { panic!("{rolling_back:?} is not one") };
    let target = brief.target_service_revision_arn().expect("the deployment has an ARN");
    let unknown = arn("service-deployment/prod/web/unknown");
    let call = client.describe_service_deployments().service_deployment_arns(&unknown);
    let id = brief.service_deployment_arn().expect("the deployment has an ARN");
    let reply = call.service_deployment_arns(id).send().await.expect("missing names are not an error");
    assert_eq!(missing(reply.failures()), [unknown]);
    let deployment = &reply.service_deployments()[0];
    let back = deployment.rollback().and_then(|it| it.service_revision_arn()).expect("a rollback");
    assert_eq!(deployment.source_service_revisions()[0].arn(), Some(back));

    let call = client.describe_service_revisions().service_revision_arns(target).service_revision_arns(back);
    let revisions = call.send().await.expect("both revisions exist");
    let seen: Vec<_> = revisions.service_revisions().iter().filter_map(|it| it.task_definition()).collect();
    assert_eq!(seen, [revision("web:3"), revision("web:2")]);
    let arns = Some(vec![target.to_owned(); 21]);
    let many = client.describe_service_revisions().set_service_revision_arns(arns);
    assert_eq!(refusal(many.send().await).0, "InvalidParameterException");
}

#[tokio::test]
async fn service_revision_arn_is_stable_while_its_service_changes() {
    let (_ecs, _west, prod, client) = start().await;
    let mut seen = Vec::new();
    for service in [
        Service::steady("web", "web:2"),
        Service::steady("web", "web:3").deploying_from("web:2"),
        Service::steady("web", "web:3").deployed_before("web:2"),
    ] {
        prod.put_service(service);
        let list = || client.list_service_deployments().cluster("prod").service("web").max_results(1);
        let mut page = list().send().await.expect("the service exists");
        while let Some(token) = page.next_token {
            page = list().next_token(token).send().await.expect("the service exists");
        }
        let oldest = page.service_deployments.unwrap_or_default().remove(0);
        seen.push((oldest.service_deployment_arn, oldest.target_service_revision_arn));
    }
    assert_eq!(seen, [(); 3].map(|()| seen[0].clone()));
}

#[tokio::test]
async fn tasks_are_listed_by_desired_status_and_described_with_both() {
    let (_ecs, _west, prod, client) = start().await;
    prod.put_task(Task::running("1", "batch:4"));
    prod.put_task(Task::pending("2", "batch:4").started_by("nightly"));
    prod.put_task(Task::stopping("3", "batch:4"));
    prod.put_task(Task::stopped("4", "batch:4"));
    prod.put_task(Task::running("5", "batch-other:4"));
    prod.put_task(Task::running("6", "batch:4").of_service("web"));
    prod.put_task(Task::running("7", "batch:4"));
    prod.remove_task("7");
    prod.put_service(Service::steady("web", "batch:4"));

    let list = || client.list_tasks().cluster("prod");
    let tasks = |ids: &[&str]| ids.iter().map(|id| arn(&format!("task/prod/{id}"))).collect::<Vec<_>>();
    for (call, arns) in [
        (list(), tasks(&["1", "2", "5", "6"])),
        (list().family("batch"), tasks(&["1", "2", "6"])),
        (list().family("batch").desired_status(DesiredStatus::Stopped), tasks(&["3", "4"])),
        (list().family("batch").desired_status(DesiredStatus::Pending), tasks(&[])),
        (list().service_name("web"), tasks(&["6"])),
        (list().started_by("nightly"), tasks(&["2"])),
        (list().family("unheard-of"), tasks(&[])),
    ] {
        assert_eq!(call.send().await.expect("the cluster exists").task_arns(), arns);
    }
    let exclusive = refusal(list().service_name("web").family("batch").send().await);
    assert_eq!(exclusive.1, "cannot specify serviceName with other arguments");
    assert_eq!(refusal(list().service_name("api").send().await).0, "ServiceNotFoundException");

    let call = client.describe_tasks().cluster("prod").tasks("2").tasks(arn("task/prod/3"));
    let reply = call.tasks("6").tasks("7").send().await.expect("missing names are not an error");
    assert_eq!(missing(reply.failures()), tasks(&["7"]));
    let states = reply.tasks().iter().map(|it| [it.desired_status(), it.last_status(), it.group()]);
    let expected = [
        ["RUNNING", "PENDING", "family:batch"],
        ["STOPPED", "STOPPING", "family:batch"],
        ["RUNNING", "RUNNING", "service:web"],
    ];
    assert_eq!(states.collect::<Vec<_>>(), expected.map(|state| state.map(Some)));
    assert_eq!(reply.tasks()[0].started_by(), Some("nightly"));
    assert_eq!(reply.tasks()[0].task_definition_arn(), Some(revision("batch:4").as_str()));
}

#[tokio::test]
async fn calls_reject_missing_resources_and_oversized_batches() {
    let (_ecs, west, _prod, client) = start().await;
    let cluster_not_found = api_error("ClusterNotFoundException", "Cluster not found.");
    let invalid = |message: &str| api_error("InvalidParameterException", message);
    assert_eq!(refusal(client.list_services().send().await), cluster_not_found);
    assert_eq!(refusal(client.list_tasks().cluster("nowhere").send().await), cluster_not_found);
    let other_account = client.list_services().cluster(arn("cluster/prod").replace(ACCOUNT, "999999999999"));
    let message = "Identifier is for 999999999999. Your accountId is 012345678910";
    assert_eq!(refusal(other_account.send().await), invalid(message));
    let deployments = client.list_service_deployments().cluster("prod").service("api");
    assert_eq!(refusal(deployments.send().await).0, "ServiceNotFoundException");
    let none = client.describe_tasks().cluster("prod").set_tasks(Some(Vec::new())).send().await;
    assert_eq!(refusal(none), invalid("Tasks cannot be empty."));
    let eleven = client.describe_services().cluster("prod").set_services(Some(vec!["web".to_owned(); 11]));
    assert_eq!(refusal(eleven.send().await), invalid("Specify at most 10 services."));
    let many = client.describe_tasks().cluster("prod").set_tasks(Some(vec!["1".to_owned(); 101]));
    assert_eq!(refusal(many.send().await), invalid("Specify at most 100 tasks."));
    let default = west.cluster("default");
    client.list_services().send().await.expect("the default cluster exists");
    default.remove();
    assert_eq!(refusal(client.list_services().send().await), cluster_not_found);
}

#[tokio::test]
async fn fault_applies_to_the_second_page_or_denies_a_permission() {
    let (ecs, _west, prod, client) = start().await;
    for number in 0..25 {
        prod.put_service(Service::steady(&format!("web-{number}"), "web:1"));
    }
    ecs.fault(Fault::on(Action::ListServices).nth(2).server_error());
    let mut pages = client.list_services().cluster("prod").into_paginator().send();
    assert_eq!(pages.next().await.expect("a page").expect("no fault").service_arns().len(), 10);
    assert_eq!(refusal(pages.next().await.expect("a page")).0, "ServerException");

    for action in [Action::ListServices, Action::DescribeServices, Action::DescribeTasks] {
        ecs.fault(Fault::on(action).access_denied());
    }
    let denied = |action: &str, resource: &str| {
        let message = format!(
            "User: arn:aws:sts::{ACCOUNT}:assumed-role/controller/session is not authorized to perform: \
             ecs:{action} on resource: {resource} because no identity-based policy allows \
             the ecs:{action} action"
        );
        api_error("AccessDeniedException", &message)
    };
    let list = client.list_services().cluster("prod").send().await;
    assert_eq!(refusal(list), denied("ListServices", "*"));
    let describe = client.describe_services().cluster("prod").services("web").services("api").send().await;
    assert_eq!(refusal(describe), denied("DescribeServices", &arn("service/prod/web")));
    let tasks = client.describe_tasks().cluster("prod").tasks(arn("task/prod/1")).send().await;
    assert_eq!(refusal(tasks), denied("DescribeTasks", &arn("task/prod/1")));
}

#[tokio::test]
async fn service_can_be_added_between_two_pages() {
    let (ecs, _west, prod, client) = start().await;
    prod.put_service(Service::steady("a", "web:1"));
    prod.put_service(Service::steady("b", "web:1"));
    ecs.before(Action::ListServices, 2, async move {
        prod.remove_service("a");
        prod.put_service(Service::steady("c", "web:1"));
    });
    let pages = client.list_services().cluster("prod").max_results(1).into_paginator().items().send();
    let arns = pages.collect::<Result<Vec<_>, _>>().await.expect("all pages are listed");
    assert_eq!(arns, ["a", "b", "c"].map(|name| arn(&format!("service/prod/{name}"))));
}

/// Makes each call about users once, and returns their error codes.
async fn read_all(client: &Client) -> [Option<String>; 8] {
    fn code<T, E: ProvideErrorMetadata>(reply: Result<T, SdkError<E>>) -> Option<String> {
        reply.err().map(|error| error.code().unwrap_or_default().to_owned())
    }
    let (deployment, revision) = (arn("service-deployment/prod/web/1"), arn("service-revision/prod/web/1"));
    [
        code(client.list_clusters().send().await),
        code(client.list_services().cluster("prod").send().await),
        code(client.describe_services().cluster("prod").services("web").send().await),
        code(client.list_tasks().cluster("prod").send().await),
        code(client.describe_tasks().cluster("prod").tasks("1").send().await),
        code(client.list_service_deployments().cluster("prod").service("web").send().await),
        code(client.describe_service_deployments().service_deployment_arns(deployment).send().await),
        code(client.describe_service_revisions().service_revision_arns(revision).send().await),
    ]
}

#[tokio::test]
async fn each_kind_of_read_is_throttled_separately() {
    let (ecs, _west, prod, client) = start().await;
    prod.put_service(Service::steady("web", "web:1"));
    ecs.throttle(1.0e-6);
    let throttled = Some("ThrottlingException".to_owned());
    for _ in 0..25 {
        assert_eq!(read_all(&client).await, <[_; 8]>::default());
    }
    for _ in 25..50 {
        let mut expected = <[_; 8]>::default();
        expected[5..7].fill(throttled.clone()); // Deployment calls share a bucket of 50.
        assert_eq!(read_all(&client).await, expected);
    }
    assert_eq!(read_all(&client).await, [(); 8].map(|()| throttled.clone()));
    client.list_task_definitions().send().await.expect("task definitions have their own bucket");
    assert!(ecs.calls().iter().all(|call| !call.changed));
}
