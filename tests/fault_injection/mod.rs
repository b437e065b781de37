//! Exhaustive fault injection: each test injects one kind of failure at every possible point and
//! checks the run against the oracle.

mod api_errors;
mod crashes;
mod oracle;
mod paused_leader;
mod run;
mod soak;
mod state;
mod tally;
mod unclear_usage;
mod watch_events;
mod workload;
