//! Moto, a simulated Amazon ECS for the happy path, as a process beside the tests.

use std::{io, process::Command, time::Duration};

use aws_sdk_ecs::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region},
    error::ProvideErrorMetadata,
    types::{ContainerDefinition, TaskDefinitionStatus},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
};

use crate::{
    process::{Folder, Process, free_port},
    sdk, tools,
};

const ATTEMPTS: u32 = 3;
const START_DEADLINE: Duration = Duration::from_mins(1);
const KEY: &str = "testing";

/// A running moto; dropping it ends it.
///
/// # Guarantees
/// It is gone when the process that started it is, however that process ends.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    _folder: Folder,
    port: u16,
}

impl Moto {
    /// The only account that moto knows.
    pub const ACCOUNT: &'static str = "123456789012";
    pub const REGION: &'static str = "us-west-2";

    /// # Errors
    /// Moto is not installed, or does not start; the error says which and holds its log.
    pub async fn start() -> io::Result<Self> {
        let python = tools::moto_python()?;
        let mut attempt = 1;
        loop {
            let folder = Folder::create()?;
            let port = free_port()?;
            let mut command = Command::new(&python);
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            let mut process = Process::start(&command, &folder.join("moto.log"))?;
            // Its own word, since on a port that was taken meanwhile another moto could answer.
            match process.wait_for_log("Running on http://", START_DEADLINE).await {
                Ok(()) => {
                    let moto = Self { _process: process, _folder: folder, port };
                    moto.load_ecs().await?;
                    return Ok(moto);
                }
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The one moto of this process, started at the first call. Tests run side by side on it: each registers families of
    /// its own, named after its namespace, say, and none calls [`Moto::reset`].
    ///
    /// # Panics
    /// It does not start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Moto> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                Self::start().await.unwrap_or_else(|error| panic!("start moto: {error}"))
            })
            .await
    }

    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What makes an AWS SDK in another process talk to this moto.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", Self::REGION.into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", KEY.into()),
        ]
    }

    /// A new client, for the async runtime of the caller: one made in another test dies with that test's runtime.
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

    /// Forgets everything that was registered, by whomever.
    ///
    /// # Errors
    /// Moto does not answer, or not with 200.
    pub async fn reset(&self) -> io::Result<()> {
        self.request("POST /moto-api/reset").await
    }

    /// Registers the next revision of `family` and returns it as `family:revision`.
    ///
    /// # Panics
    /// Moto refuses.
    pub async fn register(&self, family: &str) -> String {
        let container = ContainerDefinition::builder().name("main").image("busybox").memory(64).build();
        let answer = self
            .client()
            .register_task_definition()
            .family(family)
            .container_definitions(container)
            .send()
            .await
            .expect("moto registers a plain task definition");
        let registered = answer.task_definition.expect("moto describes what it registered");
        format!("{family}:{}", registered.revision)
    }

    /// The status of `revision`, or none when moto does not know it.
    ///
    /// # Panics
    /// Moto does not answer.
    pub async fn status(&self, revision: &str) -> Option<TaskDefinitionStatus> {
        match self.client().describe_task_definition().task_definition(revision).send().await {
            Ok(answer) => answer.task_definition.and_then(|described| described.status),
            Err(error) if error.code() == Some("ClientException") => None,
            Err(error) => panic!("describe {revision}: {error:?}"),
        }
    }

    /// Moto loads its ECS at the first call, for seconds; better here than within a test's deadline.
    async fn load_ecs(&self) -> io::Result<()> {
        self.client().list_clusters().send().await.map_err(io::Error::other)?;
        Ok(())
    }

    async fn request(&self, request: &str) -> io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let text = format!(
            "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        match answer.lines().next() {
            Some(line) if line.contains(" 200 ") => Ok(()),
            other => Err(io::Error::other(format!("{request}: {}", other.unwrap_or("no answer")))),
        }
    }
}
