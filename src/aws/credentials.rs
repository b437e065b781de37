//! Cached credentials of the SDK's default chain, with rotation and backoff.
//!
//! Credentials are replaced if their files change or if AWS rejects them. Failed attempts to load
//! credentials back off exponentially while AWS denies them.

use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, SdkConfig, default_provider::credentials::DefaultCredentialsChain,
    provider_config::ProviderConfig, timeout::TimeoutConfig,
};
use aws_credential_types::{
    Credentials,
    credential_feature::AwsCredentialFeature,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    aws::{
        backoff::Backoff,
        credentials_error::{self, GET_CALLER_IDENTITY, LOAD_CREDENTIALS, NotLoaded, Role},
        ecs_client::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, observed, record_call},
        error::rejects_credentials,
        http_client::{self, https_client},
        outage::OutageLog,
        response::{Failure, FailureKind},
        response_clock::AwsClock,
    },
    in_flight::Call,
};

/// How long before their expiry credentials are replaced, so that none expire during a call.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);

/// Timeouts of loading credentials. They are shorter than that of a call, so that the cause is
/// reported.
const LOAD_LIMIT: Duration = Duration::from_secs(7);
const STS_LIMIT: Duration = Duration::from_millis(6500);

/// Minimum interval between replacements of rejected credentials.
const REPLACEMENT_INTERVAL: Duration = Duration::from_mins(1);

/// Returns the region, endpoints and HTTP client of the environment, as every AWS tool reads them.
/// The result has no credentials provider; [`RotatingCredentials`] replaces it.
/// Source: "AWS SDKs and Tools Reference Guide".
///
/// # Errors
/// Returns an error if the CA bundle of the environment cannot be used.
pub async fn environment() -> Result<SdkConfig, http_client::Error> {
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(https_client()?);
    Ok(config.no_credentials().load().await)
}

/// Credentials provider that is shared by all regions.
#[derive(Clone, Debug)]
pub(super) struct RotatingCredentials(Arc<Source>);

#[derive(Debug)]
struct Source {
    config: SdkConfig,
    aws_clock: Arc<AwsClock>,
    outages: OutageLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The provider, and the modification times of the shared files it has read.
    provider: Option<(SharedCredentialsProvider, Modified)>,
    credentials: Option<Credentials>,
    backoff: Backoff,
    /// Modification times of the token files at the last check.
    tokens: Modified,
    /// When rejected credentials were last discarded.
    discarded: Option<Instant>,
}

type Modified = Vec<Option<SystemTime>>;

impl RotatingCredentials {
    /// Creates a provider that uses the provider of `config` or, without one, the SDK's default
    /// chain. Credentials expire by `aws_clock`.
    pub(super) fn new(config: &SdkConfig, aws_clock: Arc<AwsClock>) -> Self {
        let region = config.region().map(AsRef::as_ref).unwrap_or_default();
        let outages = OutageLog::new(region);
        Self(Arc::new(Source { config: config.clone(), aws_clock, outages, state: Mutex::default() }))
    }

    /// Discards the credentials with this access key if `failure` reports that AWS rejected them,
    /// and `GetCallerIdentity` in the default region confirms it: a region that is not enabled
    /// rejects valid credentials as well. Returns true if there may be others now.
    pub(super) async fn discard_if_rejected(
        &self,
        access_key: &str,
        failure: &Failure,
        default_sts: Option<&aws_sdk_sts::Client>,
    ) -> bool {
        let rejects = |failure: &Failure| failure.code.as_deref().is_some_and(rejects_credentials);
        if !rejects(failure) {
            return false;
        }
        if let Some(sts) = default_sts {
            let response = observed(GET_CALLER_IDENTITY, sts.get_caller_identity().send()).await;
            if !response.is_err_and(|error| rejects(&credentials_error::call_failure(&error))) {
                return false;
            }
        }
        self.discard(access_key).await
    }

    /// Discards credentials with this access key, unless they are already replaced. Returns false
    /// if credentials were discarded less than a minute ago.
    async fn discard(&self, access_key: &str) -> bool {
        let state = &mut *self.0.state.lock().await;
        if state.credentials.as_ref().is_none_or(|current| current.access_key_id() != access_key) {
            return true;
        }
        if state.discarded.is_some_and(|at| at.elapsed() < REPLACEMENT_INTERVAL) {
            return false;
        }
        tracing::warn!("credentials rejected by AWS, loading new ones");
        state.discarded = Some(Instant::now());
        state.credentials = None;
        true
    }

    /// Shortens the backoff after a request of a user. Does nothing if an attempt is in progress.
    pub(super) fn shorten_backoff(&self) {
        if let Ok(mut state) = self.0.state.try_lock() {
            state.backoff.shorten();
        }
    }

    async fn current(&self) -> provider::Result {
        let state = &mut *self.0.state.lock().await;
        let provider = self.0.provider(state).await;
        if let Some(credentials) =
            state.credentials.as_ref().filter(|it| self.0.is_valid_for(it, REFRESH_BEFORE))
        {
            return Ok(credentials.clone());
        }
        let loaded = match state.backoff.failure(Instant::now()) {
            Some(failure) => Err(failure.clone()),
            None => self.0.load(&provider, state).await,
        };
        match loaded {
            Ok(credentials) => Ok(state.credentials.insert(credentials).clone()),
            // Credentials that are about to expire are better than none.
            Err(failure) => {
                let valid = state.credentials.clone().filter(|it| self.0.is_valid_for(it, Duration::ZERO));
                valid.ok_or_else(|| CredentialsError::provider_error(NotLoaded(failure)))
            }
        }
    }
}

