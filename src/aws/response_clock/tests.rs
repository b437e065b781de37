//! Tests of AWS's time: its bounds, and the responses that are ignored.

use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::{collection::vec, prelude::*};

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("valid time")
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Generates a round trip: its start, the duration of the request and that of the response, in
/// milliseconds.
fn any_round_trip() -> impl Strategy<Value = (u64, u64, u64)> {
    (0u64..3_600_000, 0u64..4_000, 0u64..4_000)
}

/// Returns the estimate after these round trips. AWS's clock reads `offset` at `start`.
fn after(start: Instant, round_trips: &[(u64, u64, u64)], offset: i64) -> Estimate {
    let mut estimate = Estimate::default();
    for (sent, out, back) in round_trips {
        let written = i64::try_from((sent + out) / 1000).expect("valid second") + offset;
        let (sent, received) = (start + millis(*sent), start + millis(sent + out + back));
        estimate.observe(second(written), sent, received);
    }
    estimate
}

proptest! {
    #[test]
    fn elapsed_time_is_never_overstated(
        first in vec(any_round_trip(), QUORUM..20),
        second in vec(any_round_trip(), QUORUM..20),
        since in 0u64..10_000_000,
        elapsed in 0u64..10_000_000,
    ) {
        let start = Instant::now() + Duration::from_hours(24);
        let (begin, end) = (start + millis(since), start + millis(since + elapsed));
        let stamped = after(start, &first, 1_000_000).at(begin).expect("known").latest;
        let checked = after(start, &second, 1_000_000).at(end).expect("known").earliest;
        let measured = checked.duration_since(stamped);
        prop_assert!(measured <= SignedDuration::from_millis(i64::try_from(elapsed).expect("valid time")));
    }

    #[test]
    fn wrong_dates_never_overstate_elapsed_time_if_one_date_is_right(
        right in any_round_trip(),
        wrong in vec((any_round_trip(), -1_000_000i64..1_000_000), 1..RESPONSES),
        at in 0u64..10_000_000,
    ) {
        let start = Instant::now() + Duration::from_hours(24);
        let mut estimate = after(start, &[right], 2_000_000);
        for (round_trip, offset) in wrong {
            estimate.recent.extend(after(start, &[round_trip], 2_000_000 + offset).recent);
        }
        let bounds = estimate.at(start + millis(at)).expect("known");
        let truth = second(2_000_000) + millis(at);
        prop_assert!(bounds.earliest <= truth && truth <= bounds.latest);
    }
}

#[test]
fn time_is_unknown_until_there_are_two_responses() {
    let now = Instant::now();
    let mut estimate = Estimate::default();
    assert_eq!(estimate.at(now), None);
    estimate.observe(second(90_000), now, now);
    assert_eq!(estimate.at(now), None, "the first one may be wrong");
    estimate.observe(second(100), now, now);
    let bounds = estimate.at(now + millis(500)).expect("known");
    assert_eq!(bounds.earliest, second(100) + millis(500));
    assert_eq!(bounds.latest, second(90_001) + millis(500));
}

#[test]
fn slow_responses_are_ignored() {
    let now = Instant::now();
    let mut estimate = Estimate::default();
    for _ in 0..QUORUM {
        estimate.observe(second(100), now, now + LONGEST_ROUND_TRIP);
    }
    assert_eq!(estimate.at(now), None);
}

#[test]
fn wrong_date_is_dropped_after_enough_responses() {
    let now = Instant::now();
    let mut estimate = Estimate::default();
    estimate.observe(second(5), now, now);
    for _ in 1..RESPONSES {
        estimate.observe(second(1_000), now, now);
    }
    assert_eq!(estimate.at(now).map(|bounds| bounds.earliest), Some(second(5)));
    estimate.observe(second(1_000), now, now);
    assert_eq!(estimate.at(now).map(|bounds| bounds.earliest), Some(second(1_000)));
}

fn response(status: u16, headers: &[(&'static str, &'static str)]) -> HttpResponse {
    let mut response = HttpResponse::new(status.try_into().expect("valid status"), "".into());
    for (name, value) in headers {
        response.headers_mut().insert(*name, *value);
    }
    response
}

#[test]
fn date_is_none_unless_the_response_succeeded_and_has_a_request_id() {
    let request_id = ("x-amzn-requestid", "f00");
    let at = |text| ("date", text);
    let valid = at("Thu, 01 Jan 1970 00:01:40 GMT");
    assert_eq!(date(&response(200, &[request_id, valid])), Some(second(100)));
    assert_eq!(date(&response(200, &[("x-amz-request-id", "f00"), valid])), Some(second(100)));
    assert_eq!(date(&response(200, &[valid])), None, "a proxy may have responded");
    assert_eq!(date(&response(400, &[request_id, valid])), None);
    assert_eq!(date(&response(200, &[request_id])), None);
    for text in ["", "today", "1970-01-01T00:01:40Z", "Thu, 41 Jan 1970 00:01:40 GMT"] {
        assert_eq!(date(&response(200, &[request_id, at(text)])), None, "{text}");
    }
}

#[test]
fn latest_time_is_that_of_the_pod_until_aws_has_reported_it() {
    let (clock, now) = (AwsClock::new(Arc::new(|| second(7_300))), Instant::now());
    assert_eq!(clock.latest_or_pod(now), second(7_300));
    let headers = [("x-amzn-requestid", "f00"), ("date", "Thu, 01 Jan 1970 00:01:40 GMT")];
    for _ in 0..QUORUM {
        clock.observe(&response(200, &headers), now, now);
    }
    assert_eq!(clock.latest_or_pod(now), second(101), "credentials expire by the clock of AWS");
}

#[test]
fn clock_skew_is_measured_against_the_median_response() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let clock = AwsClock::new(Arc::new(|| second(7_300)));
    clock.measure();
    assert!(!recorder.handle().render().contains(CLOCK_SKEW), "unknown before the first response");
    let now = Instant::now();
    let request_id = ("x-amzn-requestid", "f00");
    for text in
        ["Thu, 01 Jan 1970 00:01:40 GMT", "Fri, 02 Jan 1970 00:01:40 GMT", "Thu, 01 Jan 1970 00:01:40 GMT"]
    {
        clock.observe(&response(200, &[request_id, ("date", text)]), now, now);
    }
    assert!(clock.lock().is_skewed);
    clock.measure();
    let text = recorder.handle().render();
    let skew: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix(CLOCK_SKEW)?.trim().parse().ok())
        .expect("metric is set");
    assert!((7_199.0..=7_200.0).contains(&skew), "{skew}");
}
