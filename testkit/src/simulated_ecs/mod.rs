//! A simulated Amazon ECS, with the STS calls that a controller makes: an HTTP server for the AWS
//! SDK.

mod account;
mod action;
mod batch;
mod call_log;
mod caller;
mod cluster;
mod clusters;
mod credentials;
mod fault;
mod form;
mod hooks;
mod identifier;
pub mod in_process;
mod region;
mod reply;
mod request;
mod role;
mod roles;
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
    account::Account,
    action::Action,
    call_log::{Call, Outcome},
    cluster::Cluster,
    clusters::Vanished,
    fault::{Fault, Target},
    region::{Record, Region},
    role::Role,
    service::Service,
    store::Status,
    task::Task,
};

use self::{
    caller::{Principal, account_of},
    server::Server,
    simulation::{Moment, Simulation},
    throttling::Throttling,
};
use jiff::SignedDuration;
use std::{sync::Arc, thread, time::Duration};

/// The access key that is valid from the start.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// The account of [`ACCESS_KEY`].
pub const ACCOUNT: &str = "012345678910";

/// A secret in the environment of every revision that [`Region::register`] creates, to detect
/// leaks.
pub const SECRET: &str = "a-secret-that-must-never-leak";

/// A handle on the server. The server stops when it is dropped.
///
/// # Guarantees
///
/// Calls take effect one at a time, in the order of the log. A call that was received completely is
/// carried out even if its caller disconnects.
///
/// # Panics
///
/// Panics on drop if a hook panicked, so that a failed assertion in a hook fails the test.
pub struct SimulatedEcs {
    simulation: Arc<Simulation>,
    server: Option<Server>,
}

impl SimulatedEcs {
    /// Starts an empty server on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let simulation = Arc::new(Simulation::new(Moment::now));
        let server = Server::start(Arc::clone(&simulation)).await;
        Self::with_server(simulation, Some(server))
    }

    fn with_server(simulation: Arc<Simulation>, server: Option<Server>) -> Self {
        let ecs = Self { simulation, server };
        ecs.set_account(ACCESS_KEY, ACCOUNT);
        ecs
    }

    /// Returns the URL of both services, for `AWS_ENDPOINT_URL`.
    ///
    /// # Panics
    ///
    /// Panics if the simulation runs in process, without a server.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let server = self.server.as_ref().expect("the simulation has a server");
        format!("http://{}", server.address)
    }

    /// Assigns an access key to a session of the role `controller` of an account, from the next
    /// call on.
    pub fn set_account(&self, access_key: &str, account: &str) {
        self.simulation.lock().credentials.assign(access_key, account, Principal::Default, None);
    }

    /// Assigns an access key to an IAM user, given by its ARN, from the next call on.
    ///
    /// # Panics
    ///
    /// Panics if the ARN has no account.
    pub fn set_user(&self, access_key: &str, arn: &str) {
        let account = account_of(arn).unwrap_or_else(|| panic!("{arn} has no account"));
        let user = Principal::User(arn.to_owned());
        self.simulation.lock().credentials.assign(access_key, account, user, None);
    }

    /// Revokes an access key: from the next call on it is unknown to AWS.
    pub fn revoke(&self, access_key: &str) {
        self.simulation.lock().credentials.revoke(access_key);
    }

    /// Returns a role, which is created if it does not exist. A new role trusts no principal.
    ///
    /// # Panics
    ///
    /// Panics if the ARN is not that of a role.
    #[expect(clippy::must_use_candidate, reason = "tests may only need the role to exist")]
    pub fn role(&self, arn: &str) -> Role {
        Role::new(Arc::clone(&self.simulation), arn)
    }

    /// Returns an account.
    #[must_use]
    pub fn account(&self, id: &str) -> Account {
        Account::new(Arc::clone(&self.simulation), id)
    }

    /// Returns a region of an account, to modify and inspect without calls.
    #[must_use]
    pub fn region(&self, account: &str, region: &str) -> Region {
        Region::new(Arc::clone(&self.simulation), account, region)
    }

    /// Enables the token buckets of ECS, all full. They refill at `speed` times the real rate.
    pub fn throttle(&self, speed: f64) {
        self.simulation.lock().throttling = Some(Throttling::new(speed));
    }

    /// Sets how far the clock of ECS is ahead, in all its timestamps and in the header `Date`.
    pub fn set_clock_skew(&self, skew: SignedDuration) {
        self.simulation.set_skew(skew);
    }

    /// Sets whether responses carry an unreadable `Date` header instead of the time.
    pub fn hide_date(&self, hides_date: bool) {
        self.simulation.lock().hides_date = hides_date;
    }

    /// Sets whether deregistering a revision that is not ACTIVE is a `ClientException`. Initially
    /// it succeeds.
    pub fn refuse_repeated_deregistration(&self, refuse: bool) {
        self.simulation.lock().refuse_repeated_deregistration = refuse;
    }

    /// Injects a fault.
    pub fn fault(&self, fault: Fault) {
        self.simulation.lock().faults.inject(fault);
    }

    /// Removes all faults. Calls that already hang are not released.
    pub fn clear_faults(&self) {
        self.simulation.lock().faults.clear();
    }

    /// Runs `hook` to completion before the nth call of the action is carried out.
    ///
    /// Counts calls from now on, starting with 1. The hook runs on the server's runtime.
    pub fn before(&self, action: Action, nth: u32, hook: impl Future<Output = ()> + Send + 'static) {
        let hook = Box::pin(hook);
        self.simulation.lock().hooks.add(action, nth, hook);
    }

    /// Returns every call so far, or since the log was cleared.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.simulation.lock().log.clone()
    }

    /// Returns the last call, or `None` if the log is empty.
    #[must_use]
    pub fn last_call(&self) -> Option<Call> {
        self.simulation.lock().log.last().cloned()
    }

    /// Returns the calls of one action.
    #[must_use]
    pub fn calls_of(&self, action: Action) -> Vec<Call> {
        let state = self.simulation.lock();
        let calls = state.log.iter().filter(|call| call.action == action);
        calls.cloned().collect()
    }

    /// Clears the log. Sequence numbers continue.
    pub fn clear_log(&self) {
        self.simulation.lock().log.clear();
    }

    /// Waits until the log has `count` calls of the action, and returns all of them.
    ///
    /// # Panics
    ///
    /// Panics if that takes longer than `deadline`.
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
