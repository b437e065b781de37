//! The wall clock, as an argument.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

/// What time it is by the pod's clock. Only for what users read, and for retries: intervals are measured by the monotonic
/// clock, and the time for which a revision has been unused by AWS's ([`crate::aws::response_clock`]).
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
