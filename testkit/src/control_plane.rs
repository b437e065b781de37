//! A real Kubernetes API server with its etcd, run as processes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
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

/// A running API server, stopped and removed with its data when dropped.
///
/// # Guarantees
/// Its processes and its folder do not outlive the process that started it, even if that process is
/// killed.
#[derive(Debug)]
pub struct ControlPlane {
    // Fields are dropped in this order: the data is removed last.
    servers: Mutex<Servers>,
    folder: Folder,
    url: String,
    config: Config,
}

#[derive(Debug)]
struct Servers {
    api_server: Process,
    etcd: Process,
    start_api_server: Command,
    start_etcd: Command,
}

impl ControlPlane {
    /// # Errors
    /// Returns an error if a tool is missing, or with the logs if the servers do not become ready.
    pub async fn start() -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once().await {
                // Another process may bind the port before the server does.
                Err(error) if attempt < ATTEMPTS && error.kind() != io::ErrorKind::NotFound => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Returns the control plane that all tests of this process share, and starts it at the first
    /// call. Tests run in parallel on it, each in its own [`crate::namespace::Namespace`].
    ///
    /// # Panics
    /// Panics if the control plane does not start.
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

    /// Returns the path of a kubeconfig with administrator permissions.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig for the user of `token`, such as a service account, and returns its
    /// path.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, token: &str) -> io::Result<PathBuf> {
        write_kubeconfig(&self.folder, &self.url, user, token)
    }

    /// Returns the client configuration of an administrator, which a test may change before
    /// creating a client.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Returns a new client for the caller's async runtime: a client stops working when the runtime
    /// that created it ends.
    ///
    /// # Panics
    /// Panics outside an async runtime.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("the configuration is valid")
    }

    /// Runs kubectl as administrator and returns its output.
    ///
    /// # Errors
    /// Returns kubectl's error output if it fails.
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

    /// Returns the API server's process, to stop, continue or kill it. Not for the shared control
    /// plane.
    pub fn api_server(&mut self) -> &mut Process {
        &mut self.servers.get_mut().unwrap_or_else(PoisonError::into_inner).api_server
    }

    /// Returns etcd's process, to stop, continue or kill it. Not for the shared control plane.
    pub fn etcd(&mut self) -> &mut Process {
        &mut self.servers.get_mut().unwrap_or_else(PoisonError::into_inner).etcd
    }

    /// Stops the servers, copies etcd's data, and starts the servers again. Not for the shared
    /// control plane.
    ///
    /// # Errors
    /// Returns an error if the data cannot be copied or the servers do not become ready.
    pub async fn back_up(&self) -> io::Result<()> {
        self.restart_with("etcd", "backup").await
    }

    /// Stops the servers, restores etcd's data from the copy of [`Self::back_up`], and starts the
    /// servers again.
    ///
    /// # Errors
    /// Returns an error if there is no backup or the servers do not become ready.
    pub async fn restore(&self) -> io::Result<()> {
        self.restart_with("backup", "etcd").await
    }

    async fn restart_with(&self, from: &str, to: &str) -> io::Result<()> {
        {
            let mut servers = self.servers();
            servers.api_server.kill();
            servers.etcd.kill();
            copy_folder(&self.folder.join(from), &self.folder.join(to))?;
            servers.etcd = Process::start(&servers.start_etcd, &self.folder.join("etcd.log"))?;
            servers.api_server =
                Process::start(&servers.start_api_server, &self.folder.join("kube-apiserver.log"))?;
        }
        wait_until_ready(&self.servers, &self.kubeconfig()).await.map(drop)
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start_once() -> io::Result<Self> {
        let (etcd, api_server) = (tools::find("etcd")?, tools::find("kube-apiserver")?);
        let folder = Folder::create()?;
        let (etcd_url, peer_url) = (url("http", free_port()?), url("http", free_port()?));
        let port = free_port()?;
        let start_etcd = etcd_command(&etcd.to_string_lossy(), &folder, &etcd_url, &peer_url);
        let start_api_server = api_server_command(&api_server.to_string_lossy(), &folder, &etcd_url, port)?;
        let etcd = Process::start(&start_etcd, &folder.join("etcd.log"))?;
        let api_server = Process::start(&start_api_server, &folder.join("kube-apiserver.log"))?;
        let servers = Mutex::new(Servers { api_server, etcd, start_api_server, start_etcd });
        let url = url("https", port);
        let kubeconfig = write_kubeconfig(&folder, &url, "admin", ADMIN_TOKEN)?;
        let config = wait_until_ready(&servers, &kubeconfig).await?;
        Ok(Self { servers, folder, url, config })
    }
}

/// Waits until both servers run and the API server is ready, and returns the client configuration.
async fn wait_until_ready(servers: &Mutex<Servers>, kubeconfig: &PathBuf) -> io::Result<Config> {
    let began = Instant::now();
    loop {
        if let Ok(Some(config)) = timeout(Duration::from_secs(5), ready(kubeconfig)).await {
            return Ok(config);
        }
        {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            let is_running = servers.etcd.is_running() && servers.api_server.is_running();
            if !is_running || began.elapsed() > START_DEADLINE {
                return Err(io::Error::other(format!(
                    "not ready after {:?}\netcd: {}\nkube-apiserver: {}",
                    began.elapsed(),
                    end_of(&servers.etcd.log()),
                    end_of(&servers.api_server.log())
                )));
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Replaces the folder `to`, if it exists, with a copy of `from`.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn etcd_command(program: &str, folder: &Folder, client_url: &str, peer_url: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", client_url, "--advertise-client-urls", client_url])
        .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
        .args(["--initial-cluster", &format!("default={peer_url}")])
        .arg("--unsafe-no-fsync");
    command
}

fn api_server_command(program: &str, folder: &Folder, etcd_url: &str, port: u16) -> io::Result<Command> {
    let tokens = folder.join("tokens.csv");
    fs::write(&tokens, format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
    let certificates = folder.join("certificates");
    // The server generates this key for its certificate. It also signs service account tokens,
    // which saves a key.
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
    // The certificate is self-signed, and the server writes the authority into the same file.
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

/// Returns the client configuration if the server reports ready and has created the namespace
/// `default`, which happens slightly later.
async fn ready(kubeconfig: &PathBuf) -> Option<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.ok()?;
    // Set from HTTPS_PROXY, even for 127.0.0.1.
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
