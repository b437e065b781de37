//! Who the controller's credentials belong to, as `sts:GetCallerIdentity` tells. Pure.

use crate::task_definition::{Arn, Revision, is_account};

/// The account and partition that credentials belong to, and the region they are used in. Whatever is
/// not of all three is never called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pub partition: String,
    pub account: String,
    pub region: String,
}

impl Identity {
    /// Reads the `Arn` and `Account` members of the answer; `None` where they are not of the documented
    /// form, `arn:PARTITION:sts::ACCOUNT:assumed-role/...` or `arn:PARTITION:iam::ACCOUNT:user/...`.
    pub(crate) fn of_caller(arn: &str, account: &str, region: &str) -> Option<Self> {
        let mut parts = arn.split(':');
        let (Some("arn"), Some(partition)) = (parts.next(), parts.next()) else { return None };
        (parts.nth(2) == Some(account) && is_account(account) && !partition.is_empty()).then(|| Self {
            partition: partition.to_owned(),
            account: account.to_owned(),
            region: region.to_owned(),
        })
    }

    /// The full ARN of a revision of this account and region.
    #[must_use]
    pub fn arn(&self, revision: &Revision) -> Arn {
        Arn::new(&self.partition, &self.region, &self.account, revision.clone())
    }
}

/// The ARN of the principal, as policies name it: without the name of the session, which may differ on every attempt.
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
    fn the_partition_and_account_are_read_from_the_answer() {
        let role = "arn:aws-us-gov:sts::012345678910:assumed-role/controller/session";
        let identity = Identity::of_caller(role, "012345678910", "us-gov-west-1").expect("an identity");
        assert_eq!(identity.partition, "aws-us-gov");
        assert_eq!(identity.account, "012345678910");
        assert_eq!(identity.region, "us-gov-west-1");
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_no_identity() {
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
