//! Child processes, temporary folders and ports. Processes and folders never outlive the process
//! that created them, even if it is killed.

use std::{
    fmt, fs,
    io::{self, Read, Seek},
    net::TcpListener,
    ops::Range,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::time::sleep;

/// Inherited environment variables. Others are removed: a proxy, kubeconfig or AWS profile of the
/// developer must not affect a test.
const INHERITED: [&str; 4] = ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// Covers a parent that exits before `setpriv` sets the death signal: no signal is sent, but the
/// child already has another parent.
const RUN_IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

const REMOVE_WHEN_INPUT_ENDS: &str = r#"cat; for _ in 1 2 3 4 5; do rm -rf -- "$0" && exit; sleep 1; done"#;

const PAUSE: Duration = Duration::from_millis(10);

/// Ports below the default range of ephemeral ports, from which the kernel assigns.
const PORTS: Range<u16> = 20_000..32_768;

type SpawnRequest = (Command, mpsc::Sender<io::Result<Child>>);

/// Thread that spawns children. The kernel sends the death signal when the spawning thread ends,
/// not the process; this thread lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<SpawnRequest>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<SpawnRequest>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in inbox {
                reply.send(command.spawn()).ok();
            }
        })
        .expect("the thread starts");
    requests
});

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program of `command` with its arguments, folder and environment. The environment
    /// holds what `command` sets and a few inherited variables. The output goes to the file `log`;
    /// standard input stays open.
    ///
    /// # Errors
    /// Returns an error if the log cannot be written or the process cannot be started. A missing
    /// program is reported later, by status 127 and in the log.
    pub fn start(command: &Command, log: &Path) -> io::Result<Self> {
        let file = fs::File::create(log)?;
        let mut bound = bind_to_this_process(command);
        bound.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: spawn(bound)?, log: log.to_owned() })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal` unless the program has ended: its PID may have been reused.
    ///
    /// # Errors
    /// Returns an error if the system call fails.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.is_running() {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// Kills the program, even if it is stopped, and waits until it has ended.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Closes the program's standard input, which some programs take as a request to exit.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for the program and returns its exit status, or `None` if it still runs after
    /// `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, deadline).await
    }

    /// Waits until the output contains `text`.
    ///
    /// # Errors
    /// Returns an error with the output if the program ends or `deadline` expires.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) -> io::Result<()> {
        let began = Instant::now();
        loop {
            // Checked before the log: output that precedes the exit must count.
            let running = self.is_running();
            let log = self.log();
            if log.contains(text) {
                return Ok(());
            }
            if !running || began.elapsed() > deadline {
                return Err(io::Error::other(format!("{text:?} is not in the log:\n{log}")));
            }
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs the program of `command` to completion and returns its output. Standard input is empty.
///
/// # Errors
/// Returns an error if the program cannot be started or exceeds `deadline`, after which it is
/// killed.
pub async fn output(command: &Command, deadline: Duration) -> io::Result<Output> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut bound = bind_to_this_process(command);
    bound.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut process = Process { child: spawn(bound)?, log: PathBuf::new() };
    let status = process.wait(deadline).await.ok_or_else(|| {
        io::Error::new(io::ErrorKind::TimedOut, format!("{command:?} did not finish within {deadline:?}"))
    })?;
    Ok(Output { status, stdout: read_back(&mut stdout)?, stderr: read_back(&mut stderr)? })
}

/// Runs the program of `command` to completion and returns its standard output.
///
/// # Errors
/// Returns all output if the program fails, or the reason if it cannot be run.
pub async fn text(command: &Command, deadline: Duration) -> Result<String, String> {
    let output = output(command, deadline).await.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout);
    if output.status.success() { Ok(printed) } else { Err(text(&output.stderr) + &printed) }
}

/// Returns a free port of 127.0.0.1, another one at each call of this process. Another process may
/// bind it first, so callers must be able to retry. The kernel assigns it to no other socket.
///
/// # Errors
/// Returns an error if no port is free.
pub fn free_port() -> io::Result<u16> {
    // Processes that run at the same time start at different ports.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let [low, high, ..] = std::process::id().wrapping_mul(61).to_le_bytes();
        AtomicU16::new(u16::from_le_bytes([low, high]))
    });
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// A temporary folder, removed when dropped and at the latest when this process ends.
pub struct Folder {
    path: PathBuf,
    remover: Child,
}

impl Folder {
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn create() -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix("ecs-retirement-").tempdir()?.keep();
        // Runs in its own process group: Ctrl-C at a terminal reaches the whole group, and the
        // remover must outlive it.
        let remover = Command::new("sh")
            .args(["-c", REMOVE_WHEN_INPUT_ENDS])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { path, remover })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // `wait` closes the remover's standard input first.
        self.remover.wait().ok();
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(formatter)
    }
}

fn bind_to_this_process(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", RUN_IF_PARENT_LIVES])
        .arg(std::process::id().to_string())
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

fn spawn(command: Command) -> io::Result<Child> {
    let (reply, spawned) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner thread runs");
    spawned.recv().expect("the spawner thread replies")
}

async fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if began.elapsed() > deadline {
            return None;
        }
        sleep(PAUSE).await;
    }
}

fn read_back(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
