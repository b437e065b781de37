//! Sessions per region: the identity of the credentials, the ECS client and the rate limiters.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::{Region, SdkConfig, identity::IdentityCache, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError,
};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    aws::{
        backoff::Backoff,
        credentials::RotatingCredentials,
        credentials_error::{self, Role},
        ecs_client::{Ecs, OPERATION_LIMIT, observed},
        error::{self, NO_ANSWER, code, rejects_credentials},
        identity::{Identity, principal},
        outage::OutageLog,
        permit_queue::Pacing,
        rate_limiter::{RateLimiter, RequeueTrigger, ResourceKey},
        response::{Failure, FailureKind},
        response_clock::AwsClock,
        usage_cache::{IsActive, UsageCache},
    },
    clock::Clock,
};

/// Timeouts of a call to AWS. SDK retries are disabled; the next reconcile is the retry.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a region counts as unavailable after a failed `GetCallerIdentity`.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// Minimum interval between reads of the identity that are due to credentials rejected by ECS.
const REJECTION_INTERVAL: Duration = Duration::from_mins(1);

const GET_CALLER_IDENTITY: &str = "GetCallerIdentity";

/// The controller's credentials, with one session per region.
pub struct Account {
    config: SdkConfig,
    credentials: RotatingCredentials,
    /// STS in the default region, where valid credentials always work. `None` without a default
    /// region.
    default_sts: Option<aws_sdk_sts::Client>,
    pacing: Pacing,
    requeue_trigger: RequeueTrigger,
    is_active: IsActive,
    aws_clock: Arc<AwsClock>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// The credentials, clients and limits of one region.
pub struct Session {
    pub ecs: Ecs,
    /// Rate limiter of `DescribeTaskDefinition` calls, at half of the rate of ECS.
    pub reads: Arc<RateLimiter>,
    /// Rate limiter of `DeregisterTaskDefinition` calls.
    pub deregistrations: Arc<RateLimiter>,
    /// Usage of the revisions in this region.
    pub usage: Arc<UsageCache>,
    region: String,
    sts: aws_sdk_sts::Client,
    default_sts: Option<aws_sdk_sts::Client>,
    credentials: RotatingCredentials,
    outages: OutageLog,
    known: tokio::sync::Mutex<Known>,
}

/// The known identity and the last failure to read it.
#[derive(Default)]
struct Known {
    /// The access key to which all other fields except `failed` belong.
    access_key: Option<String>,
    identity: Option<Identity>,
    /// When the identity was last read because ECS rejected the credentials.
    checked_at: Option<Instant>,
    backoff: Backoff,
    /// When reading the identity last failed, and why. `None` once it succeeds.
    failed: Option<(Instant, Failure)>,
}

impl Account {
    /// Creates an account with the credentials, default region and endpoints of `config`.
    ///
    /// `pacing` applies to each region separately. `requeue_trigger` requeues resources once a
    /// permit or a new usage result is available. Background tasks call AWS only while `is_active`
    /// returns true.
    #[must_use]
    pub fn new(
        config: &SdkConfig,
        pacing: Pacing,
        requeue_trigger: RequeueTrigger,
        is_active: IsActive,
        clock: Clock,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_LIMIT)
            .build();
        let aws_clock = AwsClock::new(clock);
        let credentials = RotatingCredentials::new(config);
        let mut builder = config.to_builder();
        builder.set_http_client(config.http_client().map(|client| aws_clock.observing(client)));
        let config = builder
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // The provider caches the credentials and detects their rotation.
            .identity_cache(IdentityCache::no_cache())
            .build();
        let default_sts = config.region().is_some().then(|| aws_sdk_sts::Client::new(&config));
        let sessions = Mutex::default();
        Self { config, credentials, default_sts, pacing, requeue_trigger, is_active, aws_clock, sessions }
    }

