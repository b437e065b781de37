//! Amazon ECS: what it answers, as data, and the calls.

pub mod answer;
pub mod pacer;
pub mod turns;
pub mod gate;
pub mod client;
pub mod usage;
mod scan;
pub mod view;
pub(crate) mod error;
pub(crate) mod credentials_error;
pub(crate) mod outage;
