//! The condition types that all kinds report, as kstatus defines them. Data only.

/// `True` once the declared state is reached.
pub const READY: &str = "Ready";

/// Present and `True` only while the controller is making progress or retries automatically.
pub const RECONCILING: &str = "Reconciling";

/// Present and `True` only while manual intervention is required.
pub const STALLED: &str = "Stalled";
