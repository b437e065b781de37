//! Tests of usage scans of clusters that ECS lists although they do not exist.

use super::*;

#[tokio::test(start_paused = true)]
async fn vanished_cluster_has_no_users_after_two_consecutive_scans() {
    for vanished in [Vanished::NotFound, Vanished::Inactive] {
        let (ecs, prod) = account();
        prod.put_task(Task::running("a", "web:1"));
        let gone = ecs.region(ACCOUNT, REGION).cluster("gone");
        let mut scanner = scanner(ecs.transport());
        let mut scan = async || scanner.scan().await;

        gone.vanish(vanished);
        let first = unknown(scan().await, "web:2");
        assert_eq!(first.kind, FailureKind::Unavailable);
        assert!(first.message.starts_with("cluster/gone: ecs:ListServices: "), "{}", first.message);
        assert!(matches!(usage(scan().await, "web:2"), Use::Unused { .. }));
        assert!(matches!(usage(scan().await, "web:1"), Use::InUse(_)), "in another cluster");

        gone.put_task(Task::running("b", "web:2"));
        assert!(matches!(usage(scan().await, "web:2"), Use::InUse(_)), "created again under the same name");
        gone.vanish(vanished);
        unknown(scan().await, "web:2");
        assert!(matches!(usage(scan().await, "web:2"), Use::Unused { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_that_vanishes_during_a_scan_leaves_usage_unknown_until_the_next_scan() {
    for action in [
        Action::ListServices,
        Action::DescribeServices,
        Action::ListServiceDeployments,
        Action::ListTasks,
        Action::DescribeTasks,
    ] {
        let (ecs, prod) = account();
        prod.put_service(Service::steady("shop", "web:2").deploying_from("web:1"));
        prod.put_task(Task::running("a", "web:1"));
        let meanwhile = prod.clone();
        ecs.before(action, 1, async move { meanwhile.vanish(Vanished::NotFound) });
        let mut scanner = scanner(ecs.transport());
        assert_eq!(unknown(scanner.scan().await, "web:9").kind, FailureKind::Unavailable, "{action:?}");
        assert!(matches!(usage(scanner.scan().await, "web:1"), Use::Unused { .. }), "{action:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_failures_of_a_cluster_do_not_count_as_vanished() {
    let (ecs, prod) = account();
    let mut scanner = scanner(ecs.transport());
    prod.vanish(Vanished::NotFound);
    unknown(scanner.scan().await, "web:1");
    for action in [Action::ListServices, Action::ListClusters] {
        ecs.fault(Fault::on(action).times(3).server_error());
        scanner.scan().await.expect_err("scan fails");
        let failure = unknown(scanner.scan().await, "web:1");
        assert!(failure.message.contains("ClusterNotFoundException"), "{action:?}: {}", failure.message);
    }
    assert!(matches!(usage(scanner.scan().await, "web:1"), Use::Unused { .. }));
}

#[tokio::test(start_paused = true)]
async fn cluster_is_not_gone_if_only_a_later_call_says_so() {
    for action in [
        Action::DescribeServices,
        Action::ListServiceDeployments,
        Action::DescribeServiceDeployments,
        Action::DescribeServiceRevisions,
        Action::ListTasks,
    ] {
        let (ecs, prod) = account();
        prod.put_service(Service::steady("shop", "web:3").deploying_from("web:2"));
        prod.put_task(Task::running("a", "web:1"));
        ecs.fault(Fault::on(action).error("ClusterNotFoundException", "Cluster not found."));
        let mut scanner = scanner(ecs.transport());
        for _ in 0..3 {
            let found = scanner.scan().await;
            // Whether its users are found or unknown, the revision is not unused.
            assert!(!matches!(usage(found, "web:1"), Use::Unused { .. }), "{action:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_is_not_gone_if_only_a_later_list_or_page_of_its_services_says_so() {
    for services in [1, 101] {
        let (ecs, prod) = account();
        for index in 0..services {
            prod.put_service(Service::steady(&format!("s{index}"), "web:1"));
        }
        let mut scanner = scanner(ecs.transport());
        for _ in 0..3 {
            let fault = Fault::on(Action::ListServices).nth(2);
            ecs.fault(fault.error("ClusterNotFoundException", "Cluster not found."));
            let failure = unknown(scanner.scan().await, "web:1");
            assert!(failure.message.starts_with("cluster/prod: ecs:ListServices: "), "{}", failure.message);
        }
    }
    let (ecs, prod) = account();
    prod.put_service(Service::steady("shop", "web:3").deploying_from("web:2"));
    prod.put_task(Task::running("a", "web:1"));
    ecs.fault(Fault::on(Action::ListServiceDeployments).error("ClusterNotFoundException", "Not found."));
    let page = json!({ "serviceDeployments": [], "nextToken": "more" });
    let found = scan_by(responding(ecs.transport(), "ListServiceDeployments", vec![page])).await;
    let found = usage(found, "web:1");
    assert!(matches!(found, Use::InUse(_)), "the scan continues: {found:?}");
}
