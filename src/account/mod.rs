//! Who the controller is in AWS, and the calls it may make there.

pub mod credentials;
pub mod identity;
pub mod session;

pub use aws_config::SdkConfig;
