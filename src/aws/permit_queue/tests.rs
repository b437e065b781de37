//! Tests of the permit queue, by example and as properties.

use proptest::{collection::vec, prelude::*};

use super::{
    Acquire::{Acquired, Queued},
    *,
};

const PACING: Pacing = Pacing { per_second: 0.5, burst: 3 };

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn new_queue_has_no_permits_and_fills_up_to_its_burst() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    assert_eq!(queue.acquire(&"a", start), Queued);
    queue.leave(&"a", start);
    let later = start + seconds(3600.0);
    let results: Vec<Acquire> = (0..5).map(|_| queue.acquire(&"a", later)).collect();
    assert_eq!(results, [Acquired, Acquired, Acquired, Queued, Queued]);
    assert_eq!(queue.waiting(), 1, "each key is queued once");
}

#[test]
fn waiters_are_granted_permits_once_in_fifo_order() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    for key in ["a", "b", "c"] {
        assert_eq!(queue.acquire(&key, start), Queued);
    }
    assert_eq!(queue.waiting(), 3);
    assert_eq!(queue.position(&"c", start).map(|position| (position.ahead, position.waiting)), Some((2, 3)));
    let mut now = start;
    for key in ["a", "b", "c"] {
        assert_eq!(queue.next_grant(now), Some(now + seconds(2.0)));
        now += seconds(2.0);
        assert_eq!(queue.grant(now), [key]);
        assert_eq!(queue.acquire(&key, now), Acquired);
        assert_eq!(queue.position(&key, now), None);
    }
    assert_eq!(queue.next_grant(now), None);
    assert_eq!(queue.grant(now + seconds(60.0)), [] as [&str; 0]);
}

#[test]
fn key_that_needs_many_permits_is_queued_for_each() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    queue.acquire(&"large", start);
    queue.acquire(&"small", start);
    let now = start + seconds(2.0);
    assert_eq!(queue.grant(now), ["large"]);
    assert_eq!(queue.acquire(&"large", now), Acquired);
    assert_eq!(queue.acquire(&"large", now), Queued);
    assert_eq!(queue.grant(now + seconds(2.0)), ["small"]);
}

#[test]
fn unused_queue_positions_and_permits_are_passed_to_the_next_waiter() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    for key in ["deleted", "granted", "expiring", "next", "last"] {
        queue.acquire(&key, start);
    }
    queue.leave(&"deleted", start);
    let now = start + seconds(2.0);
    assert_eq!(queue.grant(now), ["granted"]);
    queue.leave(&"granted", now);
    assert_eq!(queue.grant(now), ["expiring"]);
    let later = now + PERMIT_LIFETIME;
    assert_eq!(queue.grant(later), ["next", "last"], "the permits of ten seconds, and the expired one");
    assert!(!queue.has_permit(&"expiring"));
    assert!(
        (queue.tokens_at(later) - 2.0).abs() < 1e-9,
        "burst of three plus one returned, minus two granted"
    );
    assert_eq!(queue.acquire(&"next", later), Acquired);
    queue.return_permit(later);
    assert_eq!(queue.acquire(&"new", later), Acquired);
}

#[test]
fn expired_permit_is_passed_on_before_the_next_one_is_available() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(Pacing { per_second: 0.05, burst: 3 }, start);
    queue.acquire(&"expiring", start);
    queue.acquire(&"next", start);
    let now = start + seconds(20.0);
    assert_eq!(queue.grant(now), ["expiring"]);
    assert_eq!(queue.next_grant(now), Some(now + PERMIT_LIFETIME));
    assert_eq!(queue.grant(now + PERMIT_LIFETIME), ["next"]);
}

#[test]
fn throttling_halves_the_rate_and_it_doubles_every_minute() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    let rates: Vec<f64> = (0..7)
        .map(|_| {
            queue.throttled(start);
            queue.per_second(start) / PACING.per_second
        })
        .collect();
    assert_eq!(rates, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125, 0.03125]);
    queue.acquire(&"a", start);
    assert_eq!(queue.next_grant(start), Some(start + seconds(64.0)));
    let after = |minutes: f64| queue.per_second(start + seconds(60.0 * minutes)) / PACING.per_second;
    assert!((after(1.0) - 0.0625).abs() < 1e-9);
    assert!((after(5.0) - 1.0).abs() < 1e-9);
    assert!((after(60.0) - 1.0).abs() < 1e-9);
}

#[test]
fn throttling_revokes_permits_that_are_not_used_yet() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    for key in ["a", "b", "c"] {
        queue.acquire(&key, start);
    }
    queue.grant(start + seconds(2.0));
    let now = start + seconds(4.0);
    assert_eq!(queue.grant(now), ["b"]);
    assert!(queue.has_permit(&"a"));
    queue.throttled(now);
    assert_eq!(queue.acquire(&"a", now), Queued);
    assert_eq!(
        ["a", "b", "c"].map(|key| queue.position(&key, now).map(|position| position.ahead)),
        [Some(0), Some(1), Some(2)]
    );
}

#[test]
fn unqueued_permit_delays_the_next_one() {
    let start = Instant::now();
    let mut queue = PermitQueue::new(PACING, start);
    queue.acquire_unqueued(start);
    queue.acquire(&"a", start);
    assert_eq!(queue.next_grant(start), Some(start + seconds(4.0)));
}

#[derive(Clone, Debug)]
enum Action {
    Acquire(u8),
    Leave(u8),
    Wait(u16),
    Throttle,
}

proptest! {
    #[test]
    fn acquired_permits_never_exceed_the_rate(
        actions in vec(prop_oneof![
            8 => (0u8..6).prop_map(Action::Acquire),
            2 => (0u8..6).prop_map(Action::Leave),
            4 => (1u16..5000).prop_map(Action::Wait),
            1 => Just(Action::Throttle),
        ], 1..200),
    ) {
        let start = Instant::now();
        let (mut now, mut queue, mut acquired) = (start, PermitQueue::new(PACING, start), 0_u32);
        for action in actions {
            match action {
                Action::Acquire(key) => acquired += u32::from(queue.acquire(&key, now) == Acquired),
                Action::Leave(key) => queue.leave(&key, now),
                Action::Wait(milliseconds) => now += Duration::from_millis(milliseconds.into()),
                Action::Throttle => queue.throttled(now),
            }
            queue.grant(now);
            let elapsed = now.duration_since(start).as_secs_f64();
            prop_assert!(f64::from(acquired) <= elapsed * PACING.per_second + 1e-6);
            if let Some(next) = queue.next_grant(now) {
                prop_assert!(next > now, "no key waits while a permit is available");
            }
        }
    }
}
