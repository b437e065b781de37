//! The metrics: names, help texts, and the values that are computed at each scrape.
//!
//! Metrics that exist in controller-runtime have the same names here, so that its dashboards work.
//! No label holds the name of a resource, a family or a user.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use k8s_openapi::jiff::Timestamp;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use strum::VariantArray;
use tokio::time::Instant;

#[cfg(target_os = "linux")]
use crate::runtime::process;
use crate::{
    CONTROLLER,
    api::{
        Reason, TaskDefinitionRetirement,
        conditions::{READY, RECONCILING, STALLED},
    },
    aws::{
        ecs_client::{AWS_CALL_SECONDS, AWS_CALLS},
        rate_limiter::{RATE, TOKENS, WAITING},
        response_clock::CLOCK_SKEW,
        usage_cache::{AGE, SCAN_SECONDS, SCANS},
    },
    runtime::{
        controllers::{Cache, Shared},
        kubernetes::REST_CLIENT_REQUESTS,
        leader_election::Leadership,
        workqueue::Queue,
    },
};

const RECONCILE_TOTAL: &str = "controller_runtime_reconcile_total";
const RECONCILE_ERRORS: &str = "controller_runtime_reconcile_errors_total";
const RECONCILE_PANICS: &str = "controller_runtime_reconcile_panics_total";
const RECONCILE_SECONDS: &str = "controller_runtime_reconcile_time_seconds";
const ACTIVE_WORKERS: &str = "controller_runtime_active_workers";
const MAX_CONCURRENT: &str = "controller_runtime_max_concurrent_reconciles";
const WORKQUEUE_DEPTH: &str = "workqueue_depth";
pub(super) const WORKQUEUE_ADDS: &str = "workqueue_adds_total";
pub(super) const WORKQUEUE_RETRIES: &str = "workqueue_retries_total";
pub(super) const WORKQUEUE_QUEUE_SECONDS: &str = "workqueue_queue_duration_seconds";
pub(super) const WORKQUEUE_WORK_SECONDS: &str = "workqueue_work_duration_seconds";
const WORKQUEUE_UNFINISHED: &str = "workqueue_unfinished_work_seconds";
const WORKQUEUE_LONGEST: &str = "workqueue_longest_running_processor_seconds";
const LEADER: &str = "leader_election_master_status";
const REVISIONS: &str = "ecs_retirement_revisions";
const RESOURCES: &str = "ecs_retirement_resources";
const OLDEST_WAITING: &str = "ecs_retirement_oldest_waiting_seconds";
const BUILD_INFO: &str = "ecs_retirement_build_info";

/// The value of the labels `controller` and `name`, which controller-runtime derives from the kind.
pub(super) const KIND: &str = "taskdefinitionretirement";

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of the workqueue histograms, in seconds, as in controller-runtime.
/// Source: `pkg/metrics/workqueue.go` of sigs.k8s.io/controller-runtime,
/// `ExponentialBuckets(10e-9, 10, 12)`.
const WORKQUEUE_BUCKETS: [f64; 12] =
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
    began: Instant,
}

impl Worker {
    #[must_use]
    pub fn begin() -> Self {
        gauge!(ACTIVE_WORKERS, "controller" => KIND).increment(1);
        Self { began: Instant::now() }
    }

    pub fn end(self, result: ReconcileResult) {
        let label = match result {
            ReconcileResult::Success => "success",
            ReconcileResult::RequeueAfter => "requeue_after",
            ReconcileResult::Error | ReconcileResult::Panic => "error",
        };
        counter!(RECONCILE_TOTAL, "controller" => KIND, "result" => label).increment(1);
        counter!(RECONCILE_ERRORS, "controller" => KIND).increment(u64::from(label == "error"));
        counter!(RECONCILE_PANICS, "controller" => KIND)
            .increment(u64::from(result == ReconcileResult::Panic));
        histogram!(RECONCILE_SECONDS, "controller" => KIND).record(self.began.elapsed());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        gauge!(ACTIVE_WORKERS, "controller" => KIND).decrement(1);
    }
}

