//! A real Kubernetes API server with its etcd, as processes beside the tests.

use std::{
    fs, io,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use axum::http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{
    sync::OnceCell,
    time::{sleep, timeout},
};

use crate::{
    process::{self, Folder, Process, free_port},
    tools,
};

const ATTEMPTS: u32 = 3;
const START_DEADLINE: Duration = Duration::from_mins(1);
const KUBECTL_DEADLINE: Duration = Duration::from_mins(2);
const ADMIN_TOKEN: &str = "testkit-admin";

/// A running API server; dropping it ends it and removes its data.
///
/// # Guarantees
/// Its processes and its folder are gone when the process that started it is, however that process ends.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: the data goes last.
    api_server: Process,
    etcd: Process,
    folder: Folder,
    url: String,
    config: Config,
}

impl ControlPlane {
    /// # Errors
    /// The tools are missing, or the servers do not become ready; the error says which and holds their logs.
    pub async fn start() -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once().await {
                // A port that was free may be taken by the time the server binds it.
                Err(error) if attempt < ATTEMPTS && error.kind() != io::ErrorKind::NotFound => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// The one control plane of this process, started at the first call. Tests run side by side on it, each in a
    /// [`crate::namespace::Namespace`] of its own.
    ///
    /// # Panics
    /// It does not start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                Self::start().await.unwrap_or_else(|error| panic!("start the control plane: {error}"))
            })
            .await
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The path of a kubeconfig with which kubectl, the controller or anyone is administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig for whomever `token` stands, a service account for example, and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, token: &str) -> io::Result<PathBuf> {
        write_kubeconfig(&self.folder, &self.url, user, token)
    }

    /// How an administrator connects, to be changed before a client is made of it.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A new client, for the async runtime of the caller: one made in another test dies with that test's runtime.
    ///
    /// # Panics
    /// The caller is in no async runtime.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("the configuration served a client before")
    }

    /// Runs kubectl as administrator and returns what it printed, or what it complained about.
    ///
    /// # Errors
    /// kubectl failed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(tools::find("kubectl").map_err(|error| error.to_string())?);
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.folder.join("kubectl"))
            .args(arguments);
        process::text(&command, KUBECTL_DEADLINE).await
    }

    /// The API server's process, to stop, continue or kill it in a control plane of the test's own.
    pub fn api_server(&mut self) -> &mut Process {
        &mut self.api_server
    }

    /// Etcd's process, to stop, continue or kill it in a control plane of the test's own.
    pub fn etcd(&mut self) -> &mut Process {
        &mut self.etcd
    }

    async fn start_once() -> io::Result<Self> {
        let (etcd, api_server) = (tools::find("etcd")?, tools::find("kube-apiserver")?);
        let folder = Folder::create()?;
        let (etcd_url, peer_url) = (url("http", free_port()?), url("http", free_port()?));
        let port = free_port()?;
        let mut etcd = Process::start(
            Command::new(etcd)
                .arg("--data-dir")
                .arg(folder.join("etcd"))
                .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")])
                .arg("--unsafe-no-fsync"),
            &folder.join("etcd.log"),
        )?;
        let mut api_server = Process::start(
            &api_server_command(&api_server.to_string_lossy(), &folder, &etcd_url, port)?,
            &folder.join("kube-apiserver.log"),
        )?;
        let url = url("https", port);
        let kubeconfig = write_kubeconfig(&folder, &url, "admin", ADMIN_TOKEN)?;

        let began = Instant::now();
        let config = loop {
            if let Ok(Some(config)) = timeout(Duration::from_secs(5), ready(&kubeconfig)).await {
                break config;
            }
            let running = etcd.is_running() && api_server.is_running();
            if !running || began.elapsed() > START_DEADLINE {
                return Err(io::Error::other(format!(
                    "not ready after {:?}\netcd: {}\nkube-apiserver: {}",
                    began.elapsed(),
                    end_of(&etcd.log()),
                    end_of(&api_server.log())
                )));
            }
            sleep(Duration::from_millis(50)).await;
        };
        Ok(Self { api_server, etcd, folder, url, config })
    }
}

fn api_server_command(program: &str, folder: &Folder, etcd_url: &str, port: u16) -> io::Result<Command> {
    let tokens = folder.join("tokens.csv");
    fs::write(&tokens, format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
    let certificates = folder.join("certificates");
    // The server makes this key for its own certificate; signing the tokens of service accounts with it too saves a key.
    let key = certificates.join("apiserver.key");
    let mut command = Command::new(program);
    command
        .args(["--etcd-servers", etcd_url])
        .arg("--cert-dir")
        .arg(certificates)
        .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
        .args(["--secure-port", &port.to_string()])
        .arg("--endpoint-reconciler-type=none")
        .arg("--authorization-mode=RBAC")
        .arg("--token-auth-file")
        .arg(tokens)
        .arg("--service-account-key-file")
        .arg(&key)
        .arg("--service-account-signing-key-file")
        .arg(&key)
        .args(["--service-account-issuer", "https://kubernetes.default.svc"])
        .arg("--disable-admission-plugins=ServiceAccount")
        .args(["--service-cluster-ip-range", "10.0.0.0/24"]);
    Ok(command)
}

fn write_kubeconfig(folder: &Folder, url: &str, user: &str, token: &str) -> io::Result<PathBuf> {
    let path = folder.join(&format!("{user}.kubeconfig"));
    // The server signs its certificate itself and writes its authority into the same file.
    let authority = folder.join("certificates").join("apiserver.crt");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testkit",
        "clusters": [{"name": "testkit", "cluster": {"server": url, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testkit", "context": {"cluster": "testkit", "user": user}}],
    });
    fs::write(&path, kubeconfig.to_string())?;
    Ok(path)
}

/// The way to connect, once the server says it is ready and has made the namespace `default`, which is a little later.
async fn ready(kubeconfig: &PathBuf) -> Option<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.ok()?;
    // Read from HTTPS_PROXY, even for 127.0.0.1.
    config.proxy_url = None;
    let client = Client::try_from(config.clone()).ok()?;
    let request = Request::get("/readyz").body(Vec::new()).ok()?;
    client.request_text(request).await.ok()?;
    Api::<Namespace>::all(client).get("default").await.ok()?;
    Some(config)
}

fn url(scheme: &str, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

fn end_of(log: &str) -> &str {
    let start = log.len().saturating_sub(2000);
    log.get(log.ceil_char_boundary(start)..).unwrap_or_default()
}
