//! Leader election on a Lease: client-go's protocol, with leadership as a deadline on the monotonic clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};

use crate::{clock::Clock, in_flight};

/// How long others wait, after a trigger that they saw, before they take the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const LEASE_SECONDS: i32 = 15;

/// How long a leader acts on a trigger: shorter, so that it has stopped by the time another may start.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often a leader renews.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How often a standby looks: whatever it sees late, it waits longer for.
const STANDBY_PERIOD: Duration = Duration::from_secs(1);

/// How long the release of the lease may take: longer than this, the standby waits for the lease to expire.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Whether this process may act, and until when.
#[derive(Debug)]
pub struct Leadership {
    /// `None` for ever, where nobody else is there to act.
    until: Mutex<Option<Instant>>,
    terms: watch::Sender<u64>,
}

impl Leadership {
    /// For a process that is the only one.
    #[must_use]
    pub fn sole() -> Self {
        Self { until: Mutex::new(None), terms: watch::Sender::new(1) }
    }

    /// For one of several processes, none of which leads yet.
    #[must_use]
    pub fn none() -> Self {
        Self { until: Mutex::new(Some(Instant::now())), terms: watch::Sender::new(0) }
    }

    /// Whether this process may act at this very moment: a comparison with the clock, not a flag that somebody must have
    /// cleared.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| Instant::now() < until)
    }

    /// Counts the times that this process came to lead.
    #[must_use]
    pub fn terms(&self) -> watch::Receiver<u64> {
        self.terms.subscribe()
    }

    fn hold_until(&self, until: Instant) {
        let is_new = !self.is_held();
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        if is_new {
            tracing::info!("leading");
            self.terms.send_modify(|terms| *terms += 1);
        }
    }

    fn give_up(&self) {
        if self.is_held() {
            tracing::warn!("no longer leading");
        }
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// One candidate for the lease.
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
    /// When it was first seen so: other processes' clocks are not believed.
    since: Instant,
    /// This process wrote it.
    is_own: bool,
}

/// What came of one try.
#[derive(Debug)]
enum Try {
    Held,
    /// By another, and free to be taken at this time.
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

    /// Takes part until dropped.
    pub async fn run(&mut self) {
        loop {
            // From before the request: the API server may have answered any time since.
            let began = Instant::now();
            let next = match self.acquire_or_renew().await {
                Ok(Try::Held) => {
                    self.leadership.hold_until(began + RENEW_DEADLINE);
                    began + RETRY_PERIOD
                }
                Ok(Try::HeldByAnother(free)) => {
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

    /// Gives the lease to whoever is next.
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
        if let Some(lease) = read.await?.filter(|lease| self.is_ours(lease)) {
            let released = LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                ..lease.spec.clone().unwrap_or_default()
            };
            self.replace(lease, released).await?;
        }
        Ok(())
    }

    async fn acquire_or_renew(&mut self) -> kube::Result<Try> {
        let now = Some(MicroTime((self.clock)()));
        let ours = LeaseSpec {
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
            return Ok(Try::HeldByAnother(free));
        }
        let began = Instant::now();
        let written = match lease {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(ours) };
                in_flight::kubernetes("create lease", self.api.create(&PostParams::default(), &lease)).await?
            }
            Some(lease) => {
                let held = lease.spec.clone().unwrap_or_default();
                let spec = if self.is_ours(&lease) {
                    LeaseSpec {
                        acquire_time: held.acquire_time,
                        lease_transitions: held.lease_transitions,
                        ..ours
                    }
                } else {
                    let transitions = held.lease_transitions.unwrap_or_default().saturating_add(1);
                    LeaseSpec { lease_transitions: Some(transitions), ..ours }
                };
                self.replace(lease, spec).await?
            }
        };
        self.observed = written.spec.map(|spec| Observed { spec, since: began, is_own: true });
        Ok(Try::Held)
    }

    /// Returns true if the lease is still this process's. After a restore of etcd it may be an older one, while another process
    /// leads: so it counts only while this process leads, or if it is what this process wrote and saw no other since.
    fn is_renewal(&self, lease: Option<&Lease>) -> bool {
        let Some(lease) = lease else { return self.leadership.is_held() };
        let is_as_written =
            self.observed.as_ref().is_some_and(|it| it.is_own && Some(&it.spec) == lease.spec.as_ref());
        self.is_ours(lease) && (self.leadership.is_held() || is_as_written)
    }

    /// Returns when the lease may be acquired: one duration after it was first seen as it is. `None`: now. A lease that is
    /// missing, as after a restore of etcd, counts as it was last seen.
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

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    /// Replaces exactly the lease that was read: its resource version makes the API server refuse if another was faster.
    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> kube::Result<Lease> {
        let lease = Lease { spec: Some(spec), ..lease };
        in_flight::kubernetes("replace lease", self.api.replace(&self.name, &PostParams::default(), &lease))
            .await
    }
}

#[cfg(test)]
mod tests;
