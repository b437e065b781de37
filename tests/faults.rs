//! Fault injection: the real binary is killed, disconnected and answered with errors at every point
//! of its work, and must keep its invariants.

#[expect(dead_code, unused_imports, reason = "tests/promises.rs uses the rest")]
mod support;

mod when_all_fails;
