//! What holds of the line, by example and as properties.

use proptest::{collection::vec, prelude::*};

use super::*;

const PACING: Pacing = Pacing { per_second: 0.5, burst: 3 };

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_new_line_has_no_turns_and_fills_up_to_its_burst() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    assert_eq!(line.take(&"a", start), Turn::Later);
    line.leave(&"a", start);
    let later = start + seconds(3600.0);
    let turns: Vec<Turn> = (0..5).map(|_| line.take(&"a", later)).collect();
    assert_eq!(turns, [Turn::Now, Turn::Now, Turn::Now, Turn::Later, Turn::Later]);
    assert_eq!(line.waiting(), 1, "one place for each");
}

#[test]
fn each_is_called_once_in_the_order_they_came() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    for who in ["a", "b", "c"] {
        assert_eq!(line.take(&who, start), Turn::Later);
    }
    assert_eq!(line.waiting(), 3);
    assert_eq!(line.place(&"c", start).map(|place| (place.ahead, place.waiting)), Some((2, 3)));
    let mut now = start;
    for who in ["a", "b", "c"] {
        assert_eq!(line.next_grant(now), Some(now + seconds(2.0)));
        now += seconds(2.0);
        assert_eq!(line.call(now), [who]);
        assert_eq!(line.take(&who, now), Turn::Now);
        assert_eq!(line.place(&who, now), None);
    }
    assert_eq!(line.next_grant(now), None);
    assert_eq!(line.call(now + seconds(60.0)), [] as [&str; 0]);
}

#[test]
fn whoever_wants_many_turns_queues_up_for_each() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    line.take(&"large", start);
    line.take(&"small", start);
    let now = start + seconds(2.0);
    assert_eq!(line.call(now), ["large"]);
    assert_eq!(line.take(&"large", now), Turn::Now);
    assert_eq!(line.take(&"large", now), Turn::Later);
    assert_eq!(line.call(now + seconds(2.0)), ["small"]);
}

#[test]
fn a_place_or_a_turn_that_is_not_used_is_given_on() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    for who in ["deleted", "called", "silent", "next", "last"] {
        line.take(&who, start);
    }
    line.leave(&"deleted", start);
    let now = start + seconds(2.0);
    assert_eq!(line.call(now), ["called"]);
    line.leave(&"called", now);
    assert_eq!(line.call(now), ["silent"]);
    let later = now + PERMIT_LIFETIME;
    assert_eq!(
        line.call(later),
        ["next", "last"],
        "the turns of ten seconds, and the one that was not taken"
    );
    assert!(!line.has_permit(&"silent"));
    assert!((line.tokens_at(later) - 2.0).abs() < 1e-9, "three of the burst and one given back, less two");
    assert_eq!(line.take(&"next", later), Turn::Now);
    line.return_permit(later);
    assert_eq!(line.take(&"new", later), Turn::Now);
}

#[test]
fn a_turn_that_is_not_taken_is_given_on_before_the_next_one_comes() {
    let start = Instant::now();
    let mut line = PermitQueue::new(Pacing { per_second: 0.05, burst: 3 }, start);
    line.take(&"silent", start);
    line.take(&"next", start);
    let now = start + seconds(20.0);
    assert_eq!(line.call(now), ["silent"]);
    assert_eq!(line.next_grant(now), Some(now + PERMIT_LIFETIME));
    assert_eq!(line.call(now + PERMIT_LIFETIME), ["next"]);
}

#[test]
fn a_throttle_halves_the_rate_for_all_and_a_minute_doubles_it() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    let rates: Vec<f64> = (0..7)
        .map(|_| {
            line.throttled(start);
            line.per_second(start) / PACING.per_second
        })
        .collect();
    assert_eq!(rates, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125, 0.03125]);
    line.take(&"a", start);
    assert_eq!(line.next_grant(start), Some(start + seconds(64.0)));
    let after = |minutes: f64| line.per_second(start + seconds(60.0 * minutes)) / PACING.per_second;
    assert!((after(1.0) - 0.0625).abs() < 1e-9);
    assert!((after(5.0) - 1.0).abs() < 1e-9);
    assert!((after(60.0) - 1.0).abs() < 1e-9);
}

#[test]
fn a_throttle_takes_back_the_turns_that_are_not_used_yet() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    for who in ["a", "b", "c"] {
        line.take(&who, start);
    }
    line.call(start + seconds(2.0));
    let now = start + seconds(4.0);
    assert_eq!(line.call(now), ["b"]);
    assert!(line.has_permit(&"a"));
    line.throttled(now);
    assert_eq!(line.take(&"a", now), Turn::Later);
    assert_eq!(
        ["a", "b", "c"].map(|who| line.place(&who, now).map(|place| place.ahead)),
        [Some(0), Some(1), Some(2)]
    );
}

#[test]
fn a_turn_taken_ahead_is_missing_later() {
    let start = Instant::now();
    let mut line = PermitQueue::new(PACING, start);
    line.acquire_unqueued(start);
    line.take(&"a", start);
    assert_eq!(line.next_grant(start), Some(start + seconds(4.0)));
}

#[derive(Clone, Debug)]
enum Act {
    Take(u8),
    Leave(u8),
    Wait(u16),
    Throttle,
}

proptest! {
    #[test]
    fn no_more_turns_are_taken_than_the_rate_and_the_burst_allow(
        acts in vec(prop_oneof![
            8 => (0u8..6).prop_map(Act::Take),
            2 => (0u8..6).prop_map(Act::Leave),
            4 => (1u16..5000).prop_map(Act::Wait),
            1 => Just(Act::Throttle),
        ], 1..200),
    ) {
        let start = Instant::now();
        let (mut now, mut line, mut taken) = (start, PermitQueue::new(PACING, start), 0_u32);
        for act in acts {
            match act {
                Act::Take(who) => taken += u32::from(line.take(&who, now) == Turn::Now),
                Act::Leave(who) => line.leave(&who, now),
                Act::Wait(milliseconds) => now += Duration::from_millis(milliseconds.into()),
                Act::Throttle => line.throttled(now),
            }
            line.call(now);
            let elapsed = now.duration_since(start).as_secs_f64();
            prop_assert!(f64::from(taken) <= elapsed * PACING.per_second + 1e-6);
            if let Some(next) = line.next_grant(now) {
                prop_assert!(next > now, "nobody waits while there are turns");
            }
        }
    }
}
