//! Access to an IAM role by the test: no calls, no log.

use super::{call_log::Call, caller::account_of, roles::RoleSettings, simulation::Simulation};
use std::{fmt, sync::Arc, time::Duration};

/// A role that can be assumed. Cheap to clone, for use in hooks.
///
/// Each setter takes effect on the next call and returns the handle. It does not affect existing
/// sessions.
#[derive(Clone)]
pub struct Role {
    simulation: Arc<Simulation>,
    arn: String,
}

#[expect(
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "setters take effect even if the handle is dropped"
)]
impl Role {
    pub(super) fn new(simulation: Arc<Simulation>, arn: &str) -> Self {
        let is_role = arn.split(':').nth(5).is_some_and(|resource| resource.starts_with("role/"));
        assert!(is_role && account_of(arn).is_some(), "{arn} is not the ARN of a role");
        let role = Self { simulation, arn: arn.to_owned() };
        role.set(|_| ())
    }

    /// Returns the ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Adds a trusted principal: an account ID, or the ARN of an account, a role, a role session or
    /// a user. A new role trusts no principal.
    pub fn trust(&self, principal: &str) -> Self {
        self.set(|role| role.trusted.push(principal.to_owned()))
    }

    /// Removes all trusted principals: from the next call on, the role cannot be assumed.
    pub fn clear_trust(&self) -> Self {
        self.set(|role| role.trusted.clear())
    }

    /// Sets the external ID that calls must have to assume the role; `None` if they need none.
    pub fn external_id<'a>(&self, external_id: impl Into<Option<&'a str>>) -> Self {
        self.set(|role| role.external_id = external_id.into().map(str::to_owned))
    }

    /// Sets the lifetime of new sessions, which overrides the `DurationSeconds` of the call.
    /// Initially, it is `DurationSeconds`, by default an hour.
    pub fn session_lifetime(&self, lifetime: Duration) -> Self {
        self.set(|role| role.session_lifetime = Some(lifetime))
    }

    /// Sets the largest `DurationSeconds` that AWS accepts for the role. Initially, it is an hour.
    pub fn max_session_duration(&self, duration: Duration) -> Self {
        self.set(|role| role.max_session_duration = duration)
    }

    /// Sets the account of new sessions. Initially, it is the account in the ARN of the role.
    pub fn acts_in(&self, account: &str) -> Self {
        self.set(|role| role.account = Some(account.to_owned()))
    }

    /// Removes the role and revokes the credentials of its sessions. A setter creates the role
    /// again.
    pub fn remove(&self) {
        let mut state = self.simulation.lock();
        state.roles.remove(&self.arn);
        state.credentials.revoke_sessions(&self.arn);
    }

    /// Returns the logged calls by sessions of the role.
    pub fn calls(&self) -> Vec<Call> {
        let state = self.simulation.lock();
        let calls = state.log.iter().filter(|call| call.role.as_ref() == Some(&self.arn));
        calls.cloned().collect()
    }

    fn set<T>(&self, set: impl FnOnce(&mut RoleSettings) -> T) -> Self {
        set(self.simulation.lock().roles.settings(&self.arn));
        self.clone()
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Role").field(&self.arn).finish()
    }
}
