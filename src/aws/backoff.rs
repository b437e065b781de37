//! How long a failure answers for all callers before the call is made again. Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::response::{Failure, FailureKind};

/// After a call without an answer: short, since one call finds out for all.
const OUTAGE_DELAY: Duration = Duration::from_secs(1);

/// After a refusal, which only a change of the role, its policies or the credentials ends.
const SHORTEST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// The last failure of a call, with exponential backoff while AWS refuses it.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Last>,
    /// The number of refusals in a row.
    refusals: u32,
}

#[derive(Debug)]
struct Last {
    failure: Failure,
    at: Instant,
    until: Instant,
}

impl Backoff {
    /// Returns the last failure if the call must not be made again yet.
    pub(super) fn failure(&self, now: Instant) -> Option<&Failure> {
        self.last.as_ref().filter(|last| now < last.until).map(|last| &last.failure)
    }

    /// Notes that the call failed at `now`.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        let delay = if failure.kind == FailureKind::AccessDenied {
            let doubled = SHORTEST_DELAY * 2_u32.pow(self.refusals.min(7));
            self.refusals += 1;
            doubled.min(LONGEST_DELAY)
        } else {
            OUTAGE_DELAY
        };
        self.last = Some(Last { failure, at: now, until: now + delay });
    }

    /// Lets the call be made again soon, because a user asks for it: once in the shortest delay, whoever asks.
    pub(super) fn shorten(&mut self) {
        if let Some(last) = &mut self.last {
            last.until = last.until.min(last.at + SHORTEST_DELAY);
        }
        self.refusals = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_back_off_exponentially_up_to_ten_minutes() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.failure(now), None);
        for delay in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            let refusal = Failure::new(FailureKind::AccessDenied, "no");
            backoff.failed(refusal.clone(), now);
            now += Duration::from_secs(delay);
            assert_eq!(
                backoff.failure(now.checked_sub(Duration::from_millis(1)).expect("a time")),
                Some(&refusal)
            );
            assert_eq!(backoff.failure(now), None, "{delay} s");
        }
    }

    #[test]
    fn calls_without_an_answer_are_made_again_after_a_second() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        for _ in 0..3 {
            backoff.failed(Failure::new(FailureKind::Unavailable, "no answer"), now);
            now += OUTAGE_DELAY;
            assert_eq!(backoff.failure(now), None);
        }
    }

    #[test]
    fn a_user_who_asks_ends_a_long_backoff_but_never_the_shortest() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..5 {
            backoff.failed(Failure::new(FailureKind::AccessDenied, "no"), now);
        }
        backoff.shorten();
        assert!(backoff.failure(now + Duration::from_secs(4)).is_some());
        assert!(backoff.failure(now + SHORTEST_DELAY).is_none());
        backoff.failed(Failure::new(FailureKind::AccessDenied, "no"), now);
        assert!(backoff.failure(now + SHORTEST_DELAY).is_none(), "it starts again");
    }
}
