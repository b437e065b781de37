//! The credentials of a run: which a policy may use, and whether they are for its account and region.

use std::sync::Arc;

use crate::{
    account::authorize::{Access, Denial, Subject, authorize},
    api::TaskDefinitionRetentionPolicyStatus,
    aws::session::VerifiedSession,
    retention::{
        context::Context,
        status::{State, Summary, denied, failed},
        validate::ValidatedPolicy,
    },
};

/// The credentials of a run, with the resolved account and region.
pub(super) struct Prepared {
    pub(super) session: Arc<VerifiedSession>,
    pub(super) access: Access,
}

/// Decides which credentials the run may use, and verifies them. `Err(None)` while the
/// EcsAccounts are not listed.
pub(super) async fn prepare(
    valid: &ValidatedPolicy,
    recorded: TaskDefinitionRetentionPolicyStatus,
    namespace: &str,
    context: &Context,
) -> Result<Prepared, Option<Summary>> {
    let subject = subject(valid, namespace);
    let access = match authorize(&context.accounts, &subject, context.allows_ambient) {
        Ok(access) => access,
        Err(Denial::Pending) => return Err(None),
        Err(Denial::OfAnotherController(refused) | Denial::Refused(refused)) => {
            return Err(Some(denied(refused)));
        }
    };
    let (source, declared) = match &access {
        Access::Ambient => (context.sources.ambient().clone(), None),
        Access::Account { account, .. } => {
            (context.sources.account(&account.name, &account.source), Some(&account.source.account))
        }
    };
    let stalled = |reason, text: String| Some(Summary::new(State::Stalled, reason, text));
    let region = valid.region.as_deref().or(source.default_region());
    let Some(region) = region.map(str::to_owned) else {
        let text = "spec.region is not set and the controller has no default region: set spec.region, such as us-west-2";
        return Err(stalled("InvalidSpec", text.to_owned()));
    };
    if let Some(before) = recorded.region.filter(|before| *before != region) {
        let text = format!(
            "the region was {before} and is now {region}: a policy keeps its region; make a new policy for {region}"
        );
        return Err(stalled("WrongRegion", text));
    }
    let wrong_account = |account: &String| {
        let expected = recorded.account.as_ref().or(valid.account_id.as_ref())?;
        let text = format!(
            "the policy is for account {expected}, and its credentials are for account {account}: make a new policy for account {account}"
        );
        (expected != account).then(|| Summary::new(State::Stalled, "WrongAccount", text))
    };
    if let Some(summary) = declared.and_then(wrong_account) {
        return Err(Some(summary));
    }
    let session = source.session(&region).verify().await.map_err(|failure| Some(failed(&failure)))?;
    let account = session.identity.account.clone();
    if let Some(summary) = wrong_account(&account) {
        return Err(Some(summary));
    }
    if declared.is_none() {
        if context.accounts.declare(&account) {
            let text = format!(
                "AWS account {account} is managed by EcsAccounts: name an EcsAccount in spec.accountRef"
            );
            return Err(stalled("NotAllowed", text));
        }
        if !context.allowed_accounts.is_empty() && !context.allowed_accounts.contains(&account) {
            let text = format!(
                "the credentials of the controller are for account {account}, which --allowed-account-ids does not name"
            );
            return Err(stalled("WrongAccount", text));
        }
    }
    Ok(Prepared { session, access })
}

/// Returns what a policy asks for.
pub(super) fn subject<'a>(valid: &'a ValidatedPolicy, namespace: &'a str) -> Subject<'a> {
    Subject {
        namespace,
        account_ref: valid.account_ref.as_deref(),
        region: valid.region.as_deref(),
        retires_in_use: false,
    }
}
