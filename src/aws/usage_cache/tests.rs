//! Tests of the usage cache, in paused Tokio time.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use aws_config::retry::RetryConfig;
use k8s_openapi::jiff::Timestamp;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use testkit::simulated_ecs::{ACCOUNT, Action, Cluster, Fault, SimulatedEcs, Task, in_process};
use tokio::time::sleep;

use super::*;
use crate::{aws::permit_queue::Pacing, clock::Clock, task_definition::Reference};

const REGION: &str = "us-west-2";

/// Rate of one permit per 100 s.
const PER_SECOND: f64 = 0.01;

struct Bench {
    ecs: SimulatedEcs,
    cluster: Cluster,
    cache: Arc<UsageCache>,
    deregistrations: Arc<RateLimiter>,
    is_active: Arc<AtomicBool>,
    woken: Arc<Mutex<Vec<String>>>,
}

fn key(name: &str) -> ResourceKey {
    ResourceKey { namespace: "platform".to_owned(), name: name.to_owned() }
}

fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("not an ARN") };
    arn
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

impl Bench {
    fn new() -> Self {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + began.elapsed());
        let time = clock.clone();
        let ecs = SimulatedEcs::in_process(move || time());
        let (is_active, woken) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::<Vec<String>>::default()));
        let (active, log) = (is_active.clone(), woken.clone());
        let requeue_trigger = RequeueTrigger(Arc::new(move |key: &ResourceKey| {
            log.lock().push(key.name.clone());
        }));
        let config = in_process::config(REGION, ecs.transport());
        let aws_clock = AwsClock::new(clock);
        let http_client = config.http_client().map(|client| aws_clock.observing(client));
        let mut config = config.to_builder();
        config.set_http_client(http_client).set_retry_config(Some(RetryConfig::disabled()));
        let config = config.build();
        let pacing = Pacing { per_second: PER_SECOND, burst: 1 };
        let deregistrations = RateLimiter::spawn("modify", ACCOUNT, REGION, pacing, requeue_trigger.clone());
        let is_active_fn: IsActive = Arc::new(move || active.load(SeqCst));
        let identity =
            Identity { partition: "aws".to_owned(), account: ACCOUNT.to_owned(), region: REGION.to_owned() };
        let permits = deregistrations.clone();
        let cache = Arc::new(UsageCache::new(&identity, permits, requeue_trigger, aws_clock));
        let (scanned, client) = (cache.clone(), Arc::new(Ecs::new(&config)));
        tokio::spawn(async move { scanned.scan_while_awaited(client, Arc::default(), is_active_fn).await });
        let cluster = ecs.region(ACCOUNT, REGION).cluster("prod");
        Self { ecs, cluster, cache, deregistrations, is_active, woken }
    }

    fn scans(&self) -> usize {
        self.ecs.calls_of(Action::ListClusters).len()
    }

    fn woken(&self) -> Vec<String> {
        let mut woken: Vec<String> = self.woken.lock().drain(..).collect();
        woken.sort();
        woken
    }

    /// Returns the usage of `web:1` that is reported to a resource.
    fn usage(&self, name: &str) -> &'static str {
        self.usage_for(name, Purpose::Report)
    }

    fn usage_for(&self, name: &str, purpose: Purpose) -> &'static str {
        match self.cache.subscribe(&key(name), &arn("web:1"), purpose) {
            None => "pending",
            Some(Use::Unused { .. }) => "unused",
            Some(Use::InUse(_)) => "in use",
            Some(Use::Unknown(_)) => "unknown",
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scan_starts_with_the_first_subscriber_and_serves_all() {
    let bench = Bench::new();
    seconds(300).await;
    assert_eq!(bench.scans(), 0);
    assert!(!bench.cache.is_first_scan_pending());
    assert_eq!((bench.usage("web"), bench.usage("other")), ("pending", "pending"));
    assert!(bench.cache.is_first_scan_pending());
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken()), (1, vec!["other".to_owned(), "web".to_owned()]));
    assert!(!bench.cache.is_first_scan_pending(), "the first scan is complete");
    assert_eq!((bench.usage("web"), bench.usage("other")), ("unused", "unused"));
}

#[tokio::test(start_paused = true)]
async fn scans_continue_while_a_resource_waits_and_wake_it_when_usage_changes() {
    let bench = Bench::new();
    bench.usage("web");
    seconds(1).await;
    assert_eq!((bench.woken().len(), bench.usage("web")), (1, "unused"));
    seconds(110).await;
    assert_eq!((bench.scans(), bench.woken().len()), (3, 0), "one scan per 55 s, and no change");
    bench.cluster.put_task(Task::running("a", "web:1"));
    seconds(55).await;
    assert_eq!((bench.woken(), bench.usage("web")), (vec!["web".to_owned()], "in use"));
    bench.cache.unsubscribe(&key("web"));
    let scans = bench.scans();
    seconds(300).await;
    assert_eq!(bench.scans(), scans, "no resource waits");
    assert_eq!(bench.usage("web"), "pending", "the result is stale");
}

