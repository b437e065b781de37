//! Tests of the rate limiter, in paused Tokio time.

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;

use super::*;

/// The names of the resources that were woken, and the tenth of a second.
type Log = Arc<Mutex<Vec<(String, u128)>>>;

fn key(name: &str) -> ResourceKey {
    ResourceKey { namespace: "platform".to_owned(), name: name.to_owned() }
}

fn limiter(per_second: f64) -> (Arc<RateLimiter>, Log) {
    let (log, began) = (Log::default(), Instant::now());
    let woken = log.clone();
    let requeue_trigger = RequeueTrigger(Arc::new(move |key: &ResourceKey| {
        let tenth = began.elapsed().as_millis() / 100;
        woken.lock().push((key.name.clone(), tenth));
    }));
    (
        RateLimiter::spawn(
            "modify",
            "012345678910",
            "us-west-2",
            Pacing { per_second, burst: 10 },
            requeue_trigger,
        ),
        log,
    )
}

fn woken(log: &Log) -> Vec<(String, u128)> {
    log.lock().drain(..).collect()
}

async fn tenths(tenths: u64) {
    sleep(Duration::from_millis(100 * tenths)).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_resources_are_woken_at_the_rate_in_fifo_order() {
    let (limiter, log) = limiter(1.0);
    for name in ["a", "b"] {
        assert!(limiter.acquire(&key(name)).is_none());
    }
    assert_eq!(
        limiter.queue_position(&key("b")).map(|position| (position.ahead, position.waiting)),
        Some((1, 2))
    );
    tenths(5).await;
    assert_eq!(woken(&log), []);
    tenths(10).await;
    assert_eq!(woken(&log), [("a".to_owned(), 10)]);
    assert!(limiter.has_permit(&key("a")) && !limiter.has_permit(&key("b")));
    assert_eq!(limiter.queue_position(&key("a")), None);
    limiter.acquire(&key("a")).expect("permit is granted").spend();
    assert!(limiter.acquire(&key("a")).is_none(), "spent");
    tenths(20).await;
    assert_eq!(woken(&log), [("b".to_owned(), 20), ("a".to_owned(), 30)]);
}

#[tokio::test(start_paused = true)]
async fn unused_permits_and_queue_positions_are_passed_on_at_once() {
    let (limiter, log) = limiter(1.0);
    tenths(10).await;
    let unused = limiter.acquire(&key("a")).expect("no other resource waits");
    assert!(limiter.acquire(&key("b")).is_none());
    tenths(5).await;
    drop(unused);
    tenths(1).await;
    assert_eq!(woken(&log), [("b".to_owned(), 15)], "returned permit");

    assert!(limiter.acquire(&key("c")).is_none());
    assert!(limiter.acquire(&key("d")).is_none());
    limiter.leave(&key("c"));
    tenths(5).await;
    assert_eq!(woken(&log), [("d".to_owned(), 20)], "abandoned queue position");
    assert!(limiter.acquire(&key("e")).is_none());
    limiter.leave(&key("d"));
    tenths(1).await;
    assert_eq!(woken(&log), [("e".to_owned(), 21)], "abandoned permit");
}

#[tokio::test(start_paused = true)]
async fn permit_that_is_not_used_expires() {
    let (limiter, log) = limiter(0.05);
    assert!(limiter.acquire(&key("a")).is_none());
    tenths(201).await;
    assert!(limiter.acquire(&key("b")).is_none());
    tenths(100).await;
    assert!(!limiter.has_permit(&key("a")));
    assert_eq!(woken(&log), [("a".to_owned(), 200), ("b".to_owned(), 300)], "not at 400");
}

#[tokio::test(start_paused = true)]
async fn unqueued_permits_delay_the_queue() {
    let (limiter, log) = limiter(1.0);
    limiter.acquire_unqueued();
    limiter.acquire_unqueued();
    assert!(limiter.acquire(&key("a")).is_none());
    tenths(40).await;
    assert_eq!(woken(&log), [("a".to_owned(), 30)]);
}

#[tokio::test(start_paused = true)]
async fn throttling_halves_the_rate() {
    let (limiter, _) = limiter(1.0);
    tenths(100).await;
    limiter.throttled();
    assert!(limiter.acquire(&key("a")).is_none());
    let position = limiter.queue_position(&key("a")).expect("resource is queued");
    assert!((position.per_second - 0.5).abs() < 0.01, "{position:?}");
}

#[tokio::test(start_paused = true)]
async fn metrics_report_tokens_rate_and_waiting_resources() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (limiter, _) = limiter(1.0);
    let gauges = || {
        metrics::with_local_recorder(&recorder, || limiter.measure());
        let text = recorder.handle().render();
        let value = |name: &str| {
            let series =
                format!("{name}{{account=\"012345678910\",bucket=\"modify\",region=\"us-west-2\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).expect("metric is set").to_owned()
        };
        [value(TOKENS), value(RATE), value(WAITING)]
    };
    tenths(20).await;
    assert_eq!(gauges(), ["2", "1", "0"]);
    for _ in 0..2 {
        limiter.acquire_unqueued();
    }
    assert!(limiter.acquire(&key("a")).is_none());
    assert_eq!(gauges(), ["0", "1", "1"]);
}
