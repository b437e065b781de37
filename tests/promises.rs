//! End-to-end tests by guarantee: the real binary, a real API server and a simulated ECS.

mod support;

mod never_the_wrong_revision;
mod account_id;
mod server_side_apply;
mod bad_input_is_never_guessed;
mod nothing_lost;
mod deleted_revisions;
mod status_size;
mod a_good_neighbour;
mod it_takes_turns;
mod what_is_in_use_waits;
mod when_use_ends_it_goes_on;
mod usage_scan;
mod plain_to_read;
mod kstatus;
mod one_leader_acts;
mod whatever_fails_by_seed;
mod etcd_restore;
mod listeners;
mod operators_trust_it;
mod shutdown;
mod read_and_operated_as_people_expect;
mod installed_as_people_expect;
mod chart_values;
mod its_rights_are_the_least_that_work;
mod alerts_say_what_to_do;
mod ecs_emulators;
mod the_house_is_in_order;
mod aws_credentials;
mod aws_outages;
