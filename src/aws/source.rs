//! Sources of credentials: the controller's own (ambient) credentials, and one for each account
//! resource.

use std::{collections::HashMap, sync::Arc};

use aws_config::{Region, SdkConfig, identity::IdentityCache, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use parking_lot::Mutex;

use crate::{
    aws::{
        assume_role::{AssumeRole, AssumedRole},
        credentials::RotatingCredentials,
        ecs_client::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, OPERATION_LIMIT},
        limits::Limits,
        permit_queue::Pacing,
        rate_limiter::RequeueTrigger,
        response_clock::{AwsClock, Bounds},
        session::{Session, Shared},
        usage_cache::{self, IsActive},
    },
    clock::Clock,
};

/// All sources of credentials of the process.
pub struct Sources {
    shared: Arc<Shared>,
    ambient: Arc<Source>,
    /// The source of each account resource, by the name of the resource.
    accounts: Mutex<HashMap<String, (AccountSource, Arc<Source>)>>,
}

/// One source of credentials, with a session for each region.
pub struct Source {
    config: SdkConfig,
    credentials: RotatingCredentials,
    /// STS in the default region, where valid credentials always work. `None` without a default
    /// region.
    default_sts: Option<aws_sdk_sts::Client>,
    expected_account: Option<String>,
    shared: Arc<Shared>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// A source of credentials that an account resource declares.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountSource {
    /// The uid and generation of the resource. A source is replaced if they change.
    pub uid: String,
    pub generation: i64,
    /// The account that the credentials must belong to.
    pub account: String,
    /// The default region, whose STS is called.
    pub region: String,
    /// The role to assume with the ambient credentials; `None` to use the ambient credentials.
    pub role: Option<AssumedRole>,
    /// The rate limit; `None` for that of the process.
    pub pacing: Option<Pacing>,
}

impl Sources {
    /// Creates the sources with the ambient credentials, default region and endpoints of `config`.
    ///
    /// `pacing` applies to each account and region separately. `requeue_trigger` requeues resources
    /// once a permit or a new usage result is available. Background tasks call AWS only while
    /// `is_active` returns true.
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
        let credentials = RotatingCredentials::new(config, aws_clock.clone());
        let mut builder = config.to_builder();
        builder.set_http_client(config.http_client().map(|client| aws_clock.observing(client)));
        let config = builder
            // The provider caches the credentials and detects their rotation.
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        let limits = Limits::new(requeue_trigger.clone());
        let shared = Arc::new(Shared { limits, pacing, requeue_trigger, is_active, aws_clock });
        let ambient = Arc::new(Source::new(&config, credentials, None, shared.clone()));
        Self { shared, ambient, accounts: Mutex::default() }
    }

    /// Returns the source of the controller's own credentials.
    #[must_use]
    pub fn ambient(&self) -> &Arc<Source> {
        &self.ambient
    }

    /// Returns the source of the account resource `name`. It replaces an earlier one of the same
    /// name unless that is the same.
    #[must_use]
    pub fn account(&self, name: &str, declared: &AccountSource) -> Arc<Source> {
        let mut accounts = self.accounts.lock();
        if let Some((known, source)) = accounts.get(name)
            && known == declared
        {
            return source.clone();
        }
        let source = Arc::new(self.new_source(declared));
        accounts.insert(name.to_owned(), (declared.clone(), source.clone()));
        source
    }

    /// Removes the source of the account resource `name`.
    pub fn forget(&self, name: &str) {
        self.accounts.lock().remove(name);
    }

    fn new_source(&self, declared: &AccountSource) -> Source {
        let region = Region::new(declared.region.clone());
        let config = self.ambient.config.to_builder().region(region).build();
        let credentials = match &declared.role {
            None => self.ambient.credentials.clone(),
            Some(role) => {
                let own = (self.ambient.credentials.clone(), self.ambient.default_sts.clone());
                let provider = AssumeRole::new(&config, role.clone(), own);
                let provider = SharedCredentialsProvider::new(provider);
                let config = config.to_builder().credentials_provider(provider).build();
                RotatingCredentials::new(&config, self.shared.aws_clock.clone())
            }
        };
        let shared = Shared {
            limits: self.shared.limits.clone(),
            pacing: declared.pacing.unwrap_or(self.shared.pacing),
            requeue_trigger: self.shared.requeue_trigger.clone(),
            is_active: self.shared.is_active.clone(),
            aws_clock: self.shared.aws_clock.clone(),
        };
        Source::new(&config, credentials, Some(declared.account.clone()), Arc::new(shared))
    }

    #[cfg(test)]
    pub(crate) fn limits(&self, account: &str, region: &str) -> crate::aws::limits::RateLimits {
        self.shared.limits.join(account, region, self.shared.pacing).limits.clone()
    }

    /// Returns the bounds of the time by AWS's clock, or `None` until AWS has reported the time.
    #[must_use]
    pub fn time(&self) -> Option<Bounds> {
        self.shared.aws_clock.now()
    }

    /// Updates the metrics of all sources.
    pub fn measure(&self) {
        self.shared.aws_clock.measure();
        self.shared.limits.measure();
        let accounts = self.accounts.lock();
        let sources = accounts.values().map(|(_, source)| source).chain([&self.ambient]);
        let sessions = sources.flat_map(|source| source.sessions());
        let caches: Vec<_> =
            sessions.filter_map(|session| Some(session.last_verified()?.usage.clone())).collect();
        usage_cache::measure(&caches);
    }
}

impl Source {
    fn new(
        config: &SdkConfig,
        credentials: RotatingCredentials,
        expected_account: Option<String>,
        shared: Arc<Shared>,
    ) -> Self {
        let provider = SharedCredentialsProvider::new(credentials.clone());
        let config = config.to_builder().credentials_provider(provider).build();
        let default_sts = config.region().is_some().then(|| aws_sdk_sts::Client::new(&config));
        Self { config, credentials, default_sts, expected_account, shared, sessions: Mutex::default() }
    }

    /// Returns the default region, for resources without a region.
    #[must_use]
    pub fn default_region(&self) -> Option<&str> {
        self.config.region().map(AsRef::as_ref)
    }

    /// Returns the session of `region`, which is created on first use.
    #[must_use]
    pub fn session(&self, region: &str) -> Arc<Session> {
        let create = || {
            let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
            let (sts, credentials) = (self.default_sts.clone(), self.credentials.clone());
            let (account, shared) = (self.expected_account.clone(), self.shared.clone());
            Arc::new(Session::new(config, region, sts, credentials, account, shared))
        };
        self.sessions.lock().entry(region.to_owned()).or_insert_with(create).clone()
    }

    /// Returns one message per region whose identity could not be read. Empty before the first
    /// read, and if any region has an identity, because a single failing region is usually a wrong
    /// `spec.region`.
    #[must_use]
    pub fn identity_failures(&self) -> Vec<String> {
        let sessions = self.sessions();
        if sessions.iter().any(|session| session.has_identity()) {
            return Vec::new();
        }
        sessions.iter().filter_map(|session| session.identity_failure()).collect()
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }
}
