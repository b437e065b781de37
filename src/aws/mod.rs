//! AWS credentials, identity, STS and ECS calls, and rate limits; no other module uses the AWS SDK.

pub mod identity;
pub mod credentials;
mod assume_role;
pub mod http_client;
mod backoff;
pub mod source;
pub mod session;

pub mod response;
pub(crate) mod error;
pub(crate) mod credentials_error;
pub(crate) mod outage;
pub mod response_clock;
pub mod circuit_breaker;
pub mod permit_queue;
pub mod rate_limiter;
pub mod limits;
pub mod ecs_client;
pub mod family_list;

pub mod freshness;
pub mod usage;
mod usage_scanner;
pub mod usage_cache;

pub use assume_role::AssumedRole;
pub use aws_config::SdkConfig;