/// Installs the metrics recorder of this process, and describes the metrics.
///
/// # Errors
/// Returns `BuildError` if a recorder is installed already.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    let workqueue = |name: &str| Matcher::Full(name.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .set_buckets_for_metric(workqueue(WORKQUEUE_QUEUE_SECONDS), &WORKQUEUE_BUCKETS)?
        .set_buckets_for_metric(workqueue(WORKQUEUE_WORK_SECONDS), &WORKQUEUE_BUCKETS)?
        .install_recorder()?;
    describe_workqueue();
    #[cfg(target_os = "linux")]
    process::describe();
    describe_counter!(RECONCILE_TOTAL, "Reconciles, by result.");
    describe_counter!(
        RECONCILE_ERRORS,
        "Reconciles that failed on the Kubernetes API or panicked (AWS errors excluded)."
    );
    describe_counter!(RECONCILE_PANICS, "Reconciles that panicked.");
    describe_histogram!(RECONCILE_SECONDS, Unit::Seconds, "Duration of reconciles.");
    describe_gauge!(ACTIVE_WORKERS, "Reconciles in progress.");
    describe_gauge!(MAX_CONCURRENT, "Maximum number of concurrent reconciles.");
    describe_gauge!(LEADER, "1 while this replica is the leader, 0 while it is a standby.");
    describe_counter!(REST_CLIENT_REQUESTS, "Requests to the API server, by method and status code.");
    describe_counter!(AWS_CALLS, "Calls to AWS, by operation and code: OK, the AWS error code, or NoAnswer.");
    describe_histogram!(AWS_CALL_SECONDS, Unit::Seconds, "Duration of calls to AWS.");
    describe_gauge!(TOKENS, "Available tokens of the rate limiter, by region and bucket of ECS.");
    describe_gauge!(
        RATE,
        "Current rate limit in calls per second, by region and bucket: lower than configured while backing off from throttling."
    );
    describe_gauge!(WAITING, "Resources that wait for a permit, by region and bucket.");
    describe_counter!(SCANS, "Usage scans, by region and result.");
    describe_histogram!(SCAN_SECONDS, Unit::Seconds, "Duration of usage scans.");
    describe_gauge!(
        AGE,
        Unit::Seconds,
        "Age of the last usage scan, by region; 0 while no resource waits for it."
    );
    describe_gauge!(
        CLOCK_SKEW,
        Unit::Seconds,
        "How far the clock of this pod is ahead of AWS's; negative if it is behind. Absent until AWS has reported the time."
    );
    describe_gauge!(REVISIONS, "Declared revisions, by reason. Exported by the leader only.");
    describe_gauge!(
        RESOURCES,
        "Resources, by condition: Ready, Reconciling, Stalled, or Held (on hold: suspended or a dry run). Exported by the leader only."
    );
    describe_gauge!(
        OLDEST_WAITING,
        Unit::Seconds,
        "Time for which the oldest resource that is not on hold has not been Ready. Exported by the leader only."
    );
    describe_gauge!(BUILD_INFO, "Always 1, with the version as a label.");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    for counter in [RECONCILE_ERRORS, RECONCILE_PANICS] {
        counter!(counter, "controller" => KIND).absolute(0);
    }
    counter!(WORKQUEUE_RETRIES, "name" => KIND).absolute(0);
    gauge!(ACTIVE_WORKERS, "controller" => KIND).set(0);
    Ok(handle)
}

fn describe_workqueue() {
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

/// Returns the router of `/metrics`.
pub fn router(
    handle: PrometheusHandle,
    concurrency: u16,
    caches: Vec<Cache>,
    shared: Arc<Shared>,
    leadership: Arc<Leadership>,
) -> Router {
    gauge!(MAX_CONCURRENT, "controller" => KIND).set(concurrency);
    let metrics = move || {
        measure_workqueue(&shared.queue, Instant::now());
        #[cfg(target_os = "linux")]
        process::measure();
        gauge!(LEADER, "name" => CONTROLLER).set(u8::from(leadership.is_held()));
        shared.context.sources.measure();
        measure_resources(&caches, leadership.is_held());
        handle.run_upkeep();
        let text = handle.render();
        async move { ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Router::new().route("/metrics", get(metrics))
}

fn measure_workqueue(queue: &Queue, now: Instant) {
    let unfinished = queue.unfinished(now);
    let longest = unfinished.iter().max().copied().unwrap_or_default();
    gauge!(WORKQUEUE_DEPTH, "name" => KIND).set(as_float(queue.depth(now)));
    gauge!(WORKQUEUE_UNFINISHED, "name" => KIND).set(unfinished.iter().sum::<Duration>().as_secs_f64());
    gauge!(WORKQUEUE_LONGEST, "name" => KIND).set(longest.as_secs_f64());
}

/// Updates the gauges of the cached resources. A standby exports zeros, so that sums over replicas
/// do not count a resource twice.
fn measure_resources(caches: &[Cache], is_leader: bool) {
    let objects = caches.iter().flat_map(Cache::state).filter(|_| is_leader);
    let (mut revisions, mut resources) = (BTreeMap::new(), BTreeMap::new());
    let (mut oldest, now) = (0, Timestamp::now());
    for reason in Reason::VARIANTS {
        revisions.insert(reason.as_str(), 0_usize);
    }
    for condition in [READY, RECONCILING, STALLED, ON_HOLD] {
        resources.insert(condition, 0_usize);
    }
    for object in objects {
        let Ok(resource) = &object.0 else { continue };
        let condition = condition_label(resource);
        *resources.entry(condition).or_default() += 1;
        if condition == RECONCILING || condition == STALLED {
            oldest = oldest.max(waiting_seconds(resource, now));
        }
        for row in resource.status.iter().flat_map(|status| &status.revisions) {
            *revisions.entry(row.reason.as_str()).or_default() += 1;
        }
    }
    for (reason, count) in revisions {
        gauge!(REVISIONS, "reason" => reason).set(as_float(count));
    }
    for (condition, count) in resources {
        gauge!(RESOURCES, "condition" => condition).set(as_float(count));
    }
    gauge!(OLDEST_WAITING).set(as_float(usize::try_from(oldest).unwrap_or_default()));
}

/// The label of a resource for which none of the conditions is true: it is suspended or a dry run.
const ON_HOLD: &str = "Held";

fn condition_label(resource: &TaskDefinitionRetirement) -> &'static str {
    let Some(status) = &resource.status else { return RECONCILING };
    let is_true = |type_: &str| status.conditions.iter().any(|it| it.type_ == type_ && it.status == "True");
    [READY, RECONCILING, STALLED].into_iter().find(|type_| is_true(type_)).unwrap_or(ON_HOLD)
}

fn waiting_seconds(resource: &TaskDefinitionRetirement, now: Timestamp) -> i64 {
    let conditions = resource.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.filter(|it| it.type_ == READY).map(|it| it.last_transition_time.0);
    ready.map(|since| now.duration_since(since).as_secs()).max().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}
