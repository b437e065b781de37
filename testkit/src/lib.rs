//! Test support for the controller: a real control plane, ECS emulators, a simulated ECS, and
//! kstatus. Shares no code with the controller.

pub mod api_proxy;
mod connection;
pub mod control_plane;
pub mod emulator;
pub mod helm;
pub mod kstatus;
pub mod model_api;
pub mod namespace;
pub mod process;
pub mod promtool;
pub mod proxy;
pub mod sdk;
pub mod simulated_ecs;
pub mod tools;
