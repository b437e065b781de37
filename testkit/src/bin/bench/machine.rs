//! Describes the machine and the versions of the programs.

use std::{fs, path::Path, process::Command, thread::available_parallelism, time::Duration};

use testkit::{process, tools};

use crate::world::Bench;

const DEADLINE: Duration = Duration::from_secs(10);

pub async fn describe(bench: &Bench) -> String {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let cores = available_parallelism().map_or(0, usize::from);
    let memory = field_of("/proc/meminfo", "MemTotal:");
    let kibibytes: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let processor = field_of("/proc/cpuinfo", "model name");
    let server = match (tools::find("kube-apiserver"), tools::find("etcd")) {
        (Ok(server), Ok(etcd)) => {
            format!(
                "{}, {}",
                version(&server).await.replace("Kubernetes", "kube-apiserver"),
                version(&etcd).await
            )
        }
        _ => String::new(),
    };
    format!(
        "Measured on {date}: {cores} cores ({}), {:.0} GB of memory, Linux; {}, {server}; {}.",
        processor.trim_start_matches(':').trim(),
        kibibytes * 1024.0 / 1e9,
        version(&bench.binary).await,
        version(Path::new("rustc")).await,
    )
}

/// Returns the rest of the first line that begins with `field`.
fn field_of(file: &str, field: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    rest.trim().to_owned()
}

/// Returns the first line of `program --version`, without the part in parentheses.
async fn version(program: &Path) -> String {
    let printed = process::output(Command::new(program).arg("--version"), DEADLINE).await;
    let printed =
        printed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = printed.lines().next().unwrap_or_default();
    line.split(" (").next().unwrap_or_default().replace("Version: ", "")
}
