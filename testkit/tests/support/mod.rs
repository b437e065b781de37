//! Shared helpers of the tests of the simulated ECS: client configuration and errors.

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_ecs::{
    config::{Credentials, SharedCredentialsProvider},
    error::{ProvideErrorMetadata, SdkError},
};
use testkit::{sdk, simulated_ecs::SimulatedEcs};

/// Returns the configuration of a client that never retries.
pub fn config(ecs: &SimulatedEcs, access_key: &str, region: &'static str) -> SdkConfig {
    let credentials = Credentials::new(access_key, "secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(sdk::http_client())
        .endpoint_url(ecs.endpoint())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::disabled())
        .build()
}

/// The code and message of an error; empty for an error response without them, or without a
/// response.
pub type Refusal = (String, String);

pub fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Refusal {
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    (text(error.code()), text(error.message()))
}
