//! The metrics: names, help texts, and the values that are computed at each scrape.
//!
//! Metrics that exist in controller-runtime have the same names here, so that its dashboards work.
//! Labels hold the names of EcsAccounts and policies, but of no retirement, family or user.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use axum::{Router, routing::get};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use strum::VariantArray;
use tokio::time::Instant;

#[cfg(target_os = "linux")]
use crate::runtime::process;
use crate::{
    CONTROLLER,
    account::store::{Accounts, Missing},
    api::{
        EcsAccount, Reason, TaskDefinitionRetentionPolicy, TaskDefinitionRetirement,
        conditions::{READY, RECONCILING, STALLED},
    },
    aws::{
        ecs_client::{AWS_CALL_SECONDS, AWS_CALLS},
        rate_limiter::{RATE, TOKENS, WAITING},
        response_clock::CLOCK_SKEW,
        usage_cache::{AGE, SCAN_SECONDS, SCANS},
    },
    controller::{
        Cache,
        metrics::{self as controller_metrics, WORKQUEUE_BUCKETS},
        workqueue::{WORKQUEUE_QUEUE_SECONDS, WORKQUEUE_WORK_SECONDS},
    },
    runtime::{
        kubernetes::REST_CLIENT_REQUESTS,
        policy_metrics::{self, Exported},
        replica::{ACCOUNT_CONCURRENCY, POLICY_CONCURRENCY, Replica},
    },
};

const LEADER: &str = "leader_election_master_status";
const REVISIONS: &str = "ecs_retirement_revisions";
const RESOURCES: &str = "ecs_retirement_resources";
const OLDEST_WAITING: &str = "ecs_retirement_oldest_waiting_seconds";
const ACCOUNT_READY: &str = "ecs_retirement_account_ready";
const BUILD_INFO: &str = "ecs_retirement_build_info";

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

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
    controller_metrics::describe();
    policy_metrics::describe();
    #[cfg(target_os = "linux")]
    process::describe();
    describe_gauge!(LEADER, "1 while this replica is the leader, 0 while it is a standby.");
    describe_counter!(REST_CLIENT_REQUESTS, "Requests to the API server, by method and status code.");
    describe_counter!(AWS_CALLS, "Calls to AWS, by operation and code: OK, the AWS error code, or NoAnswer.");
    describe_histogram!(AWS_CALL_SECONDS, Unit::Seconds, "Duration of calls to AWS.");
    describe_gauge!(TOKENS, "Available tokens of the rate limiter, by account, region and bucket of ECS.");
    describe_gauge!(
        RATE,
        "Current rate limit in calls per second, by account, region and bucket: lower than configured while backing off from throttling."
    );
    describe_gauge!(WAITING, "Resources that wait for a permit, by account, region and bucket.");
    describe_counter!(SCANS, "Usage scans, by account, region and result.");
    describe_histogram!(SCAN_SECONDS, Unit::Seconds, "Duration of usage scans.");
    describe_gauge!(
        AGE,
        Unit::Seconds,
        "Age of the last usage scan, by account and region; 0 while no resource waits for it."
    );
    describe_gauge!(
        CLOCK_SKEW,
        Unit::Seconds,
        "How far the clock of this pod is ahead of AWS's; negative if it is behind. Absent until AWS has reported the time."
    );
    describe_gauge!(REVISIONS, "Declared revisions, by reason. 0 on a standby.");
    describe_gauge!(
        RESOURCES,
        "Resources, by condition: Ready, Reconciling, Stalled, or OnHold (suspended or a dry run). 0 on a standby."
    );
    describe_gauge!(
        OLDEST_WAITING,
        Unit::Seconds,
        "Time for which the oldest resource that is not on hold has not been Ready. 0 on a standby."
    );
    describe_gauge!(
        ACCOUNT_READY,
        "1 if the credentials of an EcsAccount are verified, or it was deleted, else 0, by account and name. Exported by the leader only."
    );
    describe_gauge!(BUILD_INFO, "Always 1, with the version as a label.");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(handle)
}

/// Returns the router of `/metrics`.
pub fn router(handle: PrometheusHandle, concurrency: u16, replica: &Replica) -> Router {
    controller_metrics::initialize::<TaskDefinitionRetirement>(concurrency);
    controller_metrics::initialize::<EcsAccount>(ACCOUNT_CONCURRENCY);
    controller_metrics::initialize::<TaskDefinitionRetentionPolicy>(POLICY_CONCURRENCY);
    let Replica { retirements, accounts, policies, leadership, caches, policy_caches, .. } = replica;
    let (retirements, accounts, policies) = (retirements.clone(), accounts.clone(), policies.clone());
    let policy_caches = policy_caches.clone();
    let (exported_accounts, exported_policies) =
        (Arc::new(Exported::default()), Arc::new(Exported::default()));
    let (leadership, caches) = (leadership.clone(), caches.clone());
    let metrics = move || {
        let (now, is_leader) = (Instant::now(), leadership.is_held());
        controller_metrics::measure(&retirements.queue, now);
        controller_metrics::measure(&accounts.queue, now);
        controller_metrics::measure(&policies.queue, now);
        #[cfg(target_os = "linux")]
        process::measure();
        gauge!(LEADER, "name" => CONTROLLER).set(u8::from(is_leader));
        retirements.context.sources.measure();
        measure_resources(&caches, is_leader);
        measure_accounts(&retirements.context.accounts, &exported_accounts, is_leader);
        policy_metrics::measure(&policy_caches, &caches, &exported_policies, is_leader);
        handle.run_upkeep();
        let text = handle.render();
        async move { ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Router::new().route("/metrics", get(metrics))
}

/// Updates the gauge of the EcsAccounts: 0 if its credentials are not verified. It is 1 for those
/// that were deleted, and on a standby.
fn measure_accounts(accounts: &Accounts, exported: &Exported, is_leader: bool) {
    let export = |(account, name): &(String, String), is_ready: bool| {
        let labels = [("account", account.clone()), ("name", name.clone())];
        gauge!(ACCOUNT_READY, &labels).set(u8::from(is_ready));
    };
    let mut current = HashSet::new();
    for object in accounts.all().iter().filter(|_| is_leader) {
        let Ok(account) = &object.0 else { continue };
        if matches!(accounts.validated(account), Err(Missing::ServedByOther(_) | Missing::NotFound(_))) {
            continue;
        }
        let conditions = account.status.iter().flat_map(|status| &status.conditions);
        let is_ready = conditions.into_iter().any(|it| it.type_ == READY && it.status == "True");
        let key = (account.spec.account_id.clone(), account.name_any());
        export(&key, is_ready);
        current.insert(key);
    }
    exported.replace(current).iter().for_each(|gone| export(gone, true));
}

/// Updates the gauges of the cached resources. A standby exports zeros, so that sums over replicas
/// do not count a resource twice.
fn measure_resources(caches: &[Cache<TaskDefinitionRetirement>], is_leader: bool) {
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
const ON_HOLD: &str = "OnHold";

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
