//! Third-party emulators of Amazon ECS, each run as a process.

use std::{io, process::Command, time::Duration};

use aws_sdk_ecs::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region},
    error::ProvideErrorMetadata,
    types::{ContainerDefinition, TaskDefinitionStatus},
};
use tokio::sync::OnceCell;

use crate::{
    process::{Folder, Process, free_port},
    sdk, tools,
};

const ATTEMPTS: u32 = 3;
const START_DEADLINE: Duration = Duration::from_mins(1);
const KEY: &str = "testing";

/// The supported emulators.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// Widely used and more lenient: no timestamps, no service deployments, no tasks without
    /// container instances.
    Moto,
    /// Closer to ECS: timestamps, tasks, deployments of services. `ListTaskDefinitions` matches a
    /// prefix of the family, and `ListServiceDeployments` is always empty.
    Ministack,
}

impl Product {
    fn command(self, port: u16, folder: &Folder) -> io::Result<Command> {
        let port = port.to_string();
        match self {
            Self::Moto => {
                let mut command = Command::new(tools::python("moto")?);
                command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
                Ok(command)
            }
            Self::Ministack => {
                let mut command = Command::new(tools::python("ministack")?);
                command
                    .args(["-m", "ministack"])
                    .env("BIND_HOST", "127.0.0.1")
                    .env("GATEWAY_PORT", port)
                    .env("MINISTACK_ACCOUNT_ID", Emulator::ACCOUNT)
                    .env("MINISTACK_REGION", Emulator::REGION)
                    // ministack writes a PID file there.
                    .env("TMPDIR", folder.path());
                Ok(command)
            }
        }
    }
}

/// A running emulator, killed when dropped.
///
/// # Guarantees
/// It ends when the process that started it ends, even if that process is killed.
#[derive(Debug)]
pub struct Emulator {
    product: Product,
    _process: Process,
    _folder: Folder,
    port: u16,
}

impl Emulator {
    /// The only account that moto has, and the one that ministack is configured with.
    pub const ACCOUNT: &'static str = "123456789012";
    pub const REGION: &'static str = "us-west-2";

    /// Starts an emulator for exclusive use.
    ///
    /// # Errors
    /// Returns an error if `product` is not installed, or its log if it does not start.
    pub async fn start(product: Product) -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            let folder = Folder::create()?;
            let port = free_port()?;
            let mut process = Process::start(&product.command(port, &folder)?, &folder.join("emulator.log"))?;
            // Waits for the emulator's own log line: another process may have bound the port and
            // may respond on it.
            match process.wait_for_log("Running on http://", START_DEADLINE).await {
                Ok(()) => {
                    let emulator = Self { product, _process: process, _folder: folder, port };
                    emulator.load_ecs().await?;
                    return Ok(emulator);
                }
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the emulator that all tests of this process share, and starts it at the first call.
    /// Tests run in parallel on it: each must register its own families, for example named after
    /// its namespace.
    ///
    /// # Panics
    /// Panics if the emulator does not start.
    pub async fn shared(product: Product) -> &'static Self {
        static MOTO: OnceCell<Emulator> = OnceCell::const_new();
        static MINISTACK: OnceCell<Emulator> = OnceCell::const_new();
        let emulator = match product {
            Product::Moto => &MOTO,
            Product::Ministack => &MINISTACK,
        };
        emulator
            .get_or_init(|| async {
                Self::start(product).await.unwrap_or_else(|error| panic!("start {product:?}: {error}"))
            })
            .await
    }

    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the environment variables that make an AWS SDK in another process use this emulator.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", Self::REGION.into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", KEY.into()),
        ]
    }

    /// Returns a new client for the caller's async runtime: a client stops working when the runtime
    /// that created it ends.
    #[must_use]
    pub fn client(&self) -> Client {
        let config = Config::builder()
            .http_client(sdk::http_client())
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(Self::REGION))
            .endpoint_url(self.endpoint())
            .credentials_provider(Credentials::new(KEY, KEY, None, None, "testkit"))
            .build();
        Client::from_conf(config)
    }

    /// Registers the next revision of `family` and returns it as `family:revision`.
    ///
    /// # Panics
    /// Panics if the emulator rejects the call.
    pub async fn register(&self, family: &str) -> String {
        let container = ContainerDefinition::builder().name("main").image("busybox").memory(64).build();
        let response = self
            .client()
            .register_task_definition()
            .family(family)
            .container_definitions(container)
            .send()
            .await
            .expect("the emulator registers a task definition");
        let registered = response.task_definition.expect("the response contains the task definition");
        format!("{family}:{}", registered.revision)
    }

    /// Returns the status of `revision`, or `None` if the emulator does not have it.
    ///
    /// # Panics
    /// Panics if the call fails for another reason.
    pub async fn status(&self, revision: &str) -> Option<TaskDefinitionStatus> {
        match self.client().describe_task_definition().task_definition(revision).send().await {
            Ok(response) => response.task_definition.and_then(|described| described.status),
            Err(error) if error.code() == Some("ClientException") => None,
            Err(error) => panic!("describe {revision}: {error:?}"),
        }
    }

    /// Makes the first call, which takes seconds on moto and would use up a test's deadline.
    async fn load_ecs(&self) -> io::Result<()> {
        self.client().list_clusters().send().await.map_err(io::Error::other)?;
        Ok(())
    }
}
