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
    account::identity::Identity,
    calls::Call,
    clock::Clock,
    ecs::{
        answer::{Failure, FailureKind},
        client::{Ecs, OPERATION_LIMIT, observed},
        error::{failure, no_credentials},
        pacer::Pacing,
        response_clock::AwsClock,
        turns::{Holder, Turns, Waker},
        view::{MayAct, View},
    },
};

/// How long a call to AWS may take. Nothing is tried twice by the SDK: a resource's next look is the one retry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Half of the bucket "task definition read" of ECS, 50 at once and 20 a second.
/// Source: "Request throttling for the Amazon ECS API", Amazon ECS API Reference.
const READS: Pacing = Pacing { per_second: 10.0, burst: 25 };

/// How many looks a deregistration takes: before it queues up, when its turn has come, and afterwards.
const LOOKS: f64 = 3.0;

/// For how long a failed look at the identity answers for all who ask, so that an outage costs one call.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// The controller's own credentials, and one session for each region they are used in.
pub struct Account {
    config: SdkConfig,
    pacing: Pacing,
    waker: Waker,
    may_act: MayAct,
    aws_clock: Arc<AwsClock>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// The credentials in one region.
pub struct Session {
    pub ecs: Ecs,
    /// The turns to look here, at half of what ECS gives.
    pub looks: Arc<Turns>,
    /// The turns to deregister here.
    pub turns: Arc<Turns>,
    /// Who uses the revisions here.
    pub usage: Arc<View>,
    region: String,
    sts: aws_sdk_sts::Client,
    credentials: Option<SharedCredentialsProvider>,
    identity: tokio::sync::Mutex<Option<Known>>,
}

/// What was last learned of the identity.
enum Known {
    Identity { of: String, identity: Identity },
    Failure { at: Instant, failure: Failure },
}

impl Account {
    /// The credentials, default region and endpoints of `config`.
    ///
    /// `pacing` holds in each region by itself; `waker` wakes those who waited for a turn, or for news of who uses their
    /// revisions; nothing is called by itself unless `may_act`.
    #[must_use]
    pub fn new(config: &SdkConfig, pacing: Pacing, waker: Waker, may_act: MayAct, clock: Clock) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_LIMIT)
            .build();
        let aws_clock = AwsClock::new(clock);
        let mut builder = config.to_builder();
        builder.set_http_client(config.http_client().map(|client| aws_clock.observing(client)));
        let config = builder
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // They are kept by their provider, which sees when they change.
            .identity_cache(IdentityCache::no_cache())
            .build();
        Self { config, pacing, waker, may_act, aws_clock, sessions: Mutex::default() }
    }

    /// Gives up the places of a resource that is gone, wherever it has one.
    pub fn leave(&self, holder: &Holder) {
        self.each(|session| {
            session.leave(holder);
            session.usage.forget(holder);
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
            session.looks.measure();
            session.turns.measure();
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
        let turns = Turns::begin("modify", region, self.pacing, self.waker.clone());
        let (waker, may_act, clock) = (self.waker.clone(), self.may_act.clone(), self.aws_clock.clone());
        let session = Arc::new(Session {
            ecs: Ecs::new(&config),
            looks: Turns::begin("read", region, reads(self.pacing), self.waker.clone()),
            usage: View::begin(&config, region, turns.clone(), waker, may_act, clock),
            turns,
            region: region.to_owned(),
            sts: aws_sdk_sts::Client::new(&config),
            credentials: config.credentials_provider(),
            identity: tokio::sync::Mutex::default(),
        });
        sessions.insert(region.to_owned(), session.clone());
        session
    }
}

/// Where the quota of deregistrations was raised, looks must keep up.
fn reads(pacing: Pacing) -> Pacing {
    Pacing { per_second: READS.per_second.max(LOOKS * pacing.per_second), ..READS }
}

impl Session {
    /// Gives up the places of a resource that has no turn to wait for here.
    pub fn leave(&self, holder: &Holder) {
        self.looks.leave(holder);
        self.turns.leave(holder);
    }

    /// Whether AWS does not answer here just now, so that a pass could get nothing done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let is_held = |known: &Option<Known>| matches!(known, Some(Known::Failure { at, .. }) if at.elapsed() < FAILURE_HOLDS);
        self.ecs.is_closed() || self.identity.try_lock().is_ok_and(|known| is_held(&known))
    }

    /// Who the credentials in use belong to: asked once for each set of credentials, and by one caller
    /// at a time.
    ///
    /// # Errors
    /// What STS, or the chain of credentials, answered instead.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        let mut known = self.identity.lock().await;
        if let Some(Known::Failure { at, failure }) = &*known
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(failure.clone());
        }
        let learned = match self.access_key_id().await {
            Ok(key) => match &*known {
                Some(Known::Identity { of, identity }) if *of == key => return Ok(identity.clone()),
                _ => self.ask().await.map(|identity| (key, identity)),
            },
            Err(failure) => Err(failure),
        };
        match learned {
            Ok((of, identity)) => {
                tracing::info!(account = identity.account, region = self.region, "identity known");
                self.usage.belongs_to(&of);
                *known = Some(Known::Identity { of, identity: identity.clone() });
                Ok(identity)
            }
            Err(failure) => {
                tracing::warn!(region = self.region, message = failure.message, "identity unknown");
                *known = Some(Known::Failure { at: Instant::now(), failure: failure.clone() });
                Err(failure)
            }
        }
    }

    fn has_identity(&self) -> bool {
        self.identity.try_lock().is_ok_and(|known| matches!(&*known, Some(Known::Identity { .. })))
    }

    /// While somebody is asking, what was known before is not told.
    fn identity_failure(&self) -> Option<String> {
        match &*self.identity.try_lock().ok()? {
            Some(Known::Failure { failure, .. }) => Some(format!("{}: {}", self.region, failure.message)),
            _ => None,
        }
    }

    /// The access key id of the credentials that a call made now would use. What provides them may ask others, and has no limit
    /// of its own.
    async fn access_key_id(&self) -> Result<String, Failure> {
        let _call = Call::begin("load credentials", OPERATION_LIMIT);
        let provider = self.credentials.as_ref();
        let provider = provider.ok_or_else(|| CredentialsError::not_loaded("no provider of credentials"));
        let provider = provider.map_err(|error| no_credentials(&error))?;
        let loaded = tokio::time::timeout(OPERATION_LIMIT, provider.provide_credentials()).await;
        let loaded = loaded.unwrap_or_else(|late| Err(CredentialsError::provider_error(late)));
        Ok(loaded.map_err(|error| no_credentials(&error))?.access_key_id().to_owned())
    }

    async fn ask(&self) -> Result<Identity, Failure> {
        let answer = observed("GetCallerIdentity", self.sts.get_caller_identity().send()).await;
        let answer = answer.map_err(|error| failure(&error))?;
        let (arn, account) = (answer.arn().unwrap_or_default(), answer.account().unwrap_or_default());
        Identity::of_caller(arn, account, &self.region).ok_or_else(|| {
            Failure::new(
                FailureKind::Unavailable,
                "sts:GetCallerIdentity answered without a usable Arn and Account".to_owned(),
            )
        })
    }
}
