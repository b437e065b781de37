//! Guard that decides whether calls may be made for a resource in the AWS account of the
//! credentials. No I/O.

use std::collections::BTreeSet;

use crate::{account::validate::ValidatedAccount, aws::identity::Identity};

/// The limits on the AWS account of one resource.
#[derive(Clone, Copy, Debug)]
pub struct AccountGuard<'a> {
    /// `spec.accountId`.
    pub declared: Option<&'a str>,
    /// `status.account`.
    pub recorded: Option<&'a str>,
    /// The EcsAccount; `None` for the ambient credentials.
    pub account: Option<&'a ValidatedAccount>,
    /// `--allowed-account-ids`, for the ambient credentials; empty if every account is allowed.
    pub allowed: &'a BTreeSet<String>,
}

impl<'a> AccountGuard<'a> {
    /// Returns the account that the short forms of the resource refer to, or `None` if it is not
    /// known yet. A recorded account takes precedence: neither new credentials nor a new EcsAccount
    /// change the meaning of an old manifest.
    #[must_use]
    pub fn account(&self, identity: Option<&'a Identity>) -> Option<&'a str> {
        let of_account = self.account.map(|account| account.source.account.as_str());
        let of_caller = || {
            let allowed = identity.filter(|it| self.allows(&it.account));
            allowed.map(|it| it.account.as_str())
        };
        self.recorded.or(self.declared).or(of_account).or_else(of_caller)
    }

    /// Returns the reason why no call may be made for the resource with the credentials of
    /// `identity`. Returns `None` if calls are allowed.
    #[must_use]
    pub fn refusal(&self, identity: Option<&Identity>) -> Option<String> {
        if let (Some(declared), Some(recorded)) = (self.declared, self.recorded)
            && declared != recorded
        {
            return Some(format!(
                "spec.accountId is {declared}, and the revisions of this resource were resolved in account {recorded}: make a new TaskDefinitionRetirement for account {declared}"
            ));
        }
        let (of, account) = match self.account {
            Some(account) => (format!("EcsAccount {} is", account.name), &account.source.account),
            None => ("the credentials of the controller are".to_owned(), &identity?.account),
        };
        if let Some(declared) = self.declared.filter(|declared| declared != account) {
            return Some(format!(
                "spec.accountId is {declared}, and {of} for account {account}: name credentials of account {declared}, or apply the resource where the controller has them"
            ));
        }
        if let Some(recorded) = self.recorded.filter(|recorded| recorded != account) {
            return Some(format!(
                "the revisions of this resource were resolved in account {recorded}, and {of} now for account {account}: make a new TaskDefinitionRetirement for account {account}"
            ));
        }
        (!self.allows(account)).then(|| {
            let allowed = self.allowed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(
                "the credentials of the controller are for account {account}, and --allowed-account-ids is {allowed}: correct the credentials or the flag"
            )
        })
    }

    fn allows(&self, account: &str) -> bool {
        self.account.is_some() || self.allowed.is_empty() || self.allowed.contains(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "012345678910";
    const OTHER: &str = "999999999999";

    fn identity() -> Identity {
        Identity { partition: "aws".to_owned(), account: OURS.to_owned(), region: "us-west-2".to_owned() }
    }

    #[test]
    fn account_is_the_recorded_then_the_declared_then_the_allowed_one_of_the_credentials() {
        let (ours, other) = (BTreeSet::from([OURS.to_owned()]), BTreeSet::from([OTHER.to_owned()]));
        let all = BTreeSet::new();
        let identity = identity();
        let account = |declared, recorded, allowed, identity| {
            AccountGuard { declared, recorded, account: None, allowed }.account(identity)
        };
        assert_eq!(account(None, None, &all, None), None);
        assert_eq!(account(None, None, &all, Some(&identity)), Some(OURS));
        assert_eq!(account(None, None, &ours, Some(&identity)), Some(OURS));
        assert_eq!(
            account(None, None, &other, Some(&identity)),
            None,
            "short forms are not resolved in an account that is not allowed"
        );
        assert_eq!(account(Some(OTHER), None, &all, Some(&identity)), Some(OTHER));
        assert_eq!(account(Some(OTHER), None, &all, None), Some(OTHER));
        assert_eq!(account(Some(OTHER), Some(OURS), &all, Some(&identity)), Some(OURS));
    }

    #[test]
    fn refusal_names_both_accounts() {
        let (ours, other) = (BTreeSet::from([OURS.to_owned()]), BTreeSet::from([OTHER.to_owned()]));
        let all = BTreeSet::new();
        let identity = identity();
        let refusal = |declared, recorded, allowed, identity| {
            AccountGuard { declared, recorded, account: None, allowed }.refusal(identity)
        };
        for (declared, recorded, allowed) in [
            (None, None, &all),
            (None, None, &ours),
            (Some(OURS), None, &all),
            (Some(OURS), Some(OURS), &ours),
            (None, Some(OURS), &all),
        ] {
            assert_eq!(refusal(declared, recorded, allowed, Some(&identity)), None);
        }
        for (declared, recorded, allowed) in [
            (Some(OTHER), None, &all),
            (Some(OTHER), Some(OTHER), &all),
            (Some(OTHER), Some(OURS), &all),
            (Some(OURS), Some(OTHER), &all),
            (None, Some(OTHER), &all),
            (None, None, &other),
            (Some(OURS), Some(OURS), &other),
        ] {
            let message = refusal(declared, recorded, allowed, Some(&identity)).expect("a refusal");
            assert!(message.contains(OURS) && message.contains(OTHER), "{message}");
        }
        let unidentified = refusal(Some(OTHER), Some(OURS), &all, None);
        assert!(unidentified.is_some(), "refused whatever the credentials are");
        assert_eq!(refusal(Some(OTHER), None, &other, None), None, "the credentials are not known yet");
    }
}
