//! How long a failed call is not repeated and its failure is reused for all callers.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::response::{Failure, FailureKind};

/// Delay after a call without a response. It is short because all callers share the next attempt.
const OUTAGE_DELAY: Duration = Duration::from_secs(1);

/// Delays after a rejected call. Only a change of the role, its policies or the credentials fixes
/// it.
const SHORTEST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// The last failure of a call, with exponential backoff while AWS rejects it.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Last>,
    /// Number of consecutive rejections.
    rejections: u32,
}

#[derive(Debug)]
struct Last {
    failure: Failure,
    at: Instant,
    until: Instant,
}

impl Backoff {
    /// Returns the last failure while the call must not be repeated, otherwise `None`.
    pub(super) fn failure(&self, now: Instant) -> Option<&Failure> {
        self.last.as_ref().filter(|last| now < last.until).map(|last| &last.failure)
    }

    /// Records that the call failed at `now`.
    pub(super) fn record_failure(&mut self, failure: Failure, now: Instant) {
        let delay = if failure.kind == FailureKind::AccessDenied {
            let doubled = SHORTEST_DELAY * 2_u32.pow(self.rejections.min(7));
            self.rejections += 1;
            doubled.min(LONGEST_DELAY)
        } else {
            OUTAGE_DELAY
        };
        self.last = Some(Last { failure, at: now, until: now + delay });
    }

    /// Shortens the backoff after a request of a user. The call is still made at most once per
    /// shortest delay.
    pub(super) fn shorten(&mut self) {
        if let Some(last) = &mut self.last {
            last.until = last.until.min(last.at + SHORTEST_DELAY);
        }
        self.rejections = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_calls_back_off_exponentially_up_to_ten_minutes() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.failure(now), None);
        for delay in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            let rejection = Failure::new(FailureKind::AccessDenied, "no");
            backoff.record_failure(rejection.clone(), now);
            now += Duration::from_secs(delay);
            assert_eq!(
                backoff.failure(now.checked_sub(Duration::from_millis(1)).expect("valid time")),
                Some(&rejection)
            );
            assert_eq!(backoff.failure(now), None, "{delay} s");
        }
    }

    #[test]
    fn calls_without_a_response_are_retried_after_one_second() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        for _ in 0..3 {
            backoff.record_failure(Failure::new(FailureKind::Unavailable, "no response"), now);
            now += OUTAGE_DELAY;
            assert_eq!(backoff.failure(now), None);
        }
    }

    #[test]
    fn user_request_shortens_a_long_backoff_to_the_shortest_delay() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..5 {
            backoff.record_failure(Failure::new(FailureKind::AccessDenied, "no"), now);
        }
        backoff.shorten();
        assert!(backoff.failure(now + Duration::from_secs(4)).is_some());
        assert!(backoff.failure(now + SHORTEST_DELAY).is_none());
        backoff.record_failure(Failure::new(FailureKind::AccessDenied, "no"), now);
        assert!(backoff.failure(now + SHORTEST_DELAY).is_none(), "the backoff restarts");
    }
}
