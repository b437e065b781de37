//! Who the controller is in AWS, and the calls it may make there.

mod credentials;
pub mod identity;
pub mod session;
