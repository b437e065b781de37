//! The happy paths on emulators of ECS by other authors.
//!
//! A test that does not say otherwise runs on moto and on ministack. They differ here:
//!
//! | | moto | ministack |
//! |---|---|---|
//! | `registeredAt`, `deregisteredAt` | never reported | reported |
//! | malformed revision (`web:01`), ARN of another account or region | resolved locally | refused |
//! | running tasks | only on container instances | without any |
//! | deployments in progress | not modelled | shown until the new tasks run |
//! | `ListServiceDeployments` | not implemented | always empty |

mod scenarios;
mod sequences;

use aws_sdk_ecs::types::{DeploymentConfiguration, TaskDefinition, TaskDefinitionStatus};
use testkit::{
    emulator::{Emulator, Product},
    process::Process,
};

use crate::support::World;

const BOTH: [Product; 2] = [Product::Moto, Product::Ministack];

/// A namespace whose controllers use an emulator. Its families and clusters are named after it,
/// since tests share emulators.
struct Setup<'emulator> {
    world: World<'static>,
    emulator: &'emulator Emulator,
}

impl Setup<'static> {
    async fn new(product: Product) -> Self {
        Self::on(Emulator::shared(product).await).await
    }
}

impl<'emulator> Setup<'emulator> {
    async fn on(emulator: &'emulator Emulator) -> Self {
        // Shown if the test fails.
        println!("on {:?}", emulator.product());
        Self { world: World::new().await, emulator }
    }

    fn start(&self) -> Process {
        let environment = self.emulator.environment();
        self.world.start_with(&environment.each_ref().map(|(name, value)| (*name, value.as_str())))
    }

    /// Returns the name of the namespace with `suffix`: a family or a cluster of this test.
    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.world.namespace.name())
    }

    /// Registers `COUNT` revisions of a family.
    async fn register<const COUNT: usize>(&self, suffix: &str) -> [String; COUNT] {
        let mut revisions = [const { String::new() }; COUNT];
        for revision in &mut revisions {
            *revision = self.emulator.register(&self.name(suffix)).await;
        }
        revisions
    }

    async fn deregister(&self, revision: &str) {
        let request = self.emulator.client().deregister_task_definition().task_definition(revision);
        request.send().await.expect("the emulator deregisters what it has");
    }

    async fn describe(&self, revision: &str) -> TaskDefinition {
        let request = self.emulator.client().describe_task_definition().task_definition(revision);
        let response = request.send().await.expect("the emulator describes what it has");
        response.task_definition.expect("a task definition")
    }

    /// Creates a cluster with a service of `count` tasks. A deployment that would stop one of them
    /// cannot proceed.
    async fn create_service(&self, cluster: &str, revision: &str, count: i32) {
        let client = self.emulator.client();
        client.create_cluster().cluster_name(cluster).send().await.expect("a cluster can be created");
        let service = client.create_service().cluster(cluster).service_name("web").task_definition(revision);
        let limits =
            DeploymentConfiguration::builder().maximum_percent(100).minimum_healthy_percent(100).build();
        let service = service.desired_count(count).deployment_configuration(limits);
        service.send().await.expect("a service can be created");
    }

    async fn delete_service(&self, cluster: &str) {
        let request = self.emulator.client().delete_service().cluster(cluster).service("web").force(true);
        request.send().await.expect("a service can be deleted");
    }

    async fn assert_status(&self, revision: &str, expected: Option<&TaskDefinitionStatus>) {
        assert_eq!(self.emulator.status(revision).await.as_ref(), expected, "{revision}");
    }

    /// Waits until the controller has handled a resource that was created after all others.
    async fn wait_until_caught_up(&self) {
        let [revision] = self.register("-fence").await;
        self.world.declare("fence", &[&revision]).await;
        self.world.wait_ready("fence").await;
    }
}

fn arn_in(region: &str, account: &str, revision: &str) -> String {
    format!("arn:aws:ecs:{region}:{account}:task-definition/{revision}")
}

fn arn(revision: &str) -> String {
    arn_in(Emulator::REGION, Emulator::ACCOUNT, revision)
}
