//! Metrics of reconciles and workqueues, by kind, with the names of controller-runtime.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;

use crate::controller::{
    Kind,
    workqueue::{Queue, WORKQUEUE_ADDS, WORKQUEUE_QUEUE_SECONDS, WORKQUEUE_RETRIES, WORKQUEUE_WORK_SECONDS},
};

pub const RECONCILE_TOTAL: &str = "controller_runtime_reconcile_total";
pub const RECONCILE_ERRORS: &str = "controller_runtime_reconcile_errors_total";
pub const RECONCILE_PANICS: &str = "controller_runtime_reconcile_panics_total";
pub const RECONCILE_SECONDS: &str = "controller_runtime_reconcile_time_seconds";
pub const ACTIVE_WORKERS: &str = "controller_runtime_active_workers";
pub const MAX_CONCURRENT: &str = "controller_runtime_max_concurrent_reconciles";
pub const WORKQUEUE_DEPTH: &str = "workqueue_depth";
pub const WORKQUEUE_UNFINISHED: &str = "workqueue_unfinished_work_seconds";
pub const WORKQUEUE_LONGEST: &str = "workqueue_longest_running_processor_seconds";

/// Upper bounds of the workqueue histograms, in seconds, as in controller-runtime.
/// Source: `pkg/metrics/workqueue.go` of sigs.k8s.io/controller-runtime,
/// `ExponentialBuckets(10e-9, 10, 12)`.
pub const WORKQUEUE_BUCKETS: [f64; 12] =
    [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// The result of a reconcile, for the label `result`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconcileResult {
    Success,
    RequeueAfter,
    Error,
    Panic,
}

/// A reconcile in progress, until dropped.
#[derive(Debug)]
pub struct Worker {
    controller: &'static str,
    began: Instant,
}

impl Worker {
    /// Begins a reconcile of a controller. Its name is the label `controller`.
    #[must_use]
    pub fn begin(controller: &'static str) -> Self {
        gauge!(ACTIVE_WORKERS, "controller" => controller).increment(1);
        Self { controller, began: Instant::now() }
    }

    pub fn end(self, result: ReconcileResult) {
        let label = match result {
            ReconcileResult::Success => "success",
            ReconcileResult::RequeueAfter => "requeue_after",
            ReconcileResult::Error | ReconcileResult::Panic => "error",
        };
        let controller = self.controller;
        counter!(RECONCILE_TOTAL, "controller" => controller, "result" => label).increment(1);
        counter!(RECONCILE_ERRORS, "controller" => controller).increment(u64::from(label == "error"));
        counter!(RECONCILE_PANICS, "controller" => controller)
            .increment(u64::from(result == ReconcileResult::Panic));
        histogram!(RECONCILE_SECONDS, "controller" => controller).record(self.began.elapsed());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        gauge!(ACTIVE_WORKERS, "controller" => self.controller).decrement(1);
    }
}

/// Describes the metrics.
pub fn describe() {
    describe_counter!(RECONCILE_TOTAL, "Reconciles, by result.");
    describe_counter!(
        RECONCILE_ERRORS,
        "Reconciles that failed on the Kubernetes API or panicked (AWS errors excluded)."
    );
    describe_counter!(RECONCILE_PANICS, "Reconciles that panicked.");
    describe_histogram!(RECONCILE_SECONDS, Unit::Seconds, "Duration of reconciles.");
    describe_gauge!(ACTIVE_WORKERS, "Reconciles in progress.");
    describe_gauge!(MAX_CONCURRENT, "Maximum number of concurrent reconciles.");
    describe_gauge!(WORKQUEUE_DEPTH, "Resources that are due for a reconcile and wait for a worker.");
    describe_counter!(WORKQUEUE_ADDS, "Reconciles that were scheduled.");
    describe_counter!(WORKQUEUE_RETRIES, "Reconciles that were scheduled because the last one failed.");
    describe_histogram!(
        WORKQUEUE_QUEUE_SECONDS,
        Unit::Seconds,
        "Time that due resources waited for a worker."
    );
    describe_histogram!(WORKQUEUE_WORK_SECONDS, Unit::Seconds, "Duration of reconciles.");
    describe_gauge!(
        WORKQUEUE_UNFINISHED,
        Unit::Seconds,
        "Total time spent so far in the reconciles in progress. A value that keeps growing means that some are stuck."
    );
    describe_gauge!(WORKQUEUE_LONGEST, Unit::Seconds, "Time spent so far in the longest-running reconcile.");
}

/// Sets the metrics of a controller that must exist before its first reconcile.
pub fn initialize<K: Kind>(concurrency: u16) {
    for counter in [RECONCILE_ERRORS, RECONCILE_PANICS] {
        counter!(counter, "controller" => K::CONTROLLER).absolute(0);
    }
    counter!(WORKQUEUE_RETRIES, "name" => K::CONTROLLER).absolute(0);
    gauge!(ACTIVE_WORKERS, "controller" => K::CONTROLLER).set(0);
    gauge!(MAX_CONCURRENT, "controller" => K::CONTROLLER).set(concurrency);
}

/// Updates the gauges of a workqueue.
pub fn measure<K: Kind>(queue: &Queue<K>, now: Instant) {
    let unfinished = queue.unfinished(now);
    let longest = unfinished.iter().max().copied().unwrap_or_default();
    let depth = u32::try_from(queue.depth(now)).unwrap_or(u32::MAX);
    gauge!(WORKQUEUE_DEPTH, "name" => K::CONTROLLER).set(depth);
    gauge!(WORKQUEUE_UNFINISHED, "name" => K::CONTROLLER)
        .set(unfinished.iter().sum::<Duration>().as_secs_f64());
    gauge!(WORKQUEUE_LONGEST, "name" => K::CONTROLLER).set(longest.as_secs_f64());
}
