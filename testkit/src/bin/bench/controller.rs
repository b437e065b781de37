//! The controller's process, its metrics, and its resource usage as reported by the kernel.

use std::{
    fs, io,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use testkit::process::{Process, Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::world::Failure;

const STOP_DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A running controller, killed when dropped.
pub struct Controller {
    process: Process,
    pub started: Instant,
    metrics: String,
    health: String,
}

/// Resident memory, in megabytes.
#[derive(Clone, Copy)]
pub struct Memory {
    pub now: f64,
    pub peak: f64,
}

impl Controller {
    pub fn start(command: &Command, log: &Path, metrics: String, health: String) -> io::Result<Self> {
        let started = Instant::now();
        Ok(Self { process: Process::start(command, log)?, started, metrics, health })
    }

    /// Waits until the controller is ready, is the leader, and has no queued or running reconciles.
    /// Returns the time since its start.
    pub async fn wait_until_idle(&mut self, deadline: Duration) -> Result<Duration, Failure> {
        loop {
            if self.is_ready().await && self.is_idle().await {
                return Ok(self.started.elapsed());
            }
            if !self.process.is_running() || self.started.elapsed() > deadline {
                return Err(format!("not idle within {deadline:?}: {}", self.process.log()).into());
            }
            sleep(PAUSE).await;
        }
    }

    async fn is_ready(&self) -> bool {
        page(&format!("{}/readyz", self.health)).await.is_some_and(|(status, _)| status == 200)
    }

    async fn is_idle(&self) -> bool {
        self.metric("leader_election_master_status", "").await > 0.0
            && self.metric("workqueue_depth", "").await == 0.0
            && self.metric("controller_runtime_active_workers", "").await == 0.0
    }

    /// Returns the sum of a metric over the label sets that contain `labels`; 0 if it is not
    /// exported.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = page(&format!("{}/metrics", self.metrics)).await.map(|(_, text)| text).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let values =
            lines.filter(|(set, _)| (set.is_empty() || set.starts_with('{')) && set.contains(labels));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    /// Returns the number of write requests to the API server, without those of the lease.
    pub async fn writes(&self) -> f64 {
        let mut writes = 0.0;
        for method in ["PATCH", "POST", "DELETE"] {
            writes += self.metric("rest_client_requests_total", &format!("method=\"{method}\"")).await;
        }
        writes
    }

    pub fn memory(&self) -> Result<Memory, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let megabytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<f64>().map(|kibibytes| kibibytes * 1024.0 / 1e6)
        };
        Ok(Memory { now: megabytes("VmRSS:")?, peak: megabytes("VmHWM:")? })
    }

    /// Returns the CPU time of its live threads.
    pub fn cpu_time(&self) -> Result<Duration, Failure> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.pid()))? {
            let statistics = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += statistics.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Sends SIGTERM, and returns the time until the process ends.
    pub async fn stop(mut self) -> Result<Duration, Failure> {
        let began = Instant::now();
        self.process.signal(Signal::TERM)?;
        let status =
            self.process.wait(STOP_DEADLINE).await.ok_or("the process did not stop within the deadline")?;
        let took = began.elapsed();
        if status.success() { Ok(took) } else { Err(format!("{status}: {}", self.process.log()).into()) }
    }
}

/// Returns the status and the body of a page, given as `HOST:PORT/PATH`; `None` if the request
/// fails.
async fn page(url: &str) -> Option<(u16, String)> {
    let (address, path) = url.split_once('/')?;
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
