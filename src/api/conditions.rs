//! The condition types that every kind reports, as kstatus reads them. No behaviour.

/// `True` once the declared state is reached.
pub const READY: &str = "Ready";

/// Present, and `True`, only while the controller still gets on by itself.
pub const RECONCILING: &str = "Reconciling";

/// Present, and `True`, only while nothing but a person can help.
pub const STALLED: &str = "Stalled";
