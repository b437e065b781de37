//! Fault injection: the real binary is killed, disconnected and sent errors at every point
//! of its work, and must keep its invariants.

#[expect(dead_code, unused_imports, reason = "tests/e2e.rs uses the rest")]
mod support;

mod fault_injection;
