//! A session of one source of credentials in one region: verifies the identity before any call to
//! ECS.

use std::{sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use crate::aws::{
    backoff::Backoff,
    credentials::RotatingCredentials,
    credentials_error::{self, GET_CALLER_IDENTITY, Role},
    ecs_client::{Ecs, OPERATION_LIMIT, observed},
    error::{NO_ANSWER, code},
    identity::{Identity, principal},
    limits::{Limits, Membership, RateLimits},
    outage::OutageLog,
    permit_queue::Pacing,
    rate_limiter::{QueuePosition, RequeueTrigger, ResourceKey},
    response::{Failure, FailureKind},
    response_clock::AwsClock,
    usage_cache::{IsActive, UsageCache},
};

/// How long a region counts as unavailable after a failed `GetCallerIdentity`.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// Minimum interval between reads of the identity that are due to credentials rejected by ECS.
const REJECTION_INTERVAL: Duration = Duration::from_mins(1);

/// What the sessions of a source of credentials use.
pub(super) struct Shared {
    pub(super) limits: Arc<Limits>,
    pub(super) pacing: Pacing,
    pub(super) requeue_trigger: RequeueTrigger,
    pub(super) is_active: IsActive,
    pub(super) aws_clock: Arc<AwsClock>,
}

/// One source of credentials in one region.
pub struct Session {
    region: String,
    config: SdkConfig,
    sts: aws_sdk_sts::Client,
    /// STS in the default region of the source, where valid credentials always work. `None` without
    /// a default region.
    default_sts: Option<aws_sdk_sts::Client>,
    credentials: RotatingCredentials,
    /// The account that the credentials must belong to; `None` if any account is accepted.
    expected_account: Option<String>,
    shared: Arc<Shared>,
    outages: OutageLog,
    known: tokio::sync::Mutex<Known>,
    /// The result of the last attempt to verify the identity: when it failed, and why. Readable
    /// during the next attempt, which locks `known`. `None` before the first.
    attempted: Mutex<Option<Result<(), (Instant, Failure)>>>,
    /// The session of the last verified identity.
    verified: Mutex<Option<Arc<VerifiedSession>>>,
}

/// A session whose identity is verified: the ECS client, usage cache and rate limits.
pub struct VerifiedSession {
    pub identity: Identity,
    /// The ARN of the caller without the name of the session.
    pub principal: String,
    pub ecs: Arc<Ecs>,
    /// Usage of the revisions in this account and region.
    pub usage: Arc<UsageCache>,
    membership: Membership,
    /// The task that scans for usage. It ends when this is dropped.
    _scans: JoinSet<()>,
}

/// The known identity.
#[derive(Default)]
struct Known {
    /// The access key to which all other fields belong.
    access_key: Option<String>,
    is_verified: bool,
    /// When the identity was last read because ECS rejected the credentials.
    checked_at: Option<Instant>,
    backoff: Backoff,
}

impl Session {
    pub(super) fn new(
        config: SdkConfig,
        region: &str,
        default_sts: Option<aws_sdk_sts::Client>,
        credentials: RotatingCredentials,
        expected_account: Option<String>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            region: region.to_owned(),
            sts: aws_sdk_sts::Client::new(&config),
            config,
            default_sts,
            credentials,
            expected_account,
            shared,
            outages: OutageLog::new(region),
            known: tokio::sync::Mutex::default(),
            attempted: Mutex::default(),
            verified: Mutex::default(),
        }
    }

    /// Returns true if AWS is unavailable in this region, so that a reconcile could not make
    /// progress.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_region_unavailable = || match &*self.attempted.lock() {
            Some(Err((at, failure))) => {
                failure.kind == FailureKind::Unavailable && at.elapsed() < FAILURE_LIFETIME
            }
            _ => false,
        };
        self.verified.lock().as_ref().is_some_and(|verified| verified.ecs.is_open())
            || is_region_unavailable()
    }

    /// Returns true while the identity of a session that has none is being read.
    #[must_use]
    pub fn is_being_verified(&self) -> bool {
        self.last_verified().is_none() && self.known.try_lock().is_err()
    }

    /// Verifies the identity of the current credentials. It is read once per set of credentials,
    /// and again if ECS rejects them. A failure is returned to all callers until its backoff ends.
    ///
    /// The first verification in an account spawns the task that scans for usage.
    ///
    /// # Errors
    /// Returns the failure of STS or of the credentials provider, or `AccountMismatch` if the
    /// credentials belong to another account than the expected one.
    pub async fn verify(&self) -> Result<Arc<VerifiedSession>, Failure> {
        let known = &mut *self.known.lock().await;
        let result = self.verify_current(known).await;
        let mut attempted = self.attempted.lock();
        if let Err(failure) = &result
            && !matches!(&*attempted, Some(Err((_, previous))) if previous.is_same_error(failure))
        {
            tracing::warn!(region = self.region, message = failure.message, "identity not verified");
        }
        let ended = result.as_ref().map(drop);
        *attempted = Some(ended.map_err(|failure| (Instant::now(), failure.clone())));
        result
    }

    /// Returns the session of the last verified identity, without a call to AWS. `None` if there is
    /// none.
    #[must_use]
    pub fn last_verified(&self) -> Option<Arc<VerifiedSession>> {
        self.verified.lock().clone()
    }

    /// Shortens the backoff of failed credentials and identity reads after a request of a user.
    /// Does nothing if an attempt is in progress.
    pub fn shorten_backoff(&self) {
        self.credentials.shorten_backoff();
        if let Ok(mut known) = self.known.try_lock() {
            known.backoff.shorten();
        }
    }

    async fn verify_current(&self, known: &mut Known) -> Result<Arc<VerifiedSession>, Failure> {
        let access_key = self.access_key().await?;
        if known.access_key.as_ref() != Some(&access_key) {
            *known = Known { access_key: Some(access_key.clone()), ..Known::default() };
        }
        if known.is_verified
            && let Some(verified) = self.last_verified()
            && !is_rejected(&verified, known.checked_at)
        {
            return Ok(verified);
        }
        if known.is_verified {
            known.checked_at = Some(Instant::now());
        }
        if let Some(failure) = known.backoff.failure(Instant::now()) {
            return Err(failure.clone());
        }
        let mut result = self.read(known, access_key.clone()).await;
        if let Err(failure) = &result
            && self.credentials.discard_if_rejected(&access_key, failure, self.default_sts.as_ref()).await
        {
            let access_key = self.access_key().await?;
            result = self.read(known, access_key).await;
        }
        result.inspect_err(|failure| known.backoff.record_failure(failure.clone(), Instant::now()))
    }

    async fn read(&self, known: &mut Known, access_key: String) -> Result<Arc<VerifiedSession>, Failure> {
        known.access_key = Some(access_key);
        known.is_verified = false;
        let (identity, principal) = self.get_caller_identity().await?;
        if let Some(expected) = self.expected_account.as_ref().filter(|it| **it != identity.account) {
            let message = format!(
                "the credentials belong to account {}, and not to account {expected}",
                identity.account
            );
            return Err(Failure::new(FailureKind::AccountMismatch, message));
        }
        known.is_verified = true;
        let mut current = self.verified.lock();
        let verified = match &*current {
            Some(verified) if (&verified.identity, &verified.principal) == (&identity, &principal) => {
                verified.clone()
            }
            _ => Arc::new(VerifiedSession::spawn(&self.config, identity, principal, &self.shared)),
        };
        *current = Some(verified.clone());
        Ok(verified)
    }

    pub(super) fn has_identity(&self) -> bool {
        matches!(&*self.attempted.lock(), Some(Ok(())))
    }

    /// Returns why the last attempt to verify the identity failed. `None` if it succeeded, or
    /// before the first.
    pub(super) fn identity_failure(&self) -> Option<String> {
        match &*self.attempted.lock() {
            Some(Err((_, failure))) => Some(format!("{}: {}", self.region, failure.message)),
            _ => None,
        }
    }

    /// Returns the access key ID of the current credentials. Applies a timeout because credential
    /// providers may make network calls and have none.
    async fn access_key(&self) -> Result<String, Failure> {
        let loaded = tokio::time::timeout(OPERATION_LIMIT, self.credentials.provide_credentials()).await;
        let loaded = loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(OPERATION_LIMIT)));
        let loaded = loaded.map_err(|error| credentials_error::failure(&error, &Role::default()))?;
        Ok(loaded.access_key_id().to_owned())
    }

    /// Returns the identity, and the ARN of the caller without the name of the session.
    async fn get_caller_identity(&self) -> Result<(Identity, String), Failure> {
        let response = observed(GET_CALLER_IDENTITY, self.sts.get_caller_identity().send()).await;
        let response = response.map_err(|error| {
            let failure = credentials_error::call_failure(&error);
            if code(&error) == NO_ANSWER {
                self.outages.record_outage(GET_CALLER_IDENTITY, &failure.message, &error);
                failure
            } else {
                self.outages.record_response(GET_CALLER_IDENTITY);
                failure.during(GET_CALLER_IDENTITY)
            }
        })?;
        self.outages.record_response(GET_CALLER_IDENTITY);
        let (arn, account) = (response.arn().unwrap_or_default(), response.account().unwrap_or_default());
        let text = "the response of sts:GetCallerIdentity has no usable Arn and Account";
        let identity = Identity::of_caller(arn, account, &self.region)
            .ok_or_else(|| Failure::new(FailureKind::Unavailable, text))?;
        let (region, principal) = (&self.region, principal(arn).to_owned());
        tracing::info!(account, region, principal, "identity verified");
        Ok((identity, principal))
    }
}

