//! The wall clock as an injected dependency.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

/// Returns the time of the pod's clock. Use it only for timestamps in the API, for backoff that is
/// computed from them, and for the expiry of credentials.
///
/// Intervals are measured with the monotonic clock. The time for which a revision has been unused
/// is measured with AWS's clock ([`crate::aws::response_clock`]).
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
