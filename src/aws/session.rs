//! The controller's credentials in each region: the identity they have there, and the calls to ECS.

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
        identity::{Identity, principal},
    },
    aws::{
        credentials_error::{self, Role},
        ecs_client::{Ecs, OPERATION_LIMIT, observed},
        error::{self, NO_ANSWER, code, rejects_credentials},
        outage::OutageLog,
        permit_queue::Pacing,
        rate_limiter::{RateLimiter, RequeueTrigger, ResourceKey},
        response::{Failure, FailureKind},
        response_clock::AwsClock,
        usage_cache::{IsActive, UsageCache},
    },
    clock::Clock,
};

/// How long a call to AWS may take. Nothing is tried twice by the SDK: a resource's next look is the one retry.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a session without an identity counts as out of reach.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// How often the identity is read again because ECS rejects the credentials.
const REJECTION_INTERVAL: Duration = Duration::from_mins(1);

const GET_CALLER_IDENTITY: &str = "GetCallerIdentity";

/// The controller's own credentials, and one session for each region they are used in.
pub struct Account {
    config: SdkConfig,
    credentials: RotatingCredentials,
    /// STS in the default region: good credentials work there, whatever regions are enabled.
    home: Option<aws_sdk_sts::Client>,
    pacing: Pacing,
    requeue_trigger: RequeueTrigger,
    is_active: IsActive,
    aws_clock: Arc<AwsClock>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// The credentials in one region.
pub struct Session {
    pub ecs: Ecs,
    /// The deregistrations to look here, at half of what ECS gives.
    pub reads: Arc<RateLimiter>,
    /// The deregistrations to deregister here.
    pub deregistrations: Arc<RateLimiter>,
    /// Who uses the revisions here.
    pub usage: Arc<UsageCache>,
    region: String,
    sts: aws_sdk_sts::Client,
    home: Option<aws_sdk_sts::Client>,
    credentials: RotatingCredentials,
    outages: OutageLog,
    known: tokio::sync::Mutex<Known>,
}

/// What is known of the identity.
#[derive(Default)]
struct Known {
    /// The access key that all but `failed` belongs to.
    access_key: Option<String>,
    identity: Option<Identity>,
    /// When a rejection by ECS was last looked into.
    checked_at: Option<Instant>,
    backoff: Backoff,
    /// The last failure, until there is an identity again.
    failed: Option<(Instant, Failure)>,
}

impl Account {
    /// The credentials, default region and endpoints of `config`.
    ///
    /// `pacing` holds in each region by itself; `requeue_trigger` wakes those who waited for a turn, or for news of who uses their
    /// revisions; nothing is called by itself unless `is_active`.
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
            // They are kept by their provider, which sees when they change.
            .identity_cache(IdentityCache::no_cache())
            .build();
        let home = config.region().is_some().then(|| aws_sdk_sts::Client::new(&config));
        Self {
            config,
            credentials,
            home,
            pacing,
            requeue_trigger,
            is_active,
            aws_clock,
            sessions: Mutex::default(),
        }
    }

    /// Gives up the places of a resource that is gone, wherever it has one.
    pub fn leave(&self, key: &ResourceKey) {
        self.each(|session| {
            session.leave(key);
            session.usage.forget(key);
        });
    }

    /// Returns the earliest that the time can be by AWS's clock, or `None` before AWS has told it.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.aws_clock.now()
    }

    /// Tells the metrics how things are in each region.
    pub fn measure(&self) {
        self.aws_clock.measure();
        self.each(|session| {
            session.reads.measure();
            session.deregistrations.measure();
            session.usage.measure();
        });
    }

    fn each(&self, mut act: impl FnMut(&Session)) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.values().for_each(|session| act(session));
    }

    /// Why the identity is not known; empty where nobody has asked yet, or where it is known in some region: that it is not in
    /// another one, such as one that does not exist, is the trouble of those who name it.
    #[must_use]
    pub fn identity_failures(&self) -> Vec<String> {
        let (mut failures, mut is_known) = (Vec::new(), false);
        self.each(|session| {
            is_known |= session.has_identity();
            failures.extend(session.identity_failure());
        });
        if is_known { Vec::new() } else { failures }
    }

    /// The region that the environment names, for resources that name none.
    #[must_use]
    pub fn default_region(&self) -> Option<&str> {
        self.config.region().map(AsRef::as_ref)
    }

    /// The session of `region`; the same one each time.
    #[must_use]
    pub fn session(&self, region: &str) -> Arc<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(region) {
            return session.clone();
        }
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        let deregistrations = RateLimiter::begin("modify", region, self.pacing, self.requeue_trigger.clone());
        let (requeue_trigger, is_active, clock) =
            (self.requeue_trigger.clone(), self.is_active.clone(), self.aws_clock.clone());
        let session = Arc::new(Session {
            ecs: Ecs::new(&config),
            reads: RateLimiter::begin("read", region, self.pacing.reads(), self.requeue_trigger.clone()),
            usage: UsageCache::begin(
                &config,
                region,
                deregistrations.clone(),
                requeue_trigger,
                is_active,
                clock,
            ),
            deregistrations,
            region: region.to_owned(),
            sts: aws_sdk_sts::Client::new(&config),
            home: self.home.clone(),
            credentials: self.credentials.clone(),
            outages: OutageLog::new(region),
            known: tokio::sync::Mutex::default(),
        });
        sessions.insert(region.to_owned(), session.clone());
        session
    }
}

