//! Programs, folders and ports that last no longer than the process that asked for them, however that process ends.

use std::{
    fmt, fs,
    io::{self, Read, Seek},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::time::sleep;

/// All else stays behind: a proxy, a kubeconfig or an AWS profile of the developer's own must not reach a test.
const INHERITED: [&str; 4] = ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// A parent that dies before `setpriv` has done its work sends no signal; its child then has another parent already.
const RUN_IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

const REMOVE_WHEN_INPUT_ENDS: &str = r#"cat; for _ in 1 2 3 4 5; do rm -rf -- "$0" && exit; sleep 1; done"#;

const PAUSE: Duration = Duration::from_millis(10);

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The kernel ends a child with the thread that started it, not with the process; this thread lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in inbox {
                reply.send(command.spawn()).ok();
            }
        })
        .expect("the system has room for one more thread");
    orders
});

/// A running program; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program of `command` with its arguments, its folder and its environment, which holds what
    /// `command` sets and little else. What the program prints goes to the file `log`; its input stays open.
    ///
    /// # Errors
    /// The log cannot be written, or the system starts no more processes. That a program does not exist is seen later, in
    /// its status 127 and its log.
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

    /// What the program has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal`, unless the program has ended: its number may be another's by now.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.is_running() {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// Ends the program as a power cut would, stopped or not, and returns when it has ended.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Closes the program's input, for those that take it as their sign to leave.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// The status the program ends with, or none when it still runs after `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, deadline).await
    }

    /// Waits until the program has printed `text`.
    ///
    /// # Errors
    /// It ended, or `deadline` passed; the error holds what it printed instead.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) -> io::Result<()> {
        let began = Instant::now();
        loop {
            // Asked first: what a program printed just before its end must count.
            let running = self.is_running();
            let log = self.log();
            if log.contains(text) {
                return Ok(());
            }
            if !running || began.elapsed() > deadline {
                return Err(io::Error::other(format!("{text:?} was not printed, but:\n{log}")));
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

/// Runs the program of `command` to its end and returns what it printed; its input is empty.
///
/// # Errors
/// It cannot be started, or runs longer than `deadline` and is ended.
pub async fn output(command: &Command, deadline: Duration) -> io::Result<Output> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut bound = bind_to_this_process(command);
    bound.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut process = Process { child: spawn(bound)?, log: PathBuf::new() };
    let status = process.wait(deadline).await.ok_or_else(|| {
        io::Error::new(io::ErrorKind::TimedOut, format!("{command:?} still ran after {deadline:?}"))
    })?;
    Ok(Output { status, stdout: read_back(&mut stdout)?, stderr: read_back(&mut stderr)? })
}

/// Runs the program of `command` to its end and returns its standard output.
///
/// # Errors
/// All that it printed, where it failed, or why it could not run.
pub async fn text(command: &Command, deadline: Duration) -> Result<String, String> {
    let output = output(command, deadline).await.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout);
    if output.status.success() { Ok(printed) } else { Err(text(&output.stderr) + &printed) }
}

/// A port of 127.0.0.1 that nobody listens on. Another may take it first: who binds it must be ready to ask again.
///
/// # Errors
/// The system has none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A folder that is removed when it is dropped or, at the latest, when this process ends.
pub struct Folder {
    path: PathBuf,
    remover: Child,
}

impl Folder {
    /// # Errors
    /// The folder for temporary files takes no more.
    pub fn create() -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix("ecs-retirement-").tempdir()?.keep();
        // In a group of its own, since Ctrl-C at a terminal reaches the whole group and this one must outlive it.
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
        // Waiting closes the remover's input first.
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
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner lives as long as the process");
    answer.recv().expect("the spawner answers each order")
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
