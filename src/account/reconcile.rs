//! Reconciles one EcsAccount: verifies its credentials and reports the result. The report is never
//! an input: retirements verify the credentials themselves.

use std::{pin::pin, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt, runtime::watcher};
use tokio::time::timeout;

use crate::{
    account::{
        context::Context,
        store::{Missing, is_relevant},
        validate::ValidatedAccount,
        verify::{Verification, verify},
    },
    api::{EcsAccount, EcsAccountStatus, REQUESTED_AT, conditions::READY},
    controller::{
        Error, Kind,
        conditions::{MESSAGE_BYTES, Recorded, Reported, State},
        delay,
        guarded::Guarded,
        status_patch::{EventNote, patch_status, publish},
    },
    in_flight,
};

/// How often verified credentials are verified again. STS is only called if they have changed.
const VERIFIED_DELAY: Duration = Duration::from_secs(30);

/// How long the first status of an account waits for its verification.
const FIRST_STATUS: Duration = Duration::from_secs(1);

/// How often credentials are tried that are not verified. STS is called less often: the session
/// backs off.
const RETRY_DELAY: Duration = Duration::from_secs(5);

impl Kind for EcsAccount {
    type Context = Context;

    const CONTROLLER: &'static str = "ecsaccount";

    fn work_is_due(account: &Self) -> bool {
        account.metadata.deletion_timestamp.is_none()
    }

    async fn reconcile(object: Arc<Guarded<Self>>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
        match &object.0 {
            Ok(account) if (context.is_active)() => Box::pin(reconcile(account, &context)).await,
            Ok(_) => Ok(None),
            Err(metadata) => {
                let name = metadata.name.as_deref();
                tracing::error!(name, "EcsAccount cannot be read: correct its spec");
                Ok(None)
            }
        }
    }

    fn observed(before: Option<&Guarded<Self>>, after: Option<&Guarded<Self>>, context: &Context) {
        if !is_relevant(before, after) {
            return;
        }
        let is_served = |account: &EcsAccount| {
            !matches!(context.accounts.validated(account), Err(Missing::ServedByOther(_)))
        };
        if !after.is_some_and(|object| object.0.as_ref().is_ok_and(is_served))
            && let Some(known) = before
        {
            context.sources.forget(&known.name_any());
        }
        context.accounts.account_changed(before, after);
    }

    fn watch_failed(error: &watcher::Error, context: &Context) {
        context.accounts.list_failed(error);
    }
}

async fn reconcile(account: &EcsAccount, context: &Context) -> Result<Option<Duration>, Error> {
    let validated = match context.accounts.validated(account) {
        Ok(validated) => validated,
        Err(Missing::Invalid(message)) => {
            report(account, Verification::invalid(message), context).await?;
            return Ok(None);
        }
        // Another controller reports it.
        Err(Missing::NotFound(_) | Missing::ServedByOther(_)) => return Ok(None),
    };
    let verification = Box::pin(verify_new(account, &validated, context)).await?;
    let delay = if verification.state == State::Ready { VERIFIED_DELAY } else { RETRY_DELAY };
    report(account, verification, context).await?;
    Ok(Some(delay::jitter(delay, &account.uid().unwrap_or_default())))
}

/// Verifies the credentials. The first status of a new or changed account does not wait for AWS.
async fn verify_new(
    account: &EcsAccount,
    validated: &ValidatedAccount,
    context: &Context,
) -> Result<Verification, Error> {
    let mut verifying = pin!(verify(account, validated, context));
    let observed = account.status.as_ref().and_then(|status| status.observed_generation);
    if observed == account.metadata.generation {
        return Ok(verifying.await);
    }
    if let Ok(verification) = timeout(FIRST_STATUS, &mut verifying).await {
        return Ok(verification);
    }
    report(account, Verification::in_progress(), context).await?;
    Ok(verifying.await)
}

async fn report(account: &EcsAccount, verification: Verification, context: &Context) -> Result<(), Error> {
    let api: Api<EcsAccount> = Api::all(context.client.clone());
    let read = in_flight::kubernetes("get EcsAccount", api.get_opt(&account.name_any())).await;
    let live = read.map_err(Error::ReadResource)?.filter(|live| {
        live.uid() == account.uid() && live.metadata.generation == account.metadata.generation
    });
    // A change causes another reconcile.
    let Some(live) = live else { return Ok(()) };
    let recorded = live.status.clone().unwrap_or_default();
    let (reason, message) = (verification.reason, verification.message.clone());
    let status = status(&live, &recorded, verification, (context.clock)());
    if live.status.as_ref() == Some(&status) {
        return Ok(());
    }
    patch_status::<EcsAccount, _>(&api, &live.metadata, &status).await?;
    let before = recorded.conditions.iter().find(|it| it.type_ == READY).map(|it| it.reason.as_str());
    if before != Some(reason) {
        tracing::info!(account = live.spec.account_id, reason, message, "transition");
        let note = EventNote {
            is_warning: reason != "Verified",
            reason: reason.to_owned(),
            note: message.chars().take(MESSAGE_BYTES / 4).collect(),
        };
        let context_of_event = ("Verify", context.instance.as_str(), (context.clock)());
        publish(&context.client, &live, context_of_event, note).await;
    }
    Ok(())
}

