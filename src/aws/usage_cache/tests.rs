//! What resources are told of the use of revisions, by a clock that jumps to whatever is next.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use aws_config::retry::RetryConfig;
use k8s_openapi::jiff::Timestamp;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use testkit::simulated_ecs::{ACCOUNT, Action, Cluster, Fault, SimulatedEcs, Task, in_process};
use tokio::time::sleep;

use super::*;
use crate::{aws::permit_queue::Pacing, clock::Clock, task_definition::Reference};

const REGION: &str = "us-west-2";

/// One permit every 100 s.
const PER_SECOND: f64 = 0.01;

struct Bench {
    ecs: SimulatedEcs,
    cluster: Cluster,
    view: Arc<UsageCache>,
    deregistrations: Arc<RateLimiter>,
    is_active: Arc<AtomicBool>,
    woken: Arc<Mutex<Vec<String>>>,
}

fn key(name: &str) -> ResourceKey {
    ResourceKey { namespace: "platform".to_owned(), name: name.to_owned() }
}

fn arn(revision: &str) -> Arn {
    let text = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{revision}");
    let Ok(Reference::Arn(arn)) = text.parse() else { panic!("an ARN") };
    arn
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

impl Bench {
    fn begin() -> Self {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + began.elapsed());
        let time = clock.clone();
        let ecs = SimulatedEcs::in_process(move || time());
        let (is_active, woken) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::<Vec<String>>::default()));
        let (asked, told) = (is_active.clone(), woken.clone());
        let requeue_trigger = RequeueTrigger(Arc::new(move |key: &ResourceKey| {
            told.lock().expect("a list").push(key.name.clone())
        }));
        let config = in_process::config(REGION, ecs.transport());
        let aws_clock = AwsClock::new(clock);
        let http_client = config.http_client().map(|client| aws_clock.observing(client));
        let mut config = config.to_builder();
        config.set_http_client(http_client).set_retry_config(Some(RetryConfig::disabled()));
        let config = config.build();
        let pacing = Pacing { per_second: PER_SECOND, burst: 1 };
        let deregistrations = RateLimiter::begin("modify", REGION, pacing, requeue_trigger.clone());
        let may = Arc::new(move || asked.load(SeqCst));
        let view =
            UsageCache::begin(&config, REGION, deregistrations.clone(), requeue_trigger, may, aws_clock);
        let cluster = ecs.region(ACCOUNT, REGION).cluster("prod");
        Self { ecs, cluster, view, deregistrations, is_active, woken }
    }

    fn scans(&self) -> usize {
        self.ecs.calls_of(Action::ListClusters).len()
    }

    fn woken(&self) -> Vec<String> {
        let mut woken: Vec<String> = self.woken.lock().expect("a list").drain(..).collect();
        woken.sort();
        woken
    }

    /// What a resource is told of `web:1`.
    fn told(&self, name: &str) -> &'static str {
        self.told_for(name, Purpose::Report)
    }

    fn told_for(&self, name: &str, purpose: Purpose) -> &'static str {
        match self.view.of(&key(name), &arn("web:1"), purpose) {
            None => "nothing yet",
            Some(Use::Unused { .. }) => "nobody",
            Some(Use::InUse(_)) => "somebody",
            Some(Use::Unknown(_)) => "unknown",
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_scanned_until_somebody_asks_and_one_scan_serves_all() {
    let bench = Bench::begin();
    seconds(300).await;
    assert_eq!(bench.scans(), 0);
    assert!(!bench.view.is_first_scan_pending());
    assert_eq!((bench.told("web"), bench.told("other")), ("nothing yet", "nothing yet"));
    assert!(bench.view.is_first_scan_pending());
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken()), (1, vec!["other".to_owned(), "web".to_owned()]));
    assert!(!bench.view.is_first_scan_pending(), "it is known now");
    assert_eq!((bench.told("web"), bench.told("other")), ("nobody", "nobody"));
}

#[tokio::test(start_paused = true)]
async fn while_somebody_waits_scans_go_on_and_wake_whoever_has_something_to_learn() {
    let bench = Bench::begin();
    bench.told("web");
    seconds(1).await;
    assert_eq!((bench.woken().len(), bench.told("web")), (1, "nobody"));
    seconds(110).await;
    assert_eq!((bench.scans(), bench.woken().len()), (3, 0), "one each 55 s, and no news");
    bench.cluster.put_task(Task::running("a", "web:1"));
    seconds(55).await;
    assert_eq!((bench.woken(), bench.told("web")), (vec!["web".to_owned()], "somebody"));
    bench.view.leave(&key("web"));
    let scans = bench.scans();
    seconds(300).await;
    assert_eq!(bench.scans(), scans, "nobody waits any more");
    assert_eq!(bench.told("web"), "nothing yet", "what was known is too old");
}

