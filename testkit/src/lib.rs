//! The parts that the tests of the controller stand on: a real control plane, moto, and a simulated ECS. It shares no code with the controller.

pub mod api_proxy;
mod connection;
pub mod control_plane;
pub mod helm;
pub mod model_api;
pub mod moto;
pub mod namespace;
pub mod process;
pub mod promtool;
pub mod proxy;
pub mod sdk;
pub mod simulated_ecs;
pub mod tools;
