//! The token buckets of ECS, per account and region. No I/O; the time is an argument.

use super::caller::Location;
use std::{collections::HashMap, time::Instant};

/// A group of calls that share a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    Modify,
    Delete,
    Read,
    ClusterRead,
    ClusterResourceRead,
    ServiceRead,
    ServiceDeployment,
    ServiceRevision,
}

impl Bucket {
    const fn burst(self) -> f64 {
        match self {
            Self::Modify => 20.0,
            Self::Delete => 5.0,
            Self::Read | Self::ClusterRead | Self::ServiceDeployment | Self::ServiceRevision => 50.0,
            Self::ClusterResourceRead | Self::ServiceRead => 100.0,
        }
    }

    const fn refill_per_second(self) -> f64 {
        match self {
            Self::Modify | Self::Delete => 1.0,
            _ => 20.0,
        }
    }
}

/// The token buckets of all accounts and regions. Each starts full.
pub(super) struct Throttling {
    speed: f64,
    levels: HashMap<(Location, Bucket), Level>,
}

struct Level {
    tokens: f64,
    at: Instant,
}

impl Throttling {
    /// Creates buckets that refill at `speed` times the real rate.
    pub(super) fn new(speed: f64) -> Self {
        Self { speed, levels: HashMap::new() }
    }

    /// Takes a token if there is one. A throttled call costs nothing.
    pub(super) fn try_take(&mut self, location: &Location, bucket: Bucket, now: Instant) -> bool {
        let level = self
            .levels
            .entry((location.clone(), bucket))
            .or_insert(Level { tokens: bucket.burst(), at: now });
        let elapsed = now.saturating_duration_since(level.at).as_secs_f64() * self.speed;
        level.tokens = (level.tokens + elapsed * bucket.refill_per_second()).min(bucket.burst());
        level.at = now;
        let has_token = level.tokens >= 1.0;
        if has_token {
            level.tokens -= 1.0;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MODIFY: Bucket = Bucket::Modify;

    fn location(account: &str, region: &str) -> Location {
        Location { account: account.to_owned(), region: region.to_owned() }
    }

    fn count_taken(throttling: &mut Throttling, bucket: Bucket, attempts: usize, now: Instant) -> usize {
        let west = location("012345678910", "us-west-2");
        (0..attempts).filter(|_| throttling.try_take(&west, bucket, now)).count()
    }

    #[test]
    fn bucket_starts_with_its_full_burst() {
        let now = Instant::now();
        let mut throttling = Throttling::new(1.0);
        assert_eq!(count_taken(&mut throttling, MODIFY, 30, now), 20);
        assert_eq!(count_taken(&mut throttling, Bucket::Delete, 30, now), 5);
        assert_eq!(count_taken(&mut throttling, Bucket::Read, 60, now), 50);
    }

    #[test]
    fn empty_bucket_refills_up_to_its_burst() {
        let start = Instant::now();
        let mut throttling = Throttling::new(1.0);
        count_taken(&mut throttling, MODIFY, 20, start);
        let later = start + Duration::from_millis(2_500);
        assert_eq!(count_taken(&mut throttling, MODIFY, 30, later), 2);
        let much_later = start + Duration::from_hours(1);
        assert_eq!(count_taken(&mut throttling, MODIFY, 30, much_later), 20);
    }

    #[test]
    fn refill_rate_scales_with_speed() {
        let start = Instant::now();
        let mut throttling = Throttling::new(60.0);
        count_taken(&mut throttling, MODIFY, 20, start);
        let later = start + Duration::from_millis(100);
        assert_eq!(count_taken(&mut throttling, MODIFY, 30, later), 6);
    }

    #[test]
    fn each_account_and_region_has_its_own_buckets() {
        let now = Instant::now();
        let mut throttling = Throttling::new(1.0);
        count_taken(&mut throttling, MODIFY, 20, now);
        assert!(throttling.try_take(&location("012345678910", "us-east-1"), MODIFY, now));
        assert!(throttling.try_take(&location("999999999999", "us-west-2"), MODIFY, now));
        assert!(!throttling.try_take(&location("012345678910", "us-west-2"), MODIFY, now));
    }
}
