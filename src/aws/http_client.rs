//! HTTP client of the AWS SDK: trust roots and proxy selection.

use std::{env, fs, path::PathBuf, sync::Arc};

use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime::client::dns::TokioDnsResolver;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
            SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
    shared::IntoShared,
};
use aws_smithy_types::config_bag::ConfigBag;
use axum::http::Uri;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::proxy::{Proxies, Proxy};

/// Environment variable that names a PEM file of certificates to trust instead of the system's. The
/// AWS CLI and the other SDKs read it as well.
/// Source: "Using `AWS_CA_BUNDLE`", AWS SDKs and Tools Reference Guide; botocore replaces its trust
/// store.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";

/// Error of building the HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{CA_BUNDLE}: cannot read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{CA_BUNDLE}: {} holds no valid certificate: expected PEM", .path.display())]
    NoCertificate { path: PathBuf },
}

/// Returns the SDK's default HTTP client with the trust roots and proxies of the environment. It
/// uses ring for cryptography because ring is smaller.
///
/// # Errors
/// Returns an error if `AWS_CA_BUNDLE` names a file that cannot be used.
pub(super) fn https_client() -> Result<SharedHttpClient, Error> {
    let trust_store = match env::var_os(CA_BUNDLE).filter(|path| !path.is_empty()) {
        Some(path) => ca_bundle(path.into())?,
        None => TrustStore::default(),
    };
    let proxies = Proxies::from_env();
    let direct = client(trust_store.clone(), ProxyConfig::disabled());
    let through = |proxy: &Option<Proxy>| {
        let config = [proxy, &proxies.all].into_iter().flatten().find_map(proxy_config);
        config.map_or(direct.clone(), |config| client(trust_store.clone(), config))
    };
    let (https, http) = (through(&proxies.https), through(&proxies.http));
    Ok(RoutedClient { https, http, direct, proxies: Arc::new(proxies) }.into_shared())
}

/// Returns the configuration of a proxy, or `None` with a warning if its URL cannot be used.
fn proxy_config(proxy: &Proxy) -> Option<ProxyConfig> {
    let config = ProxyConfig::all(proxy.url.as_str());
    config.inspect_err(|error| tracing::warn!(proxy.variable, %error, "proxy ignored")).ok()
}

fn client(trust_store: TrustStore, proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let tls = TlsContext::builder().with_trust_store(trust_store.clone()).build();
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls.unwrap_or_default())
            .proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        // Its errors have a type, unlike those of the default resolver.
        connector.build_with_resolver(TokioDnsResolver::new())
    })
}

/// Reads a CA bundle. Invalid certificates, which occur in system bundles, are skipped because the
/// connector panics if it cannot parse one.
fn ca_bundle(path: PathBuf) -> Result<TrustStore, Error> {
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return Err(Error::Unreadable { path, error }),
    };
    let is_valid = |pem: &&str| {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .is_ok_and(|certificate| RootCertStore::empty().add(certificate).is_ok())
    };
    let certificates: Vec<&str> = text.split_inclusive(CERTIFICATE_END).filter(is_valid).collect();
    if certificates.is_empty() {
        return Err(Error::NoCertificate { path });
    }
    Ok(certificates.into_iter().fold(TrustStore::empty(), TrustStore::with_pem_certificate))
}

/// HTTP client that calls endpoints on this host or its local link, and those in `NO_PROXY`,
/// directly, and all others through the proxies of the environment.
#[derive(Debug)]
struct RoutedClient {
    https: SharedHttpClient,
    http: SharedHttpClient,
    direct: SharedHttpClient,
    proxies: Arc<Proxies>,
}

#[derive(Debug)]
struct RoutedConnector {
    https: SharedHttpConnector,
    http: SharedHttpConnector,
    direct: SharedHttpConnector,
    proxies: Arc<Proxies>,
}

impl HttpClient for RoutedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = |client: &SharedHttpClient| client.http_connector(settings, components);
        SharedHttpConnector::new(RoutedConnector {
            https: connector(&self.https),
            http: connector(&self.http),
            direct: connector(&self.direct),
            proxies: self.proxies.clone(),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.https.validate_base_client_config(components, config)
    }
}

impl HttpConnector for RoutedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match request.uri().parse::<Uri>() {
            Ok(uri) if !self.proxies.apply_to(&uri) => self.direct.call(request),
            Ok(uri) if uri.scheme_str() == Some("http") => self.http.call(request),
            _ => self.https.call(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_ca_bundle_error_names_the_variable_and_the_file() {
        let error = ca_bundle("/nowhere/ca.pem".into()).expect_err("the file does not exist").to_string();
        assert!(error.starts_with("AWS_CA_BUNDLE: cannot read /nowhere/ca.pem: "), "{error}");
        let error = ca_bundle(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into());
        let error = error.expect_err("the file is not PEM").to_string();
        assert!(error.ends_with("Cargo.toml holds no valid certificate: expected PEM"), "{error}");
    }
}
