//! The wall clock, as an argument.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

/// What time it is. Only for what people read, and what is compared with it: intervals are measured by the monotonic clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
