//! A simulated Amazon ECS (and the one call of STS): an HTTP server for the AWS SDK to talk to.

mod action;
mod batch;
mod call_log;
mod caller;
mod cluster;
mod clusters;
mod fault;
mod hooks;
mod identifier;
pub mod in_process;
mod region;
mod reply;
mod request;
mod security_token;
mod server;
mod service;
mod service_deployments;
mod services;
mod simulation;
mod store;
mod task;
mod task_definition_list;
mod task_definitions;
mod tasks;
mod throttling;

pub use self::{
    action::Action,
    call_log::{Call, Outcome},
    cluster::Cluster,
    fault::{Fault, Target},
    region::{Record, Region},
    service::Service,
    store::Status,
    task::Task,
};

use self::{
    server::Server,
    simulation::{Moment, Simulation},
    throttling::Throttling,
};
use std::{sync::Arc, thread, time::Duration};

/// The access key that works from the start.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// The account of [`ACCESS_KEY`].
pub const ACCOUNT: &str = "012345678910";

/// In the environment of every revision that [`Region::register`] makes, to look for leaks of.
pub const SECRET: &str = "a-secret-that-must-never-leak";

/// The server, and the test's hold on it. It stops when dropped.
///
/// # Guarantees
///
/// Calls take effect one by one, in the order of the log. A call that came in whole is carried out
/// even if its caller hangs up.
///
/// # Panics
///
/// When dropped after a hook panicked, so that a failed assertion in a hook fails the test.
pub struct SimulatedEcs {
    simulation: Arc<Simulation>,
    server: Option<Server>,
}

impl SimulatedEcs {
    /// Starts a server that has nothing yet on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let simulation = Arc::new(Simulation::new(Moment::now));
        let server = Server::start(Arc::clone(&simulation)).await;
        Self::of(simulation, Some(server))
    }

    fn of(simulation: Arc<Simulation>, server: Option<Server>) -> Self {
        let ecs = Self { simulation, server };
        ecs.set_account(ACCESS_KEY, ACCOUNT);
        ecs
    }

    /// The URL of both services, for `AWS_ENDPOINT_URL`.
    ///
    /// # Panics
    ///
    /// Where there is no server, since the simulation is in the process of the test.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let server = self.server.as_ref().expect("this simulation is called in process");
        format!("http://{}", server.address)
    }

    /// Gives an access key to an account, from the next call on.
    pub fn set_account(&self, access_key: &str, account: &str) {
        let mut state = self.simulation.lock();
        state.accounts.insert(access_key.to_owned(), account.to_owned());
    }

    /// Takes an access key away: from the next call on AWS does not know it.
    pub fn revoke(&self, access_key: &str) {
        self.simulation.lock().accounts.remove(access_key);
    }

    /// A region of an account, to arrange and to look at without a call.
    #[must_use]
    pub fn region(&self, account: &str, region: &str) -> Region {
        Region::new(Arc::clone(&self.simulation), account, region)
    }

    /// Switches the token buckets of ECS on, all full; their clock runs `speed` times as fast.
    pub fn throttle(&self, speed: f64) {
        self.simulation.lock().throttling = Some(Throttling::new(speed));
    }

    /// Whether to deregister a revision that is not ACTIVE any more is a `ClientException`. From
    /// the start it succeeds.
    pub fn refuse_repeated_deregistration(&self, refuse: bool) {
        self.simulation.lock().refuse_repeated_deregistration = refuse;
    }

    /// Plants a fault.
    pub fn fault(&self, fault: Fault) {
        self.simulation.lock().faults.plant(fault);
    }

    /// Takes all faults away. A call that hangs already stays hung.
    pub fn clear_faults(&self) {
        self.simulation.lock().faults.clear();
    }

    /// Runs `hook` to its end before the nth call of the action, from 1, is carried out.
    ///
    /// Counts the calls from now on. The hook runs on the server's runtime.
    pub fn before(&self, action: Action, nth: u32, hook: impl Future<Output = ()> + Send + 'static) {
        let hook = Box::pin(hook);
        self.simulation.lock().hooks.plant(action, nth, hook);
    }

    /// Every call so far, or since the log was cleared.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.simulation.lock().log.clone()
    }

    /// The last call so far, if there was one since the log was cleared.
    #[must_use]
    pub fn last_call(&self) -> Option<Call> {
        self.simulation.lock().log.last().cloned()
    }

    /// The calls of one action.
    #[must_use]
    pub fn calls_of(&self, action: Action) -> Vec<Call> {
        let state = self.simulation.lock();
        let calls = state.log.iter().filter(|call| call.action == action);
        calls.cloned().collect()
    }

    /// Empties the log; the numbers go on.
    pub fn clear_log(&self) {
        self.simulation.lock().log.clear();
    }

    /// Waits until the log has `count` calls of the action, and gives all it has by then.
    ///
    /// # Panics
    ///
    /// When that takes longer than `deadline`.
    pub async fn wait_for_calls(&self, action: Action, count: usize, deadline: Duration) -> Vec<Call> {
        let mut logged = self.simulation.calls_logged.subscribe();
        let reached = logged.wait_for(|_| self.count_of(action) >= count);
        let in_time = tokio::time::timeout(deadline, reached).await.is_ok();
        assert!(
            in_time,
            "{} of {count} calls of {} within {deadline:?}; the log: {:#?}",
            self.count_of(action),
            action.name(),
            self.calls(),
        );
        self.calls_of(action)
    }

    fn count_of(&self, action: Action) -> usize {
        let state = self.simulation.lock();
        let calls = state.log.iter().filter(|call| call.action == action);
        calls.count()
    }
}

impl Drop for SimulatedEcs {
    fn drop(&mut self) {
        let hook_panicked = self.simulation.lock().hook_panicked;
        assert!(!hook_panicked || thread::panicking(), "a hook of this test panicked");
    }
}
