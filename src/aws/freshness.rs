//! Maximum age of a usage scan, and when the next one is due, by purpose.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum age of a scan that a status reports.
const LIFETIME: Duration = Duration::from_mins(1);

/// Maximum age of a scan on which a deregistration is based, if scans are quick.
const CALL_LIFETIME: Duration = Duration::from_secs(15);

/// Median duration of a scan below which scans are quick.
const QUICK: Duration = Duration::from_secs(5);

/// How long before a scan becomes stale the next one must be complete.
const MARGIN: Duration = Duration::from_secs(5);
const CALL_MARGIN: Duration = Duration::from_secs(2);

/// Longest interval between scans while revisions only cool down. ECS returns a stopped task for
/// about an hour.
const COOL_DOWN_INTERVAL: Duration = Duration::from_mins(20);

/// Longest gap between two scans across which a revision counts as unused. It is well below the
/// hour for which ECS returns stopped tasks.
pub const LONGEST_GAP: Duration = Duration::from_mins(45);

/// The purpose for which usage is needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// To report usage, and to notice its end.
    Report,
    /// To confirm that a revision stays unused until its cool-down ends.
    CoolDown { until: Instant },
    /// To deregister.
    Deregister,
}

/// Start and end of a scan, and the typical duration of scans.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub began: Instant,
    pub ended: Instant,
    /// Median duration of the last few scans.
    pub median: Duration,
}

impl Timing {
    /// Returns how long the scan took.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }

    /// Returns true if the scan is fresh enough for `purpose` at `now`. If scans take longer than
    /// half a minute, a scan stays fresh until the next one can be complete.
    #[must_use]
    pub fn is_fresh(&self, purpose: Purpose, now: Instant) -> bool {
        let lifetime = match purpose {
            Purpose::CoolDown { .. } => LONGEST_GAP,
            Purpose::Deregister if self.median < QUICK => CALL_LIFETIME,
            Purpose::Report | Purpose::Deregister => LIFETIME.max(2 * self.duration()),
        };
        now < self.began + lifetime
    }

    /// Returns when the next scan is due for `purpose`. Scans become more frequent towards the end
    /// of a cool-down.
    #[must_use]
    pub fn next(&self, purpose: Purpose) -> Instant {
        let duration = self.duration();
        let interval = duration.max(LIFETIME.saturating_sub(duration + MARGIN));
        self.began
            + match purpose {
                Purpose::CoolDown { until } => {
                    let quarter = until.saturating_duration_since(self.began) / 4;
                    quarter.clamp(interval, COOL_DOWN_INTERVAL.max(interval))
                }
                Purpose::Deregister if self.median < QUICK => CALL_LIFETIME.saturating_sub(self.lead()),
                Purpose::Report | Purpose::Deregister => interval,
            }
    }

    /// Returns when the next scan is due for a permit that is available in `wait`.
    #[must_use]
    pub fn next_for_permit(&self, wait: Duration, now: Instant) -> Instant {
        let due = now + wait.saturating_sub(self.lead());
        self.next(Purpose::Report).min(self.next(Purpose::Deregister).max(due))
    }

    /// Returns how long before its result is needed a scan must begin.
    fn lead(&self) -> Duration {
        self.median + CALL_MARGIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(duration: u64) -> Timing {
        let (began, duration) = (Instant::now(), Duration::from_secs(duration));
        Timing { began, ended: began + duration, median: duration }
    }

    fn after(seconds: u64, timing: &Timing) -> Instant {
        timing.began + Duration::from_secs(seconds)
    }

    #[test]
    fn reported_usage_is_fresh_for_a_minute_or_until_the_next_scan_can_be_complete() {
        let quick = timing(2);
        assert!(quick.is_fresh(Purpose::Report, after(59, &quick)));
        assert!(!quick.is_fresh(Purpose::Report, after(60, &quick)));
        assert_eq!(quick.next(Purpose::Report), after(53, &quick));

        let slow = timing(25);
        assert_eq!(slow.next(Purpose::Report), after(30, &slow), "complete when this one is 55 s old");

        let slower = timing(100);
        assert_eq!(slower.next(Purpose::Report), after(100, &slower), "back to back");
        assert!(slower.is_fresh(Purpose::Report, after(199, &slower)));
        assert!(!slower.is_fresh(Purpose::Report, after(200, &slower)));
    }

    #[test]
    fn deregistration_needs_a_scan_of_the_last_15_s_if_scans_are_quick() {
        let quick = timing(4);
        assert!(quick.is_fresh(Purpose::Deregister, after(14, &quick)));
        assert!(!quick.is_fresh(Purpose::Deregister, after(15, &quick)));
        assert_eq!(quick.next(Purpose::Deregister), after(9, &quick), "complete when this one is 13 s old");

        let slow = timing(5);
        assert!(slow.is_fresh(Purpose::Deregister, after(59, &slow)));
        assert_eq!(slow.next(Purpose::Deregister), slow.next(Purpose::Report));
        let outlier = Timing { median: Duration::from_secs(1), ..timing(20) };
        assert!(!outlier.is_fresh(Purpose::Deregister, after(20, &outlier)), "quick by the median");
    }

    #[test]
    fn scans_are_frequent_only_if_a_permit_is_near() {
        let timing = timing(1);
        let due = |wait| timing.next_for_permit(Duration::from_secs(wait), timing.began);
        assert_eq!(due(0), after(12, &timing), "a permit is available");
        assert_eq!(due(15), after(12, &timing));
        assert_eq!(due(30), after(27, &timing), "complete right before");
        assert_eq!(due(3_600), timing.next(Purpose::Report));
    }

    #[test]
    fn cool_down_is_scanned_every_20_min_and_more_often_towards_its_end() {
        let timing = timing(1);
        let next = |left| timing.next(Purpose::CoolDown { until: after(left, &timing) });
        assert_eq!(next(86_400), after(1_200, &timing));
        assert_eq!(next(1_200), after(300, &timing));
        for left in [0, 20, 90] {
            assert_eq!(next(left), timing.next(Purpose::Report), "{left}");
        }
        let cool_down = Purpose::CoolDown { until: after(86_400, &timing) };
        assert!(timing.is_fresh(cool_down, after(44 * 60, &timing)));
        assert!(!timing.is_fresh(cool_down, after(45 * 60, &timing)));
    }
}
