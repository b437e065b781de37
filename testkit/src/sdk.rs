//! What the AWS SDK needs to talk to a simulated ECS.

use aws_sdk_ecs::config::SharedHttpClient;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

/// An HTTP client that takes no proxy from the environment, not even to 127.0.0.1.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