impl Session {
    /// Gives up the places of a resource that has no turn to wait for here.
    pub fn leave(&self, key: &ResourceKey) {
        self.reads.leave(key);
        self.deregistrations.leave(key);
    }

    /// Returns true if AWS did not answer a moment ago, so that a reconcile could get nothing done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_region_unavailable = |known: &Known| {
            known.failed.as_ref().is_some_and(|(at, failure)| {
                failure.kind == FailureKind::Unavailable && at.elapsed() < FAILURE_HOLDS
            })
        };
        self.ecs.is_open() || self.known.try_lock().is_ok_and(|known| is_region_unavailable(&known))
    }

    /// Returns who the credentials in use belong to. That is read once for each set of credentials, and again if ECS
    /// rejects them; a refusal answers for all callers until its backoff is over.
    ///
    /// # Errors
    /// Returns what STS, or the provider of credentials, answered instead.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        let known = &mut *self.known.lock().await;
        let answer = self.current_identity(known).await;
        match &answer {
            Ok(_) => known.failed = None,
            Err(failure) => {
                let is_news = known.failed.as_ref().is_none_or(|(_, before)| !before.is_same_error(failure));
                if is_news {
                    tracing::warn!(region = self.region, message = failure.message, "identity unknown");
                }
                known.failed = Some((Instant::now(), failure.clone()));
            }
        }
        answer
    }

    /// Ends the backoff of refused credentials, because a user asks for another attempt; one that is under way is that.
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
        let mut answer = self.read(known, access_key.clone()).await;
        if let Err(failure) = &answer
            && self.is_bad(failure).await
            && self.credentials.discard(&access_key).await
        {
            let access_key = self.access_key().await?;
            answer = self.read(known, access_key).await;
        }
        answer.inspect_err(|failure| known.backoff.failed(failure.clone(), Instant::now()))
    }

    /// Returns true if ECS has rejected the credentials since this was last checked. The cause may be another one, such
    /// as a region that is not enabled, so that is checked once a minute.
    fn is_rejected(&self, checked_at: Option<Instant>) -> bool {
        let is_recent = checked_at.is_some_and(|at| at.elapsed() < REJECTION_INTERVAL);
        !is_recent && (self.ecs.take_rejection() | self.usage.take_rejection())
    }

    /// Returns true if `failure` says that the credentials are not good, and STS in the default region says so too: a
    /// region that is not enabled rejects good credentials.
    async fn is_bad(&self, failure: &Failure) -> bool {
        let rejects = |failure: &Failure| failure.code.as_deref().is_some_and(rejects_credentials);
        match &self.home {
            Some(home) if rejects(failure) => {
                let answer = observed(GET_CALLER_IDENTITY, home.get_caller_identity().send()).await;
                answer.is_err_and(|error| rejects(&error::failure(&error)))
            }
            _ => false,
        }
    }

    async fn read(&self, known: &mut Known, access_key: String) -> Result<Identity, Failure> {
        let answer = self.get_caller_identity().await;
        known.identity = answer.as_ref().ok().cloned();
        if answer.is_ok() {
            self.usage.reset_for(&access_key);
        }
        known.access_key = Some(access_key);
        answer
    }

    fn has_identity(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.failed.is_none() && known.identity.is_some())
    }

    /// While the identity is being read, the last failure is not reported.
    fn identity_failure(&self) -> Option<String> {
        let known = self.known.try_lock().ok()?;
        known.failed.as_ref().map(|(_, failure)| format!("{}: {}", self.region, failure.message))
    }

    /// The access key ID of the credentials that a call made now would use.
    async fn access_key(&self) -> Result<String, Failure> {
        let loaded = tokio::time::timeout(OPERATION_LIMIT, self.credentials.provide_credentials()).await;
        let loaded = loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(OPERATION_LIMIT)));
        let loaded = loaded.map_err(|error| credentials_error::failure(&error, &Role::default()))?;
        Ok(loaded.access_key_id().to_owned())
    }

    async fn get_caller_identity(&self) -> Result<Identity, Failure> {
        let answer = observed(GET_CALLER_IDENTITY, self.sts.get_caller_identity().send()).await;
        let answer = answer.map_err(|error| {
            let failure = error::failure(&error);
            if code(&error) == NO_ANSWER {
                self.outages.failed(GET_CALLER_IDENTITY, &failure.message, &error);
                failure
            } else {
                self.outages.answered(GET_CALLER_IDENTITY);
                failure.during(GET_CALLER_IDENTITY)
            }
        })?;
        self.outages.answered(GET_CALLER_IDENTITY);
        let (arn, account) = (answer.arn().unwrap_or_default(), answer.account().unwrap_or_default());
        let identity = Identity::of_caller(arn, account, &self.region).ok_or_else(|| {
            Failure::new(
                FailureKind::Unavailable,
                "sts:GetCallerIdentity answered without a usable Arn and Account".to_owned(),
            )
        })?;
        tracing::info!(
            account = identity.account,
            region = self.region,
            principal = principal(arn),
            "identity known"
        );
        Ok(identity)
    }
}
