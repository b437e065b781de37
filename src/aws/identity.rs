//! The account that the controller's credentials belong to, as reported by `sts:GetCallerIdentity`.

use crate::task_definition::{Arn, Revision, is_account};

/// The partition and account that credentials belong to, and the region they are used in. Only
/// revisions in this partition, account and region are ever passed to ECS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pub partition: String,
    pub account: String,
    pub region: String,
}

impl Identity {
    /// Parses the `Arn` and `Account` members of the response. Returns `None` if they do not have
    /// the documented form, `arn:PARTITION:sts::ACCOUNT:assumed-role/...` or
    /// `arn:PARTITION:iam::ACCOUNT:user/...`.
    pub(crate) fn of_caller(arn: &str, account: &str, region: &str) -> Option<Self> {
        let mut parts = arn.split(':');
        let (Some("arn"), Some(partition)) = (parts.next(), parts.next()) else { return None };
        (parts.nth(2) == Some(account) && is_account(account) && !partition.is_empty()).then(|| Self {
            partition: partition.to_owned(),
            account: account.to_owned(),
            region: region.to_owned(),
        })
    }

    /// Returns the full ARN of a revision in this account and region.
    #[must_use]
    pub fn arn(&self, revision: &Revision) -> Arn {
        Arn::new(&self.partition, &self.region, &self.account, revision.clone())
    }
}

/// Returns the ARN of the principal as in policies: without the session name, which may change with
/// every attempt.
pub(super) fn principal(arn: &str) -> &str {
    match arn.split_once(":assumed-role/") {
        Some((_, role)) if role.contains('/') => arn.rsplit_once('/').map_or(arn, |(role, _)| role),
        _ => arn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_have_no_session_name() {
        let role = "arn:aws:sts::012345678910:assumed-role/controller";
        assert_eq!(principal(&format!("{role}/1732640000-abc")), role);
        assert_eq!(principal(role), role);
        assert_eq!(
            principal("arn:aws:iam::012345678910:user/team/me"),
            "arn:aws:iam::012345678910:user/team/me"
        );
    }

    #[test]
    fn identity_is_parsed_from_the_response() {
        let role = "arn:aws-us-gov:sts::012345678910:assumed-role/controller/session";
        let identity = Identity::of_caller(role, "012345678910", "us-gov-west-1").expect("valid identity");
        assert_eq!(identity.partition, "aws-us-gov");
        assert_eq!(identity.account, "012345678910");
        assert_eq!(identity.region, "us-gov-west-1");
    }

    #[test]
    fn identity_is_none_if_the_response_is_inconsistent() {
        for (arn, account) in [
            ("arn:aws:iam::012345678910:user/me", "999999999999"),
            ("arn:aws:iam::me:user/me", "me"),
            ("arn::iam::012345678910:user/me", "012345678910"),
            ("012345678910", "012345678910"),
            ("", ""),
        ] {
            assert_eq!(Identity::of_caller(arn, account, "us-west-2"), None, "{arn}");
        }
    }
}