#[tokio::test(start_paused = true)]
async fn a_long_cool_down_is_scanned_every_20_min_and_tells_of_tasks_that_stopped_meanwhile() {
    let bench = Bench::begin();
    let cool_down = || Purpose::CoolDown { until: Instant::now() + Duration::from_hours(24) };
    assert_eq!(bench.told_for("web", cool_down()), "nothing yet");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken().len(), bench.told_for("web", cool_down())), (1, 1, "nobody"));
    seconds(3_700).await;
    assert_eq!((bench.scans(), bench.woken().len()), (4, 0));
    bench.cluster.put_task(Task::stopped("a", "web:1"));
    seconds(1_200).await;
    assert_eq!((bench.scans(), bench.woken().len(), bench.told_for("web", cool_down())), (5, 1, "nobody"));

    assert_eq!(bench.told("other"), "nothing yet", "too old for a report");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.woken()), (6, vec!["other".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn scans_are_frequent_only_while_a_permit_is_near() {
    let bench = Bench::begin();
    bench.told("web");
    seconds(1).await;
    assert_eq!((bench.scans(), bench.told("web")), (1, "nobody"));
    assert!(bench.deregistrations.take(&key("web")).is_none());
    bench.view.expect_permit(&key("web"));
    seconds(95).await;
    assert_eq!(bench.scans(), 2, "the permit comes after 100 s");
    seconds(5).await;
    assert_eq!(bench.scans(), 3);
    assert!(bench.deregistrations.has_permit(&key("web")));
    assert_eq!(bench.told_for("web", Purpose::Deregister), "nobody", "right before");
    seconds(60).await;
    assert!((7..=8).contains(&bench.scans()), "{}: one each 13 s", bench.scans());
    bench.deregistrations.leave(&key("web"));
    bench.told("web");
    let scans = bench.scans();
    seconds(120).await;
    assert!(bench.scans() <= scans + 3, "{}", bench.scans());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_waits_for_a_recent_scan_causes_one_at_once() {
    let bench = Bench::begin();
    bench.told("web");
    seconds(1).await;
    bench.told("web");
    bench.woken();
    seconds(30).await;
    assert_eq!((bench.told("web"), bench.scans()), ("nobody", 1));
    bench.deregistrations.acquire_unqueued();
    seconds(200).await;
    let scans = bench.scans();
    seconds(25).await;
    let permit = bench.deregistrations.take(&key("web")).expect("a permit");
    assert_eq!(bench.told_for("web", Purpose::Deregister), "nothing yet");
    permit.keep(&key("web"));
    bench.woken();
    seconds(1).await;
    assert_eq!((bench.scans() > scans, bench.woken()), (true, vec!["web".to_owned()]));
    assert_eq!(bench.told_for("web", Purpose::Deregister), "nobody");
    assert!(bench.deregistrations.take(&key("web")).is_some(), "the permit was kept");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_may_not_act_scans_nothing() {
    let bench = Bench::begin();
    bench.is_active.store(false, SeqCst);
    bench.told("web");
    seconds(300).await;
    assert_eq!(bench.scans(), 0);
    assert!(!bench.view.is_first_scan_pending(), "whoever waited is another process's now");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_by_other_credentials_is_forgotten_even_by_a_scan_under_way() {
    let bench = Bench::begin();
    bench.view.reset_for("first");
    bench.told("web");
    seconds(1).await;
    bench.view.reset_for("first");
    assert_eq!(bench.told("web"), "nobody");
    bench.view.reset_for("second");
    assert_eq!(bench.told("web"), "nothing yet");

    bench.ecs.fault(Fault::on(Action::ListClusters).times(2).delay(Duration::from_secs(4)));
    seconds(2).await;
    bench.view.reset_for("third");
    bench.woken();
    seconds(4).await;
    assert_eq!((bench.woken().len(), bench.told("web")), (0, "nothing yet"), "it was of no use any more");
    seconds(4).await;
    assert_eq!((bench.woken().len(), bench.told("web")), (1, "nobody"));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_revision_is_told_once_that_another_has_retired_it() {
    let bench = Bench::begin();
    for (name, revision) in [("web", "web:1"), ("same", "web:1"), ("gone", "web:1"), ("other", "web:2")] {
        bench.told(name);
        bench.view.leave(&key(name));
        assert_eq!(bench.view.of(&key(name), &arn(revision), Purpose::Report), None);
    }
    bench.view.invalidate(&key("web"), &arn("web:1"));
    assert_eq!(bench.woken(), ["gone", "same"]);
    bench.view.forget(&key("gone"));
    for (name, is_told) in
        [("web", false), ("same", true), ("same", false), ("gone", false), ("other", false)]
    {
        assert_eq!(bench.view.take_invalidated(&key(name), &arn("web:1")), is_told, "{name}");
    }
    for name in ["web", "same", "other"] {
        bench.view.forget(&key(name));
    }
    assert!(!bench.view.is_first_scan_pending());
}

/// The value of the only series of a metric, if it has one.
fn value(recorder: &PrometheusRecorder, series: &str) -> Option<f64> {
    let text = recorder.handle().render();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(start_paused = true)]
async fn the_metrics_know_the_scans_and_how_old_what_is_known_is() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::begin();
    let age = || {
        bench.view.measure();
        value(&recorder, "ecs_retirement_usage_age_seconds{region=\"us-west-2\"}")
    };
    assert_eq!(age(), Some(0.0));
    bench.ecs.fault(Fault::on(Action::ListClusters).times(1).access_denied());
    bench.told("web");
    seconds(1).await;
    assert_eq!(bench.told("web"), "unknown");
    seconds(5).await;
    let scans = |result| value(&recorder, &format!("{SCANS}{{region=\"us-west-2\",result=\"{result}\"}}"));
    assert_eq!((scans("error"), scans("success")), (Some(1.0), Some(1.0)));
    assert_eq!(value(&recorder, &format!("{SCAN_SECONDS}_count{{region=\"us-west-2\"}}")), Some(2.0));
    seconds(10).await;
    assert!(age().is_some_and(|age| (10.0..12.0).contains(&age)), "{:?}", age());
    bench.view.leave(&key("web"));
    assert_eq!(age(), Some(0.0), "nobody waits");
}
