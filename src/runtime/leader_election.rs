//! Leader election with a Lease, by client-go's protocol.
//!
//! Leadership is a deadline on the monotonic clock, not a flag.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{clock::Clock, in_flight};

/// Lease duration: how long a standby waits after the last renewal that it observed before it
/// acquires the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const LEASE_SECONDS: i32 = 15;

/// How long a leader may act after it renewed the lease. This is shorter than the lease duration,
/// so a leader stops before a standby can acquire the lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Renewal interval of the leader.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Polling interval of a standby. A change that is observed late only delays the acquisition.
const STANDBY_PERIOD: Duration = Duration::from_secs(1);

/// Timeout of the release. If it is exceeded, the standby waits until the lease expires.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// The leadership of this process, and its deadline.
#[derive(Debug)]
pub struct Leadership {
    /// `None`: no election, always leader.
    until: Mutex<Option<Instant>>,
    terms: watch::Sender<u64>,
}

impl Leadership {
    /// Returns the leadership of a process that is the only replica.
    #[must_use]
    pub fn sole() -> Self {
        Self { until: Mutex::new(None), terms: watch::Sender::new(1) }
    }

    /// Returns the leadership of a replica that does not lead yet.
    #[must_use]
    pub fn none() -> Self {
        Self { until: Mutex::new(Some(Instant::now())), terms: watch::Sender::new(0) }
    }

    /// Returns true if this process may act now. This compares the deadline with the clock, so no
    /// task has to clear a flag in time.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.until.lock().is_none_or(|until| Instant::now() < until)
    }

    /// Returns a counter that is incremented whenever this process becomes the leader.
    #[must_use]
    pub fn terms(&self) -> watch::Receiver<u64> {
        self.terms.subscribe()
    }

    fn hold_until(&self, until: Instant) {
        let is_new = !self.is_held();
        *self.until.lock() = Some(until);
        if is_new {
            tracing::info!("leading");
            self.terms.send_modify(|terms| *terms += 1);
        }
    }

    fn give_up(&self) {
        if self.is_held() {
            tracing::warn!("no longer leading");
        }
        *self.until.lock() = Some(Instant::now());
    }
}

/// A candidate for the lease.
pub struct LeaderElector {
    api: Api<Lease>,
    name: String,
    identity: String,
    leadership: Arc<Leadership>,
    clock: Clock,
    observed: Option<Observed>,
}

/// The lease as it was last read or written.
struct Observed {
    spec: LeaseSpec,
    /// When this state was first observed. The times in the lease are ignored, because they come
    /// from the clocks of other processes.
    since: Instant,
    /// True if this process wrote it.
    is_own: bool,
}

/// The result of one attempt to acquire or renew the lease.
#[derive(Debug)]
enum Attempt {
    Held,
    /// Another process holds it. It may be acquired at this time.
    HeldByAnother(Instant),
}

impl LeaderElector {
    pub fn new(
        api: Api<Lease>,
        name: String,
        identity: String,
        leadership: Arc<Leadership>,
        clock: Clock,
    ) -> Self {
        Self { api, name, identity, leadership, clock, observed: None }
    }

    /// Takes part in the election until dropped.
    pub async fn run(&mut self) {
        loop {
            // Measured before the request, because the renewal may take effect any time after it.
            let began = Instant::now();
            let next = match self.acquire_or_renew().await {
                Ok(Attempt::Held) => {
                    self.leadership.hold_until(began + RENEW_DEADLINE);
                    began + RETRY_PERIOD
                }
                Ok(Attempt::HeldByAnother(free)) => {
                    self.leadership.give_up();
                    free.min(began + STANDBY_PERIOD)
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(lease = self.name, error, "cannot acquire or renew the lease");
                    began + STANDBY_PERIOD
                }
            };
            tokio::time::sleep_until(next.max(Instant::now() + Duration::from_millis(100))).await;
        }
    }

