//! Exhaustive faults: each test takes one kind of failure, lets it strike at every point there is, and holds what came of it against the oracle.

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
