//! The credentials of a run: which a policy may use, and whether they are for its account and
//! region.

use std::sync::Arc;

use crate::{
    account::authorize::{Access, Denial, Subject, authorize},
    api::TaskDefinitionRetentionPolicyStatus,
    aws::{session::VerifiedSession, source::AccountSource},
    controller::conditions::State,
    retention::{
        context::Context,
        status::{Summary, denied, failed},
        validate::ValidatedPolicy,
    },
};

/// The credentials of a run, with the resolved account and region.
pub(super) struct Prepared {
    pub(super) session: Arc<VerifiedSession>,
    pub(super) access: Access,
}

impl Prepared {
    /// Returns true while the cached EcsAccounts allow what they allowed when the run was prepared.
    pub(super) fn is_still_allowed(
        &self,
        valid: &ValidatedPolicy,
        namespace: &str,
        context: &Context,
    ) -> bool {
        let now = authorize(&context.accounts, &subject(valid, namespace), context.allows_ambient);
        match (&self.access, now) {
            (Access::Ambient, Ok(Access::Ambient)) => {
                check_ambient(&self.session.identity.account, context).is_ok()
            }
            (Access::Account { account: before, .. }, Ok(Access::Account { account, .. })) => {
                let version = |source: &AccountSource| (source.uid.clone(), source.generation);
                version(&before.source) == version(&account.source)
            }
            _ => false,
        }
    }
}

/// Decides which credentials the policy may use, without a call to AWS. `Err(None)` while the
/// EcsAccounts are not listed.
pub(super) fn authorized(
    valid: &ValidatedPolicy,
    recorded: &TaskDefinitionRetentionPolicyStatus,
    namespace: &str,
    context: &Context,
) -> Result<Access, Option<Summary>> {
    match authorize(&context.accounts, &subject(valid, namespace), context.allows_ambient) {
        Ok(Access::Ambient) => {
            let managed = recorded.account.as_ref().map(|account| check_unmanaged(account, context));
            managed.transpose().map_err(Some)?;
            Ok(Access::Ambient)
        }
        Ok(access) => Ok(access),
        Err(Denial::Pending) => Err(None),
        Err(Denial::ServedByOther(refused) | Denial::Refused(refused)) => Err(Some(denied(refused))),
    }
}

/// Decides which credentials the run may use, and verifies them. `Err(None)` while the
/// EcsAccounts are not listed.
pub(super) async fn prepare(
    valid: &ValidatedPolicy,
    recorded: &TaskDefinitionRetentionPolicyStatus,
    namespace: &str,
    context: &Context,
) -> Result<Prepared, Option<Summary>> {
    let access = authorized(valid, recorded, namespace, context)?;
    let (source, declared) = match &access {
        Access::Ambient => (context.sources.ambient().clone(), None),
        Access::Account { account, .. } => {
            (context.sources.account(&account.name, &account.source), Some(&account.source.account))
        }
    };
    let region = region(valid, recorded, source.default_region()).map_err(Some)?;
    let expected = expected_account(valid, recorded).map_err(Some)?;
    if let Some(account) = declared {
        check_account(expected, account).map_err(Some)?;
    }
    let session = source.session(&region).verify().await.map_err(|failure| Some(failed(&failure)))?;
    check_account(expected, &session.identity.account).map_err(Some)?;
    if declared.is_none() {
        check_ambient(&session.identity.account, context).map_err(Some)?;
    }
    Ok(Prepared { session, access })
}

fn stalled(reason: &'static str, text: impl Into<String>) -> Summary {
    Summary::new(State::Stalled, reason, text)
}

fn region(
    valid: &ValidatedPolicy,
    recorded: &TaskDefinitionRetentionPolicyStatus,
    default_region: Option<&str>,
) -> Result<String, Summary> {
    let Some(region) = valid.region.as_deref().or(default_region) else {
        let text = "spec.region is not set and the controller has no default region: set spec.region, such as us-west-2";
        return Err(stalled("InvalidSpec", text));
    };
    match &recorded.region {
        Some(before) if before != region => {
            let text = format!(
                "the region was {before} and is now {region}: a policy keeps its region; make a new policy for {region}"
            );
            Err(stalled("WrongRegion", text))
        }
        _ => Ok(region.to_owned()),
    }
}

/// Returns the account that the policy is for: the recorded one, with which `spec.accountId` must
/// agree. `None` if any account is accepted.
fn expected_account<'a>(
    valid: &'a ValidatedPolicy,
    recorded: &'a TaskDefinitionRetentionPolicyStatus,
) -> Result<Option<&'a String>, Summary> {
    match (&recorded.account, &valid.account_id) {
        (Some(before), Some(declared)) if before != declared => {
            let text = format!(
                "spec.accountId is {declared}, and the policy has run in account {before}: make a new policy for account {declared}"
            );
            Err(stalled("WrongAccount", text))
        }
        (before, declared) => Ok(before.as_ref().or(declared.as_ref())),
    }
}

fn check_account(expected: Option<&String>, account: &String) -> Result<(), Summary> {
    match expected {
        Some(expected) if expected != account => {
            let text = format!(
                "the policy is for account {expected}, and its credentials are for account {account}: make a new policy for account {account}"
            );
            Err(stalled("WrongAccount", text))
        }
        _ => Ok(()),
    }
}

/// Checks that no EcsAccount manages an account.
fn check_unmanaged(account: &String, context: &Context) -> Result<(), Summary> {
    if context.accounts.is_managed(account) {
        let text =
            format!("AWS account {account} is managed by EcsAccounts: name an EcsAccount in spec.accountRef");
        return Err(stalled("NotAllowed", text));
    }
    Ok(())
}

/// Checks that the ambient credentials may be used in their account.
fn check_ambient(account: &String, context: &Context) -> Result<(), Summary> {
    check_unmanaged(account, context)?;
    if !context.allowed_accounts.is_empty() && !context.allowed_accounts.contains(account) {
        let text = format!(
            "the credentials of the controller are for account {account}, which --allowed-account-ids does not name"
        );
        return Err(stalled("WrongAccount", text));
    }
    Ok(())
}

/// Returns true if another controller serves the EcsAccount of a policy.
pub(super) fn is_served_by_other(valid: &ValidatedPolicy, namespace: &str, context: &Context) -> bool {
    let access = authorize(&context.accounts, &subject(valid, namespace), context.allows_ambient);
    matches!(access, Err(Denial::ServedByOther(_)))
}

/// Returns the access that a policy requests.
pub(super) fn subject<'a>(valid: &'a ValidatedPolicy, namespace: &'a str) -> Subject<'a> {
    Subject {
        namespace,
        account_ref: valid.account_ref.as_deref(),
        region: valid.region.as_deref(),
        retires_in_use: false,
    }
}
