//! Exhaustive fault injection: each test injects one kind of failure at every possible point and
//! checks the run against the oracle.

mod oracle;
mod run;
mod state;
mod tally;
mod workload;

mod a_crash_at_every_side_effect;
mod every_error_of_aws_and_kubernetes;
mod every_event_of_the_watch;
mod unclear_usage;
mod a_leader_paused_at_every_call;
mod a_soak;
