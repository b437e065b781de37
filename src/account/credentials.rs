//! The credentials of the SDK's own chain, kept while they are valid, and loaded anew when their files change.

use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, SdkConfig, default_provider::credentials::DefaultCredentialsChain,
    provider_config::ProviderConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, future},
};
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{http::SharedHttpClient, runtime_components::RuntimeComponents};
use tokio::sync::Mutex;

/// How long before they expire credentials are loaded anew, so that none expire on their way.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);

/// The credentials, region and endpoints of the environment, as every AWS tool reads them.
/// Source: "AWS SDKs and Tools Reference Guide".
pub async fn environment() -> SdkConfig {
    let http = https_client();
    let credentials = RotatingCredentials { http: http.clone(), loaded: Arc::default() };
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    config.credentials_provider(credentials).load().await
}

/// The SDK's default HTTP client, proxies of the environment included, but with the cryptography of ring, which is smaller.
fn https_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    })
}

/// The default chain, which itself reads the shared files only once and for ever.
/// Source: `aws_config::profile::ProfileFileCredentialsProvider`.
#[derive(Clone, Debug)]
struct RotatingCredentials {
    http: SharedHttpClient,
    loaded: Arc<Mutex<Option<Loaded>>>,
}

#[derive(Debug)]
struct Loaded {
    chain: DefaultCredentialsChain,
    files: Vec<Option<SystemTime>>,
    credentials: Option<Credentials>,
}

impl RotatingCredentials {
    async fn current(&self) -> provider::Result {
        let mut loaded = self.loaded.lock().await;
        let files = modified();
        let loaded = match &mut *loaded {
            Some(loaded) if loaded.files == files => loaded,
            stale => {
                let config = ProviderConfig::default().with_http_client(self.http.clone());
                let chain = DefaultCredentialsChain::builder().configure(config).build().await;
                stale.insert(Loaded { chain, files, credentials: None })
            }
        };
        if let Some(credentials) = loaded.credentials.as_ref().filter(|it| is_fresh(it)) {
            return Ok(credentials.clone());
        }
        let credentials = match loaded.chain.provide_credentials().await {
            Ok(credentials) => credentials,
            // Better those that are about to expire than none.
            Err(error) => loaded.credentials.clone().filter(is_valid).ok_or(error)?,
        };
        Ok(loaded.credentials.insert(credentials).clone())
    }
}

fn is_valid(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|expiry| SystemTime::now() < expiry)
}

fn is_fresh(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|expiry| SystemTime::now() + REFRESH_BEFORE < expiry)
}

/// When the shared files were last changed, wherever the environment puts them.
/// Source: "Location of the shared config and credentials files", AWS SDKs and Tools Reference Guide.
fn modified() -> Vec<Option<SystemTime>> {
    let path = |variable: &str, name: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".aws").join(name)))
    };
    [path("AWS_SHARED_CREDENTIALS_FILE", "credentials"), path("AWS_CONFIG_FILE", "config")]
        .into_iter()
        .map(|path| path?.metadata().ok()?.modified().ok())
        .collect()
}

impl ProvideCredentials for RotatingCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}