impl Source {
    /// Returns the provider. It is replaced if the shared files change because the default chain
    /// reads them only once.
    /// Source: `aws_config::profile::ProfileFileCredentialsProvider`.
    async fn provider(&self, state: &mut State) -> SharedCredentialsProvider {
        let tokens = modified(token_files());
        if state.tokens != tokens {
            (state.tokens, state.backoff) = (tokens, Backoff::default());
        }
        let files = modified(shared_files());
        match &state.provider {
            Some((provider, read)) if *read == files => provider.clone(),
            _ => {
                let provider = match self.config.credentials_provider() {
                    Some(provider) => provider,
                    None => SharedCredentialsProvider::new(self.chain().await),
                };
                state.provider = Some((provider.clone(), files));
                (state.credentials, state.backoff) = (None, Backoff::default());
                provider
            }
        }
    }

    /// Returns true if `credentials` do not expire within `time`.
    fn is_valid_for(&self, credentials: &Credentials, time: Duration) -> bool {
        let now = SystemTime::from(self.aws_clock.latest_or_pod(Instant::now()));
        credentials.expiry().is_none_or(|expiry| now + time < expiry)
    }

    /// Builds the SDK's default chain with the settings that its calls to STS would otherwise lack.
    async fn chain(&self) -> DefaultCredentialsChain {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(STS_LIMIT)
            .build();
        let mut config = ProviderConfig::default()
            .with_region(self.config.region().cloned())
            .with_use_fips(self.config.use_fips())
            .with_use_dual_stack(self.config.use_dual_stack())
            .with_timeout_config(timeouts);
        if let Some(client) = self.config.http_client() {
            config = config.with_http_client(client);
        }
        let region = self.config.region().cloned();
        let mut chain = DefaultCredentialsChain::builder().configure(config);
        chain.set_region(region);
        chain.build().await
    }

    async fn load(
        &self,
        provider: &SharedCredentialsProvider,
        state: &mut State,
    ) -> Result<Credentials, Failure> {
        let _call = Call::begin("load credentials", LOAD_LIMIT);
        let began = Instant::now();
        let loaded = tokio::time::timeout(LOAD_LIMIT, provider.provide_credentials()).await;
        let loaded = loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LOAD_LIMIT)));
        match loaded {
            Ok(credentials) => {
                if let Some(operation) = operation(&credentials) {
                    record_call(operation, "OK", began.elapsed());
                    self.outages.record_response(operation);
                }
                state.backoff = Backoff::default();
                Ok(credentials)
            }
            Err(error) => {
                let failure = credentials_error::failure(&error, &role());
                let operation = failure.operation.unwrap_or(LOAD_CREDENTIALS);
                record_call(operation, credentials_error::code(&failure), began.elapsed());
                if failure.kind == FailureKind::AccessDenied {
                    self.outages.record_response(operation);
                } else {
                    self.outages.record_outage(operation, &failure.message, &error);
                }
                state.backoff.record_failure(failure.clone(), Instant::now());
                Err(failure)
            }
        }
    }
}

/// Returns the AWS operation that provided `credentials`, or `None` if they are from another
/// source.
fn operation(credentials: &Credentials) -> Option<&'static str> {
    let features: &Vec<AwsCredentialFeature> = credentials.get_property()?;
    features.iter().find_map(|feature| match feature {
        AwsCredentialFeature::CredentialsProfileStsWebIdToken => Some("AssumeRoleWithWebIdentity"),
        AwsCredentialFeature::CredentialsHttp | AwsCredentialFeature::CredentialsImds => {
            Some(LOAD_CREDENTIALS)
        }
        _ => None,
    })
}

/// Returns the role and the token file that the environment names.
/// Source: `aws_config::web_identity_token`, `aws_config::ecs`.
fn role() -> Role {
    Role {
        arn: env::var("AWS_ROLE_ARN").ok(),
        token_file: TOKEN_FILES.iter().find_map(|variable| env::var(variable).ok()),
    }
}

/// Returns the paths of the shared files.
/// Source: "Location of the shared config and credentials files", AWS SDKs and Tools Reference
/// Guide.
fn shared_files() -> [Option<PathBuf>; 2] {
    let path = |variable: &str, name: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".aws").join(name)))
    };
    [path("AWS_SHARED_CREDENTIALS_FILE", "credentials"), path("AWS_CONFIG_FILE", "config")]
}

/// Variables that name the token files of IRSA and EKS Pod Identity, which the kubelet renews. A
/// new token resets the backoff, and does not invalidate the current credentials.
const TOKEN_FILES: [&str; 2] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];

fn token_files() -> [Option<PathBuf>; 2] {
    TOKEN_FILES.map(|variable| env::var_os(variable).map(PathBuf::from))
}

fn modified(files: [Option<PathBuf>; 2]) -> Modified {
    files.into_iter().map(|path| path?.metadata().ok()?.modified().ok()).collect()
}

impl ProvideCredentials for RotatingCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}
