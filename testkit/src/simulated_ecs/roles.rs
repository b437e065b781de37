//! The IAM roles that can be assumed, and their trusted principals. No I/O.

use super::caller::{Caller, account_of};
use std::{collections::HashMap, time::Duration};

/// The largest `DurationSeconds` of a role, unless the test sets another one.
/// Source: `MaxSessionDuration` of `CreateRole`, IAM API Reference.
const MAX_SESSION_DURATION: Duration = Duration::from_hours(1);

/// All roles by ARN.
#[derive(Default)]
pub(super) struct Roles(HashMap<String, RoleSettings>);

/// The settings of a role.
pub(super) struct RoleSettings {
    /// The principals that may assume the role: account IDs and ARNs.
    pub(super) trusted: Vec<String>,
    pub(super) external_id: Option<String>,
    pub(super) max_session_duration: Duration,
    /// Overrides `DurationSeconds` and its default.
    pub(super) session_lifetime: Option<Duration>,
    /// The account of new sessions; `None` for the account in the ARN.
    pub(super) account: Option<String>,
}

impl Default for RoleSettings {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            external_id: None,
            max_session_duration: MAX_SESSION_DURATION,
            session_lifetime: None,
            account: None,
        }
    }
}

impl Roles {
    /// Returns a role, which is created if it does not exist.
    pub(super) fn settings(&mut self, arn: &str) -> &mut RoleSettings {
        self.0.entry(arn.to_owned()).or_default()
    }

    pub(super) fn remove(&mut self, arn: &str) {
        self.0.remove(arn);
    }

    /// Returns a role, or `None` if it does not exist or the caller may not assume it with this
    /// external ID.
    pub(super) fn assumable(
        &self,
        arn: &str,
        caller: &Caller,
        external_id: Option<&str>,
    ) -> Option<&RoleSettings> {
        let role = self.0.get(arn)?;
        let is_trusted = role.trusted.iter().any(|principal| matches(principal, caller));
        let has_external_id = role.external_id.is_none() || role.external_id.as_deref() == external_id;
        (is_trusted && has_external_id).then_some(role)
    }
}

/// Returns true if a trusted principal is the caller, its role or its account.
fn matches(principal: &str, caller: &Caller) -> bool {
    let is_account = principal == caller.account
        || (principal.ends_with(":root") && account_of(principal) == Some(&caller.account));
    is_account || principal == caller.arn() || caller.role().is_some_and(|role| principal == role)
}

#[cfg(test)]
mod tests {
    use super::{super::caller::Principal, *};

    const ROLE: &str = "arn:aws:iam::111122223333:role/ecs-retirement";

    /// Returns true if a role that trusts `principal` can be assumed by the caller.
    fn trusts(principal: &str, caller: &Caller) -> bool {
        let mut roles = Roles::default();
        roles.settings(ROLE).trusted.push(principal.to_owned());
        roles.assumable(ROLE, caller, None).is_some()
    }

    #[test]
    fn trusted_principal_is_an_account_a_role_a_session_or_a_user() {
        let controller = Caller::of("012345678910", "us-west-2");
        let arn = "arn:aws:iam::012345678910:user/admin";
        let user = Caller { principal: Principal::User(arn.to_owned()), ..controller.clone() };
        for account in ["012345678910", "arn:aws:iam::012345678910:root"] {
            assert!(trusts(account, &controller) && trusts(account, &user), "{account}");
        }
        for of_controller in [
            "arn:aws:iam::012345678910:role/controller",
            "arn:aws:sts::012345678910:assumed-role/controller/session",
        ] {
            assert!(trusts(of_controller, &controller) && !trusts(of_controller, &user), "{of_controller}");
        }
        assert!(trusts(arn, &user) && !trusts(arn, &controller));
    }

    #[test]
    fn new_role_trusts_no_principal() {
        let controller = Caller::of("012345678910", "us-west-2");
        let mut roles = Roles::default();
        roles.settings(ROLE);
        assert!(roles.assumable(ROLE, &controller, None).is_none());
        for other in ["999999999999", "arn:aws:iam::999999999999:root", ROLE] {
            assert!(!trusts(other, &controller), "{other}");
        }
    }
}
