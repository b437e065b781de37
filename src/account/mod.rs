//! Who the controller is in AWS, and the calls it may make there.

mod backoff;
pub mod credentials;
pub mod http_client;
pub mod identity;
pub mod session;

pub use aws_config::SdkConfig;
