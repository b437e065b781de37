//! The metrics of the process itself, with the names and meanings that they have in every Prometheus client library.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use procfs::{
    ProcError, WithCurrentSystemInfo, boot_time_secs,
    process::{LimitValue, Process},
    ticks_per_second,
};

const CPU: &str = "process_cpu_seconds_total";
const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const VIRTUAL_MEMORY: &str = "process_virtual_memory_bytes";
const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
const START_TIME: &str = "process_start_time_seconds";

pub(super) fn describe() {
    describe_counter!(CPU, Unit::Seconds, "Processor time used, by the user and the system.");
    describe_gauge!(OPEN_FDS, "Open file descriptors.");
    describe_gauge!(MAX_FDS, "File descriptors that may be open.");
    describe_gauge!(VIRTUAL_MEMORY, Unit::Bytes, "Virtual memory.");
    describe_gauge!(RESIDENT_MEMORY, Unit::Bytes, "Resident memory.");
    describe_gauge!(START_TIME, Unit::Seconds, "When the process started, since the Unix epoch.");
}

/// Updates the metrics. What `/proc` does not show stays as it was.
pub(super) fn measure() {
    if let Err(error) = read() {
        tracing::debug!(%error, "cannot read /proc/self");
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes and times stay far below 2^52")]
fn read() -> Result<(), ProcError> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    counter!(CPU).absolute((stat.utime + stat.stime) / ticks_per_second());
    gauge!(VIRTUAL_MEMORY).set(stat.vsize as f64);
    gauge!(RESIDENT_MEMORY).set(stat.rss_bytes().get() as f64);
    gauge!(START_TIME).set((boot_time_secs()? + stat.starttime / ticks_per_second()) as f64);
    gauge!(OPEN_FDS).set(process.fd_count()? as f64);
    let limit = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => limit as f64,
        LimitValue::Unlimited => f64::INFINITY,
    };
    gauge!(MAX_FDS).set(limit);
    Ok(())
}