impl VerifiedSession {
    fn spawn(config: &SdkConfig, identity: Identity, principal: String, shared: &Arc<Shared>) -> Self {
        let membership = shared.limits.join(&identity.account, &identity.region, shared.pacing);
        let ecs = Arc::new(Ecs::new(config));
        let usage = Arc::new(UsageCache::new(
            &identity,
            membership.limits.deregistrations.clone(),
            shared.requeue_trigger.clone(),
            shared.aws_clock.clone(),
        ));
        let mut scans = JoinSet::new();
        let (cache, buckets) = (usage.clone(), membership.limits.scans.clone());
        let (client, is_active) = (ecs.clone(), shared.is_active.clone());
        scans.spawn(async move { cache.scan_while_awaited(client, buckets, is_active).await });
        Self { identity, principal, ecs, usage, membership, _scans: scans }
    }

    #[must_use]
    pub fn limits(&self) -> &RateLimits {
        &self.membership.limits
    }
}

/// Returns true if ECS has rejected the credentials since the last check. There may be another
/// cause, such as a region that is not enabled, so the check is made at most once per minute.
fn is_rejected(verified: &VerifiedSession, checked_at: Option<Instant>) -> bool {
    let is_recent = checked_at.is_some_and(|at| at.elapsed() < REJECTION_INTERVAL);
    !is_recent && verified.ecs.take_rejection()
}

/// Registration of one resource in the wait queues and the usage cache of a session. Leaves them
/// when dropped.
pub struct Waiter {
    pub session: Arc<VerifiedSession>,
    pub key: ResourceKey,
}

impl Waiter {
    /// Leaves the wait queues, and returns granted permits.
    pub fn leave_queues(&self) {
        self.session.limits().reads.leave(&self.key);
        self.session.limits().deregistrations.leave(&self.key);
    }

    /// Returns true if a permit to deregister is granted to the resource.
    #[must_use]
    pub fn has_permit(&self) -> bool {
        self.session.limits().deregistrations.has_permit(&self.key)
    }

    /// Returns the positions in the queues for a permit to deregister and for a permit to read.
    /// `None` if the resource is not queued.
    #[must_use]
    pub fn queue_positions(&self) -> (Option<QueuePosition>, Option<QueuePosition>) {
        let RateLimits { reads, deregistrations, .. } = self.session.limits();
        (deregistrations.queue_position(&self.key), reads.queue_position(&self.key))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave_queues();
        self.session.usage.forget(&self.key);
    }
}

#[cfg(test)]
mod tests;