    /// Removes a deleted resource from the queues and usage caches of all regions.
    pub fn leave(&self, key: &ResourceKey) {
        self.for_each(|session| {
            session.leave(key);
            session.usage.forget(key);
        });
    }

    /// Returns the earliest possible time by AWS's clock, or `None` until AWS has reported the
    /// time.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.aws_clock.now()
    }

    /// Updates the metrics of all regions.
    pub fn measure(&self) {
        self.aws_clock.measure();
        self.for_each(|session| {
            session.reads.measure();
            session.deregistrations.measure();
            session.usage.measure();
        });
    }

    fn for_each(&self, mut visit: impl FnMut(&Session)) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.values().for_each(|session| visit(session));
    }

    /// Returns one message per region without an identity. Empty before the first read, and if any
    /// region has an identity, because a single failing region is usually a wrong `spec.region`.
    #[must_use]
    pub fn identity_failures(&self) -> Vec<String> {
        let (mut failures, mut is_known) = (Vec::new(), false);
        self.for_each(|session| {
            is_known |= session.has_identity();
            failures.extend(session.identity_failure());
        });
        if is_known { Vec::new() } else { failures }
    }

    /// Returns the region of the environment, for resources without a region.
    #[must_use]
    pub fn default_region(&self) -> Option<&str> {
        self.config.region().map(AsRef::as_ref)
    }

    /// Returns the session of `region`, which is created on first use.
    #[must_use]
    pub fn session(&self, region: &str) -> Arc<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(region) {
            return session.clone();
        }
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        let (wake, is_active) = (|| self.requeue_trigger.clone(), self.is_active.clone());
        let deregistrations = RateLimiter::spawn("modify", region, self.pacing, wake());
        let reads = RateLimiter::spawn("read", region, self.pacing.reads(), wake());
        let (permits, clock) = (deregistrations.clone(), self.aws_clock.clone());
        let session = Arc::new(Session {
            ecs: Ecs::new(&config),
            usage: UsageCache::spawn(&config, region, permits, wake(), is_active, clock),
            reads,
            deregistrations,
            region: region.to_owned(),
            sts: aws_sdk_sts::Client::new(&config),
            default_sts: self.default_sts.clone(),
            credentials: self.credentials.clone(),
            outages: OutageLog::new(region),
            known: tokio::sync::Mutex::default(),
        });
        sessions.insert(region.to_owned(), session.clone());
        session
    }
}

impl Session {
    /// Gives up the queue positions and permits of a resource in this region.
    pub fn leave(&self, key: &ResourceKey) {
        self.reads.leave(key);
        self.deregistrations.leave(key);
    }

