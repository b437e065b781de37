//! A process that runs the kstatus library, which GitOps tools use to decide whether an object is
//! ready.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::tools;

/// Returns the status that kstatus computes for a Kubernetes object, such as `InProgress`. One
/// process, started at the first call, serves all callers.
///
/// # Errors
/// Returns an error if kstatus is not installed, if it ended, or if it cannot compute the status of
/// `object`.
pub fn status(object: &impl Serialize) -> io::Result<String> {
    static SHARED: Mutex<Option<Kstatus>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kstatus = match shared.take() {
        Some(kstatus) => kstatus,
        None => Kstatus::start()?,
    };
    let line = kstatus.line(object)?;
    *shared = Some(kstatus);
    match line.strip_prefix("error: ") {
        None => Ok(line),
        Some(error) => Err(io::Error::other(format!("kstatus: {error}"))),
    }
}

/// The kstatus process. It ends when its input closes, so it cannot outlive this process.
struct Kstatus {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kstatus {
    fn start() -> io::Result<Self> {
        let mut command = Command::new(tools::find("kstatus")?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.expect("both streams are piped");
        Ok(Self { _child: child, input, output: BufReader::new(output) })
    }

    /// Sends an object and returns the response line.
    fn line(&mut self, object: &impl Serialize) -> io::Result<String> {
        serde_json::to_writer(&mut self.input, object)?;
        self.input.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "kstatus ended"));
        }
        Ok(line.trim_end().to_owned())
    }
}