#[tokio::test(start_paused = true)]
async fn long_cool_down_is_scanned_every_20_min_and_reports_tasks_that_stopped_meanwhile() {
    let bench = Bench::new();
    let cool_down = || Purpose::CoolDown { until: Instant::now() + Duration::from_hours(24) };
    assert_eq!(bench.usage_for("web", cool_down()), "pending");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken().len(), bench.usage_for("web", cool_down())), (1, 1, "unused"));
    seconds(3_700).await;
    assert_eq!((bench.scans(), bench.woken().len()), (4, 0));
    bench.cluster.put_task(Task::stopped("a", "web:1"));
    seconds(1_200).await;
    assert_eq!((bench.scans(), bench.woken().len(), bench.usage_for("web", cool_down())), (5, 1, "unused"));

    assert_eq!(bench.usage("other"), "pending", "stale for a report");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken()), (6, vec!["other".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn scans_are_frequent_only_while_a_permit_is_near() {
    let bench = Bench::new();
    bench.usage("web");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.usage("web")), (1, "unused"));
    assert!(bench.deregistrations.acquire(&key("web")).is_none());
    bench.cache.expect_permit(&key("web"));
    seconds(95).await;
    assert_eq!(bench.scans(), 2, "the permit is available after 100 s");
    seconds(5).await;
    assert_eq!(bench.scans(), 3);
    assert!(bench.deregistrations.has_permit(&key("web")));
    assert_eq!(bench.usage_for("web", Purpose::Deregister), "unused", "scanned right before the permit");
    seconds(60).await;
    assert!((7..=8).contains(&bench.scans()), "{}: one scan per 13 s", bench.scans());
    bench.deregistrations.leave(&key("web"));
    bench.usage("web");
    let scans = bench.scans();
    seconds(120).await;
    assert!(bench.scans() <= scans + 3, "{}", bench.scans());
}

#[tokio::test(start_paused = true)]
async fn permit_without_a_fresh_scan_triggers_a_scan_at_once() {
    let bench = Bench::new();
    bench.usage("web");
    seconds(1).await;
    bench.usage("web");
    bench.woken();
    seconds(30).await;
    assert_eq!((bench.usage("web"), bench.scans()), ("unused", 1));
    bench.deregistrations.acquire_unqueued();
    seconds(200).await;
    let scans = bench.scans();
    seconds(25).await;
    let permit = bench.deregistrations.acquire(&key("web")).expect("permit is granted");
    assert_eq!(bench.usage_for("web", Purpose::Deregister), "pending");
    permit.keep(&key("web"));
    bench.woken();
    seconds(1).await;
    assert_eq!((bench.scans() > scans, bench.woken()), (true, vec!["web".to_owned()]));
    assert_eq!(bench.usage_for("web", Purpose::Deregister), "unused");
    assert!(bench.deregistrations.acquire(&key("web")).is_some(), "the permit was kept");
}

#[tokio::test(start_paused = true)]
async fn inactive_process_does_not_scan() {
    let bench = Bench::new();
    bench.is_active.store(false, SeqCst);
    bench.usage("web");
    seconds(300).await;
    assert_eq!(bench.scans(), 0);
    assert!(!bench.cache.is_first_scan_pending(), "the leader serves the waiting resources");
}

#[tokio::test(start_paused = true)]
async fn revision_is_invalidated_once_for_each_other_waiting_resource() {
    let bench = Bench::new();
    for (name, revision) in [("web", "web:1"), ("same", "web:1"), ("gone", "web:1"), ("other", "web:2")] {
        bench.usage(name);
        bench.cache.unsubscribe(&key(name));
        assert_eq!(bench.cache.subscribe(&key(name), &arn(revision), Purpose::Report), None);
    }
    bench.cache.invalidate(&key("web"), &arn("web:1"));
    assert_eq!(bench.woken(), ["gone", "same"]);
    bench.cache.forget(&key("gone"));
    for (name, is_invalidated) in
        [("web", false), ("same", true), ("same", false), ("gone", false), ("other", false)]
    {
        assert_eq!(bench.cache.take_invalidated(&key(name), &arn("web:1")), is_invalidated, "{name}");
    }
    for name in ["web", "same", "other"] {
        bench.cache.forget(&key(name));
    }
    assert!(!bench.cache.is_first_scan_pending());
}

/// Returns the value of a series, or `None` if there is none.
fn value(recorder: &PrometheusRecorder, series: &str) -> Option<f64> {
    let text = recorder.handle().render();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(start_paused = true)]
async fn metrics_report_scans_and_the_age_of_the_usage() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new();
    let age = || {
        measure(std::slice::from_ref(&bench.cache));
        value(&recorder, "ecs_retirement_usage_age_seconds{account=\"012345678910\",region=\"us-west-2\"}")
    };
    assert_eq!(age(), Some(0.0));
    bench.ecs.fault(Fault::on(Action::ListClusters).times(1).access_denied());
    bench.usage("web");
    seconds(1).await;
    assert_eq!(bench.usage("web"), "unknown");
    seconds(5).await;
    let scans = |result| {
        value(
            &recorder,
            &format!("{SCANS}{{account=\"012345678910\",region=\"us-west-2\",result=\"{result}\"}}"),
        )
    };
    assert_eq!((scans("error"), scans("success")), (Some(1.0), Some(1.0)));
    assert_eq!(
        value(&recorder, &format!("{SCAN_SECONDS}_count{{account=\"012345678910\",region=\"us-west-2\"}}")),
        Some(2.0)
    );
    seconds(10).await;
    assert!(age().is_some_and(|age| (10.0..12.0).contains(&age)), "{:?}", age());
    bench.cache.unsubscribe(&key("web"));
    assert_eq!(age(), Some(0.0), "no resource waits");
}