    /// Returns true if AWS is unavailable in this region, so that a reconcile could not make
    /// progress.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_region_unavailable = |known: &Known| {
            known.failed.as_ref().is_some_and(|(at, failure)| {
                failure.kind == FailureKind::Unavailable && at.elapsed() < FAILURE_LIFETIME
            })
        };
        self.ecs.is_open() || self.known.try_lock().is_ok_and(|known| is_region_unavailable(&known))
    }

    /// Returns the identity of the current credentials. It is read once per set of credentials, and
    /// again if ECS rejects them. A failure is returned to all callers until its backoff ends.
    ///
    /// # Errors
    /// Returns the failure of STS or of the credentials provider.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        let known = &mut *self.known.lock().await;
        let result = self.current_identity(known).await;
        match &result {
            Ok(_) => known.failed = None,
            Err(failure) => {
                let is_new =
                    known.failed.as_ref().is_none_or(|(_, previous)| !previous.is_same_error(failure));
                if is_new {
                    tracing::warn!(region = self.region, message = failure.message, "identity unknown");
                }
                known.failed = Some((Instant::now(), failure.clone()));
            }
        }
        result
    }

    /// Shortens the backoff of failed credentials and identity reads after a request of a user.
    /// Does nothing if an attempt is in progress.
    pub fn shorten_backoff(&self) {
        self.credentials.shorten_backoff();
        if let Ok(mut known) = self.known.try_lock() {
            known.backoff.shorten();
        }
    }

    async fn current_identity(&self, known: &mut Known) -> Result<Identity, Failure> {
        let access_key = self.access_key().await?;
        if known.access_key.as_ref() != Some(&access_key) {
            let failed = known.failed.take();
            *known = Known { access_key: Some(access_key.clone()), failed, ..Known::default() };
        }
        if let Some(identity) = &known.identity
            && !self.is_rejected(known.checked_at)
        {
            return Ok(identity.clone());
        }
        if known.identity.is_some() {
            known.checked_at = Some(Instant::now());
        }
        if let Some(failure) = known.backoff.failure(Instant::now()) {
            return Err(failure.clone());
        }
        let mut result = self.read(known, access_key.clone()).await;
        if let Err(failure) = &result
            && self.has_invalid_credentials(failure).await
            && self.credentials.discard(&access_key).await
        {
            let access_key = self.access_key().await?;
            result = self.read(known, access_key).await;
        }
        result.inspect_err(|failure| known.backoff.record_failure(failure.clone(), Instant::now()))
    }

    /// Returns true if ECS has rejected the credentials since the last check. There may be another
    /// cause, such as a region that is not enabled, so the check is made at most once per minute.
    fn is_rejected(&self, checked_at: Option<Instant>) -> bool {
        let is_recent = checked_at.is_some_and(|at| at.elapsed() < REJECTION_INTERVAL);
        !is_recent && (self.ecs.take_rejection() | self.usage.take_rejection())
    }

    /// Returns true if `failure` reports invalid credentials and STS in the default region confirms
    /// it. A region that is not enabled rejects valid credentials as well.
    async fn has_invalid_credentials(&self, failure: &Failure) -> bool {
        let rejects = |failure: &Failure| failure.code.as_deref().is_some_and(rejects_credentials);
        match &self.default_sts {
            Some(sts) if rejects(failure) => {
                let response = observed(GET_CALLER_IDENTITY, sts.get_caller_identity().send()).await;
                response.is_err_and(|error| rejects(&error::failure(&error)))
            }
            _ => false,
        }
    }

    async fn read(&self, known: &mut Known, access_key: String) -> Result<Identity, Failure> {
        let result = self.get_caller_identity().await;
        known.identity = result.as_ref().ok().cloned();
        if result.is_ok() {
            self.usage.reset_for(&access_key);
        }
        known.access_key = Some(access_key);
        result
    }

    fn has_identity(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.failed.is_none() && known.identity.is_some())
    }

    /// Returns the last failure to read the identity. `None` while a read is in progress.
    fn identity_failure(&self) -> Option<String> {
        let known = self.known.try_lock().ok()?;
        known.failed.as_ref().map(|(_, failure)| format!("{}: {}", self.region, failure.message))
    }

    /// Returns the access key ID of the current credentials. Applies a timeout because credential
    /// providers may make network calls and have none.
    async fn access_key(&self) -> Result<String, Failure> {
        let loaded = tokio::time::timeout(OPERATION_LIMIT, self.credentials.provide_credentials()).await;
        let loaded = loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(OPERATION_LIMIT)));
        let loaded = loaded.map_err(|error| credentials_error::failure(&error, &Role::default()))?;
        Ok(loaded.access_key_id().to_owned())
    }

    async fn get_caller_identity(&self) -> Result<Identity, Failure> {
        let response = observed(GET_CALLER_IDENTITY, self.sts.get_caller_identity().send()).await;
        let response = response.map_err(|error| {
            let failure = error::failure(&error);
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
        let text = "sts:GetCallerIdentity answered without a usable Arn and Account";
        let identity = Identity::of_caller(arn, account, &self.region)
            .ok_or_else(|| Failure::new(FailureKind::Unavailable, text))?;
        let region = &self.region;
        tracing::info!(account, region, principal = principal(arn), "identity known");
        Ok(identity)
    }
}