fn status(
    account: &EcsAccount,
    recorded: &EcsAccountStatus,
    verification: Verification,
    now: Timestamp,
) -> EcsAccountStatus {
    let Verification { state, reason, message, error, caller_arn } = verification;
    let generation = account.metadata.generation;
    let reported = Reported { state, reason, message: &message, error: error.as_ref() };
    let before = Recorded { conditions: &recorded.conditions, generation, now };
    let conditions = before.conditions(&reported, recorded.error.as_ref());
    EcsAccountStatus {
        observed_generation: generation,
        conditions,
        last_handled_reconcile_at: account.annotations().get(REQUESTED_AT).cloned(),
        caller_arn,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::verify::not_verified,
        aws::response::{Failure, FailureKind},
    };

    fn types(status: &EcsAccountStatus) -> Vec<String> {
        status.conditions.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason)).collect()
    }

    fn after(recorded: &EcsAccountStatus, kind: Option<FailureKind>, seconds: i64) -> EcsAccountStatus {
        let verification = match kind {
            Some(kind) => not_verified(Failure::new(kind, "no")),
            None => Verification {
                state: State::Ready,
                reason: "Verified",
                message: String::new(),
                error: None,
                caller_arn: Some("arn".to_owned()),
            },
        };
        let now = Timestamp::from_second(seconds).expect("a time");
        status(&EcsAccount::default(), recorded, verification, now)
    }

    #[test]
    fn denied_account_is_stalled_after_two_minutes() {
        let denied = Some(FailureKind::AccessDenied);
        let first = after(&EcsAccountStatus::default(), denied, 0);
        assert_eq!(types(&first), ["Ready=False AccessDenied", "Reconciling=True AccessDenied"]);
        assert_eq!(after(&first, denied, 119), first, "the same status while nothing changes");
        let stalled = after(&first, denied, 120);
        assert_eq!(types(&stalled), ["Ready=False AccessDenied", "Stalled=True AccessDenied"]);
        assert_eq!(after(&stalled, denied, 900), stalled);
        let verified = after(&stalled, None, 901);
        assert_eq!(types(&verified), ["Ready=True Verified"]);
        assert_eq!(verified.caller_arn.as_deref(), Some("arn"));
    }

    #[test]
    fn message_stays_while_aws_returns_the_same_error() {
        let denied = |code: &str, text: &str, recorded: &EcsAccountStatus, generation| {
            let code = Some(code.to_owned());
            let failure = Failure { code, ..Failure::new(FailureKind::AccessDenied, text) };
            let mut account = EcsAccount::default();
            account.metadata.generation = Some(generation);
            let verification = not_verified(failure.during("AssumeRole"));
            status(&account, recorded, verification, Timestamp::UNIX_EPOCH)
        };
        let first = denied("AccessDenied", "session 1", &EcsAccountStatus::default(), 1);
        assert_eq!(first.conditions[0].message, "session 1");
        assert_eq!(denied("AccessDenied", "session 2", &first, 1), first);
        let message = |status: EcsAccountStatus| status.conditions[0].message.clone();
        assert_eq!(message(denied("ExpiredToken", "session 2", &first, 1)), "session 2");
        assert_eq!(message(denied("AccessDenied", "another role", &first, 2)), "another role");
        assert_eq!(after(&first, None, 9).error, None);
    }

    #[test]
    fn outage_is_never_stalled_and_does_not_count_as_denied() {
        let unavailable = after(&EcsAccountStatus::default(), Some(FailureKind::Unavailable), 0);
        let later = after(&unavailable, Some(FailureKind::Unavailable), 9_000);
        assert_eq!(types(&later), ["Ready=False Unavailable", "Reconciling=True Unavailable"]);
        let denied = after(&later, Some(FailureKind::AccessDenied), 9_001);
        assert_eq!(types(&denied)[1], "Reconciling=True AccessDenied");
    }

    #[test]
    fn account_mismatch_is_stalled_at_once() {
        let status = after(&EcsAccountStatus::default(), Some(FailureKind::AccountMismatch), 0);
        assert_eq!(types(&status), ["Ready=False AccountMismatch", "Stalled=True AccountMismatch"]);
    }
}
