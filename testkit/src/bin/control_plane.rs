//! `control-plane [FILE]`: runs a real API server and an ECS emulator while standard input is open.
//!
//! When both are ready, writes one line of `NAME=value` pairs to FILE, or to standard output
//! without FILE. The pairs configure kubectl, the controller and the AWS command line. Runs until
//! standard input closes or SIGINT or SIGTERM arrives, and removes everything that it created.

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
        // Kept until the caller drops this future.
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

/// Writes atomically: a reader sees the whole line or no file.
fn announce(file: Option<PathBuf>, line: &str) -> io::Result<()> {
    let Some(file) = file else {
        return writeln!(io::stdout(), "{line}");
    };
    let unfinished = file.with_added_extension("new");
    fs::write(&unfinished, format!("{line}\n"))?;
    fs::rename(unfinished, file)
}

/// Waits on a separate thread: a blocked read would keep the runtime from shutting down.
fn input_closed() -> oneshot::Receiver<()> {
    let (closed, receiver) = oneshot::channel();
    thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        closed.send(()).ok();
    });
    receiver
}
