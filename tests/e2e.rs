//! End-to-end tests, one file per subject: the real binary, a real API server and a simulated ECS.

mod support;

mod account_id;
mod accounts;
mod alerts;
mod api_calls;
mod architecture;
mod aws_credentials;
mod aws_outages;
mod chart_accounts;
mod chart_install;
mod chart_values;
mod deleted_revisions;
mod documentation;
mod durability;
mod ecs_account_admission;
mod ecs_emulators;
mod end_of_use;
mod etcd_restore;
mod fault_schedules;
mod in_use;
mod invalid_input;
mod kstatus;
mod leader_election;
mod listeners;
mod operations;
mod policies;
mod rate_limit;
mod rbac;
mod safety;
mod server_side_apply;
mod shutdown;
mod status_output;
mod status_size;
mod usage_scan;
