//! The process metrics, with the names and meanings of the Prometheus client libraries.

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
    describe_counter!(CPU, Unit::Seconds, "User and system CPU time.");
    describe_gauge!(OPEN_FDS, "Number of open file descriptors.");
    describe_gauge!(MAX_FDS, "Maximum number of open file descriptors.");
    describe_gauge!(VIRTUAL_MEMORY, Unit::Bytes, "Virtual memory size.");
    describe_gauge!(RESIDENT_MEMORY, Unit::Bytes, "Resident memory size.");
    describe_gauge!(START_TIME, Unit::Seconds, "Start time of the process since the Unix epoch.");
}

/// Updates the metrics. Values that `/proc` does not provide keep their last value.
pub(super) fn measure() {
    if let Err(error) = update() {
        tracing::debug!(%error, "cannot read /proc/self");
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes and times stay far below 2^52")]
fn update() -> Result<(), ProcError> {
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
