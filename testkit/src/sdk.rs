//! AWS SDK settings for a simulated ECS.

use aws_sdk_ecs::config::SharedHttpClient;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

/// Returns an HTTP client that ignores proxies from the environment, even for 127.0.0.1.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
