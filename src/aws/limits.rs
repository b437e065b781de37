//! Rate limiters of ECS's buckets by AWS account and region, shared by all sources of credentials.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::aws::{
    permit_queue::Pacing,
    rate_limiter::{RateLimiter, RequeueTrigger},
    usage_scanner::ScanBuckets,
};

/// The rate limiters of one AWS account and region.
#[derive(Clone)]
pub struct RateLimits {
    /// Rate limiter of `DescribeTaskDefinition` calls, at half of the rate of ECS.
    pub reads: Arc<RateLimiter>,
    /// Rate limiter of `DeregisterTaskDefinition` calls.
    pub deregistrations: Arc<RateLimiter>,
    /// Token buckets of the calls of usage scans, at half of the rate of ECS.
    pub(super) scans: Arc<ScanBuckets>,
}

/// The rate limiters of all AWS accounts and regions.
///
/// A limiter exists only for an account that credentials were verified for. It lives as long as the
/// process, so that new credentials keep its wait queue and its backoff after throttled calls.
pub struct Limits {
    requeue_trigger: RequeueTrigger,
    shared: Mutex<HashMap<(String, String), Shared>>,
}

struct Shared {
    limits: RateLimits,
    /// The pacing of each source of credentials that uses the limiters, by a number.
    pacings: BTreeMap<u64, Pacing>,
    next: u64,
}

/// The rate limits of one source of credentials. Its pacing no longer applies once this is dropped.
pub struct Membership {
    pub limits: RateLimits,
    registry: Arc<Limits>,
    key: (String, String),
    number: u64,
}

impl Limits {
    /// Creates a registry. `requeue_trigger` requeues resources with a permit.
    #[must_use]
    pub fn new(requeue_trigger: RequeueTrigger) -> Arc<Self> {
        Arc::new(Self { requeue_trigger, shared: Mutex::default() })
    }

    /// Returns the limits of an account and region. The lowest pacing of all current members
    /// applies. Spawns the tasks of the limiters for the first member.
    #[must_use]
    pub fn join(self: &Arc<Self>, account: &str, region: &str, pacing: Pacing) -> Membership {
        let key = (account.to_owned(), region.to_owned());
        let mut all = self.shared.lock();
        let shared = all.entry(key.clone()).or_insert_with(|| {
            let spawn = |bucket, pacing| {
                RateLimiter::spawn(bucket, account, region, pacing, self.requeue_trigger.clone())
            };
            let (deregistrations, reads) = (spawn("modify", pacing), spawn("read", pacing.reads()));
            let limits = RateLimits { reads, deregistrations, scans: Arc::default() };
            Shared { limits, pacings: BTreeMap::new(), next: 0 }
        });
        let number = shared.next;
        shared.next += 1;
        shared.pacings.insert(number, pacing);
        shared.apply_lowest();
        Membership { limits: shared.limits.clone(), registry: self.clone(), key, number }
    }

    /// Updates the metrics of all limiters.
    pub fn measure(&self) {
        for Shared { limits, .. } in self.shared.lock().values() {
            limits.reads.measure();
            limits.deregistrations.measure();
        }
    }
}

impl Shared {
    /// Applies the lowest rate and the lowest burst of all members. Without members the last pacing
    /// stays.
    fn apply_lowest(&self) {
        let lowest = self.pacings.values().copied().reduce(|a, b| Pacing {
            per_second: a.per_second.min(b.per_second),
            burst: a.burst.min(b.burst),
        });
        if let Some(pacing) = lowest {
            self.limits.deregistrations.set_pacing(pacing);
            self.limits.reads.set_pacing(pacing.reads());
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(shared) = self.registry.shared.lock().get_mut(&self.key) {
            shared.pacings.remove(&self.number);
            shared.apply_lowest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn members_of_an_account_share_its_limiters_at_the_lowest_pacing() {
        let limits = Limits::new(RequeueTrigger(Arc::new(|_| {})));
        let fast = Pacing { per_second: 1.0, burst: 10 };
        let first = limits.join("012345678910", "us-west-2", fast);
        let second = limits.join("012345678910", "us-west-2", Pacing { per_second: 0.1, burst: 2 });
        let (one, two) = (&first.limits.deregistrations, &second.limits.deregistrations);
        assert!(Arc::ptr_eq(one, two));
        assert_eq!(one.pacing(), Pacing { per_second: 0.1, burst: 2 });
        for (account, region) in [("012345678910", "eu-west-1"), ("999999999999", "us-west-2")] {
            let other = limits.join(account, region, fast);
            assert!(!Arc::ptr_eq(one, &other.limits.deregistrations), "{account} {region}");
            assert_eq!(other.limits.deregistrations.pacing(), fast);
        }
        drop(second);
        assert_eq!(first.limits.deregistrations.pacing(), fast);
    }
}
