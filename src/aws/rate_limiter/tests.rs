//! RateLimiter as they are called, by a clock that jumps to whatever is next.

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;

use super::*;

/// Who was called, and in which tenth of a second.
type Log = Arc<Mutex<Vec<(String, u128)>>>;

fn key(name: &str) -> ResourceKey {
    ResourceKey { namespace: "platform".to_owned(), name: name.to_owned() }
}

fn turns(per_second: f64) -> (Arc<RateLimiter>, Log) {
    let (log, began) = (Log::default(), Instant::now());
    let noted = log.clone();
    let requeue_trigger = RequeueTrigger(Arc::new(move |key: &ResourceKey| {
        let tenth = began.elapsed().as_millis() / 100;
        noted.lock().expect("a list").push((key.name.clone(), tenth));
    }));
    (RateLimiter::begin("modify", "us-west-2", Pacing { per_second, burst: 10 }, requeue_trigger), log)
}

fn called(log: &Log) -> Vec<(String, u128)> {
    log.lock().expect("a list").drain(..).collect()
}

async fn tenths(tenths: u64) {
    sleep(Duration::from_millis(100 * tenths)).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_called_one_a_second_in_their_order() {
    let (turns, log) = turns(1.0);
    for name in ["a", "b"] {
        assert!(turns.take(&key(name)).is_none());
    }
    assert_eq!(turns.place(&key("b")).map(|place| (place.ahead, place.waiting)), Some((1, 2)));
    tenths(5).await;
    assert_eq!(called(&log), []);
    tenths(10).await;
    assert_eq!(called(&log), [("a".to_owned(), 10)]);
    assert!(turns.has_permit(&key("a")) && !turns.has_permit(&key("b")));
    assert_eq!(turns.place(&key("a")), None);
    turns.take(&key("a")).expect("it is its turn").spend();
    assert!(turns.take(&key("a")).is_none(), "spent");
    tenths(20).await;
    assert_eq!(called(&log), [("b".to_owned(), 20), ("a".to_owned(), 30)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_used_is_given_on_at_once() {
    let (turns, log) = turns(1.0);
    tenths(10).await;
    let unused = turns.take(&key("a")).expect("nobody else waits");
    assert!(turns.take(&key("b")).is_none());
    tenths(5).await;
    drop(unused);
    tenths(1).await;
    assert_eq!(called(&log), [("b".to_owned(), 15)], "a turn");

    assert!(turns.take(&key("c")).is_none());
    assert!(turns.take(&key("d")).is_none());
    turns.leave(&key("c"));
    tenths(5).await;
    assert_eq!(called(&log), [("d".to_owned(), 20)], "a place");
    assert!(turns.take(&key("e")).is_none());
    turns.leave(&key("d"));
    tenths(1).await;
    assert_eq!(called(&log), [("e".to_owned(), 21)], "a turn that one was called for");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_called_and_does_not_come_is_passed_over_after_a_while() {
    let (turns, log) = turns(0.05);
    assert!(turns.take(&key("a")).is_none());
    tenths(201).await;
    assert!(turns.take(&key("b")).is_none());
    tenths(100).await;
    assert!(!turns.has_permit(&key("a")));
    assert_eq!(called(&log), [("a".to_owned(), 200), ("b".to_owned(), 300)], "not at 400");
}

#[tokio::test(start_paused = true)]
async fn turns_taken_ahead_are_made_up_for() {
    let (turns, log) = turns(1.0);
    turns.acquire_unqueued();
    turns.acquire_unqueued();
    assert!(turns.take(&key("a")).is_none());
    tenths(40).await;
    assert_eq!(called(&log), [("a".to_owned(), 30)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_throttle_all_step_back() {
    let (turns, _) = turns(1.0);
    tenths(100).await;
    turns.throttled();
    assert!(turns.take(&key("a")).is_none());
    let place = turns.place(&key("a")).expect("it waits");
    assert!((place.per_second - 0.5).abs() < 0.01, "{place:?}");
}

#[tokio::test(start_paused = true)]
async fn the_metrics_know_the_turns_and_who_waits() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (turns, _) = turns(1.0);
    let seen = || {
        metrics::with_local_recorder(&recorder, || turns.measure());
        let text = recorder.handle().render();
        let value = |name: &str| {
            let of = format!("{name}{{bucket=\"modify\",region=\"us-west-2\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&of)).expect("a value").to_owned()
        };
        [value(TOKENS), value(RATE), value(WAITING)]
    };
    tenths(20).await;
    assert_eq!(seen(), ["2", "1", "0"]);
    for _ in 0..2 {
        turns.acquire_unqueued();
    }
    assert!(turns.take(&key("a")).is_none());
    assert_eq!(seen(), ["0", "1", "1"]);
}
