//! `bench [NAME...] [--large]`: measures the release binary against its goals, on a real API server
//! and a simulated ECS.
//!
//! Without names, measures everything, which takes about 13 minutes, and writes the tables to
//! `docs/benchmarks.md`. With names, measures only those and prints them. Exits with 0 even if a
//! goal is missed.

mod accounts;
mod controller;
mod deploy;
mod latency;
mod machine;
mod paced;
mod peers;
mod policy;
mod report;
mod scale;
mod size;
mod stop;
mod world;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use self::{
    peers::Tool,
    report::{Peer, Report, Row},
    world::{Bench, Failure},
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");

/// The measurements, in this order. `paced` and `peers` run concurrently: they mostly wait.
const NAMES: [&str; 8] = ["size", "latency", "stop", "memory", "paced", "accounts", "policy", "scale"];

/// The measurement that must be requested.
const LARGE: &str = "--large";

#[tokio::main]
async fn main() -> ExitCode {
    let named: Vec<String> = env::args().skip(1).collect();
    match Box::pin(run(&named)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(named: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = named.iter().find(|name| *name != LARGE && !NAMES.contains(&name.as_str())) {
        return Err(format!("unknown name {unknown}: expected {} or {LARGE}", NAMES.join(", ")).into());
    }
    let is_whole = named.iter().all(|name| name == LARGE);
    let bench = Bench::start(released()?).await?;
    let mut report = Report { machine: machine::describe(&bench).await, notes: notes(), ..Report::default() };
    for name in NAMES.iter().filter(|name| is_whole || named.iter().any(|it| it == *name)) {
        let began = Instant::now();
        eprint!("bench: {name} ...");
        Box::pin(measure(name, &bench, &mut report)).await;
        eprintln!(" {} s", began.elapsed().as_secs());
    }
    if named.iter().any(|name| name == LARGE) {
        let rows = scale::memory(&bench, 100_000, 350).await;
        report.add("memory, 100000 final resources", rows);
    }
    print!("{}", report.markdown());
    if is_whole {
        report.write(Path::new(DOCUMENT))?;
    }
    Ok(())
}

async fn measure(name: &str, bench: &Bench, report: &mut Report) {
    match name {
        "size" => report.add(name, size::measure(bench)),
        "latency" => report.add(name, latency::measure(bench).await),
        "stop" => report.add(name, stop::measure(bench).await),
        "memory" => {
            report.add("memory, idle", scale::memory(bench, 0, 13).await);
            report.add("memory, 1000 final resources", scale::memory(bench, 1000, 18).await);
        }
        "paced" => {
            let (alone, beside, by_loop, by_retries, by_requeue) = tokio::join!(
                paced::alone(bench),
                paced::beside_a_deploy(bench),
                peers::measure(Tool::Loop),
                peers::measure(Tool::SdkRetries),
                peers::measure(Tool::Requeue),
            );
            for (what, outcome) in [("alone on the bucket", alone), ("beside a deploy", beside)] {
                match outcome {
                    Ok((rows, peer)) => {
                        report.rows.extend(rows);
                        report.peers.push(peer);
                    }
                    Err(error) => report.rows.push(Row::not_measured(what, &error)),
                }
            }
            for peer in [by_loop, by_retries, by_requeue] {
                report.peers.push(peer.unwrap_or_else(|error| Peer {
                    name: format!("not measured: {error}"),
                    alone: String::new(),
                    beside: String::new(),
                }));
            }
        }
        "accounts" => report.add(name, accounts::measure(bench).await),
        "policy" => report.add(name, policy::measure(bench).await),
        _ => report.add(name, scale::restart(bench, 10_000).await),
    }
}

/// Returns the path of the release binary, in the target folder of this program.
fn released() -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).ok_or("this program is not in a target folder")?;
    let binary = target.join("rootfs/ecs-retirement-controller");
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("{} is missing: run `make bench`", binary.display()).into())
    }
}

fn notes() -> String {
    format!(
        "ECS's token buckets run at {} times real time for this controller, with its rate raised by the same \
         factor, and at {} times real time for the other tools, with their pauses shortened by the same \
         factor. In {} accounts they run at {} times real time, and for policies at real time. Seconds are on \
         the clock of the buckets.",
        paced::SPEED,
        peers::SPEED,
        accounts::ACCOUNTS,
        accounts::SPEED
    )
}
