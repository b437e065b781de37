//! Tests of deployments in progress whose predecessor is not known.

use super::*;

#[tokio::test(start_paused = true)]
async fn deployment_in_progress_without_a_known_predecessor_is_unresolved() {
    let service = || deploying().with_successes_older_than_90_days();
    let revision = "arn:aws:ecs:us-west-2:012345678910:service-revision/prod/shop/1";
    let listed = |fields: &Value| json!({ "serviceDeployments": [fields] });
    for response in [
        json!({}),
        json!({ "serviceDeployments": [] }),
        listed(&json!({ "status": "IN_PROGRESS", "targetServiceRevisionArn": revision })),
        listed(&json!({ "status": "STOPPED", "targetServiceRevisionArn": revision })),
    ] {
        let found = scan_with(service(), "ListServiceDeployments", vec![response.clone(); 2]).await;
        let failure = unknown(found, "unrelated:1");
        assert_eq!(failure.kind, FailureKind::Unavailable, "{response}");
    }
    for response in [
        json!({}),
        json!({ "serviceDeployments": [], "failures": [{ "reason": "MISSING" }] }),
        json!({ "serviceDeployments": [{ "status": "IN_PROGRESS" }] }),
    ] {
        let message =
            usage_with(service(), "DescribeServiceDeployments", &response).await.expect_err("unresolved");
        assert!(message.starts_with("service/prod/shop: ecs:DescribeServiceDeployments: "), "{message}");
    }
    for response in [json!({}), json!({ "serviceRevisions": [{ "serviceRevisionArn": revision }] })] {
        let message =
            usage_with(service(), "DescribeServiceRevisions", &response).await.expect_err("unresolved");
        assert!(message.starts_with("service/prod/shop: ecs:DescribeServiceRevisions: "), "{message}");
    }
}

/// The description of a service in deployment is older than that of its service deployment, which
/// has ended: what runs after a rollback is not known.
#[tokio::test(start_paused = true)]
async fn finished_deployment_does_not_resolve_a_service_in_deployment() {
    let task_definition = |revision| format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{revision}");
    let arn = "arn:aws:ecs:us-west-2:012345678910:service-deployment/prod/shop/1";
    let revision = "arn:aws:ecs:us-west-2:012345678910:service-revision/prod/shop/1";
    let service = json!({
        "taskDefinition": task_definition("web:2"),
        "currentServiceDeployment": arn,
        "deployments": [
            { "status": "PRIMARY", "rolloutState": "IN_PROGRESS", "taskDefinition": task_definition("web:2") },
        ],
    });
    let listed = json!([
        { "serviceDeploymentArn": arn, "status": "IN_PROGRESS", "targetServiceRevisionArn": revision },
    ]);
    let target = json!({ "arn": revision });
    for (listed, deployment) in [
        (json!([]), json!({ "status": "SUCCESSFUL", "targetServiceRevision": target })),
        (listed, json!({ "status": "ROLLBACK_SUCCESSFUL", "rollback": { "serviceRevisionArn": revision } })),
    ] {
        let mut deployment = deployment;
        deployment["serviceDeploymentArn"] = json!(arn);
        let (ecs, cluster) = account();
        cluster.put_service(Service::steady("shop", "web:2"));
        let described = json!({ "serviceDeployments": [deployment] });
        let target = json!({ "serviceRevisionArn": revision, "taskDefinition": task_definition("web:2") });
        let mut transport = ecs.transport();
        for (action, response) in [
            ("DescribeServices", shop(&service)),
            ("ListServiceDeployments", json!({ "serviceDeployments": listed })),
            ("DescribeServiceDeployments", described.clone()),
            ("DescribeServiceRevisions", json!({ "serviceRevisions": [target] })),
        ] {
            transport = responding(transport, action, vec![response; 3]);
        }
        let failure = unknown(scan_by(transport).await, "web:1");
        assert_eq!(failure.kind, FailureKind::Unavailable, "{described}");
    }
}

/// ECS lists no service deployment, so that the rollback target of one in progress is not known.
#[tokio::test(start_paused = true)]
async fn deployment_counts_as_in_progress_unless_its_description_shows_that_it_has_ended() {
    let deployment = |state: Option<&str>, running: i32, pending: i32| {
        let web = "arn:aws:ecs:us-west-2:012345678910:task-definition/web:2";
        let counts = json!({ "desiredCount": 2, "runningCount": running, "pendingCount": pending });
        let mut deployment = json!({ "status": "PRIMARY", "rolloutState": state, "taskDefinition": web });
        deployment
            .as_object_mut()
            .into_iter()
            .for_each(|it| it.extend(counts.as_object().cloned().unwrap_or_default()));
        deployment
    };
    let usage_during = async |deployments: Value| {
        let (ecs, cluster) = account();
        cluster.put_service(Service::steady("shop", "web:2"));
        let mut transport = ecs.transport();
        for (action, response) in [
            ("DescribeServices", shop(&json!({ "deployments": deployments }))),
            ("ListServiceDeployments", json!({ "serviceDeployments": [] })),
        ] {
            transport = responding(transport, action, vec![response; 2]);
        }
        usage(scan_by(transport).await, "web:1")
    };
    let (ended, failed) = (Some("COMPLETED"), Some("FAILED"));
    for in_progress in [
        json!([deployment(Some("IN_PROGRESS"), 2, 0)]),
        json!([deployment(Some("ROLLING_BACK"), 2, 0)]),
        json!([deployment(None, 1, 0)]),
        json!([deployment(None, 2, 1)]),
        json!([deployment(None, 2, 0), deployment(None, 2, 0)]),
        json!([deployment(ended, 2, 0), deployment(ended, 2, 0)]),
        json!([deployment(failed, 2, 0), deployment(ended, 2, 0), deployment(ended, 2, 0)]),
    ] {
        let usage = usage_during(in_progress.clone()).await;
        assert!(matches!(usage, Use::Unknown(_)), "{in_progress}: {usage:?}");
    }
    for ended in [
        json!([deployment(ended, 2, 0)]),
        json!([deployment(failed, 0, 0)]),
        json!([deployment(failed, 0, 0), deployment(ended, 2, 0)]),
        json!([deployment(None, 2, 0)]),
    ] {
        let usage = usage_during(ended.clone()).await;
        assert!(matches!(usage, Use::Unused { .. }), "{ended}: {usage:?}");
    }
}
