//! `control-plane [FILE]`: a real API server and a simulated ECS, for as long as standard input stays open.
//!
//! When both are ready, one line of `NAME=value` pairs that tell kubectl, the controller and the AWS command line where
//! they are goes to FILE, or else to standard output. It stays until its input closes or SIGINT or SIGTERM comes, and
//! leaves nothing behind.

use std::{
    env, fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use testkit::{
    control_plane::ControlPlane,
    emulator::{Emulator, Product},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

#[tokio::main]
async fn main() -> ExitCode {
    match run(env::args_os().nth(1).map(PathBuf::from)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(file: Option<PathBuf>) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let serve = async {
        let (plane, moto) = tokio::try_join!(ControlPlane::start(), Emulator::start(Product::Moto))?;
        announce(file, &line(&plane, &moto))?;
        // Kept until the caller lets go of this future.
        std::future::pending::<()>().await;
        drop((plane, moto));
        Ok(())
    };
    tokio::select! {
        outcome = serve => outcome,
        _ = input_closed() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn line(plane: &ControlPlane, moto: &Emulator) -> String {
    let mut words = vec![
        format!("KUBECONFIG={}", plane.kubeconfig().display()),
        format!("KUBERNETES_URL={}", plane.url()),
    ];
    words.extend(moto.environment().map(|(name, value)| format!("{name}={value}")));
    words.join(" ")
}

/// A reader of the file sees the whole line or no file.
fn announce(file: Option<PathBuf>, line: &str) -> io::Result<()> {
    let Some(file) = file else {
        return writeln!(io::stdout(), "{line}");
    };
    let unfinished = file.with_added_extension("new");
    fs::write(&unfinished, format!("{line}\n"))?;
    fs::rename(unfinished, file)
}

/// On a thread of its own, since one that waits for input would keep the runtime from ending.
fn input_closed() -> oneshot::Receiver<()> {
    let (closed, told) = oneshot::channel();
    thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        closed.send(()).ok();
    });
    told
}
