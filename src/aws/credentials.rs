//! The credentials of the SDK's own chain: kept while valid, replaced when their files change or AWS rejects them.
//! While AWS refuses to give any, it is asked with exponential backoff.

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
        http_client::{self, https_client},
        session::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT},
    },
    aws::{
        credentials_error::{self, LOAD_CREDENTIALS, NotLoaded, Role},
        ecs_client::measured,
        outage::OutageLog,
        response::{Failure, FailureKind},
    },
    in_flight::Call,
};

/// How long before they expire credentials are loaded again, so that none expire on their way.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);

/// How long loading may take: less than a call that waits for it, so that its failure is reported.
const LOAD_LIMIT: Duration = Duration::from_secs(7);
const STS_LIMIT: Duration = Duration::from_millis(6500);

/// How often rejected credentials may be replaced.
const REPLACEMENT_INTERVAL: Duration = Duration::from_mins(1);

/// The region, endpoints and HTTP client of the environment, as every AWS tool reads them. It has no provider of
/// credentials: [`RotatingCredentials`] is that.
/// Source: "AWS SDKs and Tools Reference Guide".
///
/// # Errors
/// Returns an error if the trust roots of the environment cannot be used.
pub async fn environment() -> Result<SdkConfig, http_client::Error> {
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(https_client()?);
    Ok(config.no_credentials().load().await)
}

/// The credentials of one source, shared by all regions.
#[derive(Clone, Debug)]
pub(super) struct RotatingCredentials(Arc<Source>);

#[derive(Debug)]
struct Source {
    config: SdkConfig,
    outages: OutageLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The provider, and when the shared files that it has read were last changed.
    provider: Option<(SharedCredentialsProvider, Modified)>,
    credentials: Option<Credentials>,
    backoff: Backoff,
    /// When the token files were last changed before the last attempt to load credentials.
    tokens: Modified,
    /// When rejected credentials were last discarded.
    discarded: Option<Instant>,
}

type Modified = Vec<Option<SystemTime>>;

impl RotatingCredentials {
    /// The credentials of the provider of `config`, or of the SDK's default chain if it has none.
    pub(super) fn new(config: &SdkConfig) -> Self {
        let region = config.region().map(AsRef::as_ref).unwrap_or_default();
        let outages = OutageLog::new(region);
        Self(Arc::new(Source { config: config.clone(), outages, state: Mutex::default() }))
    }

    /// Discards the credentials with this access key, which AWS has rejected, unless they are replaced already. Returns
    /// false if credentials have been discarded less than a minute ago.
    pub(super) async fn discard(&self, access_key: &str) -> bool {
        let state = &mut *self.0.state.lock().await;
        if state.credentials.as_ref().is_none_or(|it| it.access_key_id() != access_key) {
            return true;
        }
        if state.discarded.is_some_and(|at| at.elapsed() < REPLACEMENT_INTERVAL) {
            return false;
        }
        tracing::warn!("AWS rejects the credentials, loading new ones");
        state.discarded = Some(Instant::now());
        state.credentials = None;
        true
    }

    /// Ends a long backoff, because a user asks for another attempt; one that is under way is that.
    pub(super) fn shorten_backoff(&self) {
        if let Ok(mut state) = self.0.state.try_lock() {
            state.backoff.shorten();
        }
    }

    async fn current(&self) -> provider::Result {
        let state = &mut *self.0.state.lock().await;
        let provider = self.0.provider(state).await;
        if let Some(credentials) = state.credentials.as_ref().filter(|it| is_fresh(it)) {
            return Ok(credentials.clone());
        }
        let loaded = match state.backoff.failure(Instant::now()) {
            Some(failure) => Err(failure.clone()),
            None => self.0.load(&provider, state).await,
        };
        match loaded {
            Ok(credentials) => Ok(state.credentials.insert(credentials).clone()),
            // Better those that are about to expire than none.
            Err(failure) => {
                let valid = state.credentials.clone().filter(is_valid);
                valid.ok_or_else(|| CredentialsError::provider_error(NotLoaded(failure)))
            }
        }
    }
}

impl Source {
    /// The provider to ask. The default chain itself reads the shared files only once, so a change makes another one.
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

    /// The SDK's default chain, with the settings that its calls to STS would otherwise lack.
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
                    measured(operation, "OK", began.elapsed());
                    self.outages.answered(operation);
                }
                state.backoff = Backoff::default();
                Ok(credentials)
            }
            Err(error) => {
                let failure = credentials_error::failure(&error, &role());
                let operation = failure.operation.unwrap_or(LOAD_CREDENTIALS);
                measured(operation, credentials_error::code(&failure), began.elapsed());
                if failure.kind == FailureKind::AccessDenied {
                    self.outages.answered(operation);
                } else {
                    self.outages.failed(operation, &failure.message, &error);
                }
                state.backoff.failed(failure.clone(), Instant::now());
                Err(failure)
            }
        }
    }
}

/// The operation of AWS that has given `credentials`, if any has.
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

/// Source: `aws_config::web_identity_token`, `aws_config::ecs`.
fn role() -> Role {
    Role {
        arn: env::var("AWS_ROLE_ARN").ok(),
        token_file: TOKEN_FILES.iter().find_map(|variable| env::var(variable).ok()),
    }
}

fn is_valid(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|expiry| SystemTime::now() < expiry)
}

fn is_fresh(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|expiry| SystemTime::now() + REFRESH_BEFORE < expiry)
}

/// The shared files, wherever the environment puts them.
/// Source: "Location of the shared config and credentials files", AWS SDKs and Tools Reference Guide.
fn shared_files() -> [Option<PathBuf>; 2] {
    let path = |variable: &str, name: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".aws").join(name)))
    };
    [path("AWS_SHARED_CREDENTIALS_FILE", "credentials"), path("AWS_CONFIG_FILE", "config")]
}

/// The tokens of IRSA and EKS Pod Identity, which the kubelet renews. A new one ends a backoff, and takes nothing away
/// from credentials that are valid.
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