    /// Releases the lease, so that a standby can acquire it immediately.
    pub async fn release(&mut self) {
        if !self.leadership.is_held() {
            return;
        }
        self.leadership.give_up();
        let released = tokio::time::timeout(RELEASE_LIMIT, self.hand_over()).await;
        match released.unwrap_or_else(|elapsed| Err(kube::Error::Service(Box::new(elapsed)))) {
            Ok(()) => tracing::info!(lease = self.name, "lease released"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(lease = self.name, error, "cannot release the lease");
            }
        }
    }

    async fn hand_over(&self) -> kube::Result<()> {
        let read = in_flight::kubernetes("get lease", self.api.get_opt(&self.name));
        if let Some(lease) = read.await?.filter(|lease| self.is_own_lease(lease)) {
            let released = LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                ..lease.spec.clone().unwrap_or_default()
            };
            self.replace(lease, released).await?;
        }
        Ok(())
    }

    async fn acquire_or_renew(&mut self) -> kube::Result<Attempt> {
        let now = Some(MicroTime((self.clock)()));
        let own = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let lease = in_flight::kubernetes("get lease", self.api.get_opt(&self.name)).await?;
        if !self.is_renewal(lease.as_ref())
            && let Some(free) = self.free_at(lease.as_ref())
        {
            return Ok(Attempt::HeldByAnother(free));
        }
        let began = Instant::now();
        let written = match lease {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(own) };
                in_flight::kubernetes("create lease", self.api.create(&PostParams::default(), &lease)).await?
            }
            Some(lease) => {
                let previous = lease.spec.clone().unwrap_or_default();
                let spec = if self.is_own_lease(&lease) {
                    LeaseSpec {
                        acquire_time: previous.acquire_time,
                        lease_transitions: previous.lease_transitions,
                        ..own
                    }
                } else {
                    let transitions = previous.lease_transitions.unwrap_or_default().saturating_add(1);
                    LeaseSpec { lease_transitions: Some(transitions), ..own }
                };
                self.replace(lease, spec).await?
            }
        };
        self.observed = written.spec.map(|spec| Observed { spec, since: began, is_own: true });
        Ok(Attempt::Held)
    }

    /// Returns true if this process holds the lease and may renew it.
    ///
    /// After a restore of etcd, the lease may name this process although another one leads. The
    /// lease therefore counts only while this process leads, or if it is exactly what this process
    /// wrote and no other state was observed since.
    fn is_renewal(&self, lease: Option<&Lease>) -> bool {
        let Some(lease) = lease else { return self.leadership.is_held() };
        let is_as_written =
            self.observed.as_ref().is_some_and(|it| it.is_own && Some(&it.spec) == lease.spec.as_ref());
        self.is_own_lease(lease) && (self.leadership.is_held() || is_as_written)
    }

    /// Returns when the lease may be acquired: one lease duration after its current state was first
    /// observed. `None`: now.
    ///
    /// If the lease is missing, such as after a restore of etcd, its last observed state counts.
    fn free_at(&mut self, lease: Option<&Lease>) -> Option<Instant> {
        let now = Instant::now();
        if let Some(lease) = lease {
            let spec = lease.spec.clone().unwrap_or_default();
            if self.observed.as_ref().is_none_or(|it| it.spec != spec) {
                self.observed = Some(Observed { spec, since: now, is_own: false });
            }
        }
        let Observed { spec, since, .. } = self.observed.as_ref()?;
        let is_released = spec.holder_identity.as_ref().is_none_or(String::is_empty);
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let free = *since + seconds.map_or(LEASE_DURATION, Duration::from_secs);
        (!is_released && now < free).then_some(free)
    }

    fn is_own_lease(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    /// Replaces the lease that was read. If another process changed it meanwhile, the API server
    /// rejects the write with a conflict because of the resource version.
    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> kube::Result<Lease> {
        let lease = Lease { spec: Some(spec), ..lease };
        in_flight::kubernetes("replace lease", self.api.replace(&self.name, &PostParams::default(), &lease))
            .await
    }
}

#[cfg(test)]
mod tests;
