//! Decides which credentials a retirement may use, and checks it again right before an irreversible
//! call.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use crate::{
    account::{
        allow::{Request, allow, depends_on_labels},
        readiness::Readiness,
        store::{Accounts, Missing},
        validate::ValidatedAccount,
    },
    api::{EcsAccount, Reason},
    controller::Error,
    in_flight,
};

/// The credentials that a resource may use.
#[derive(Clone, Debug)]
pub enum Access {
    /// The controller's own credentials.
    Ambient,
    Account {
        account: Box<ValidatedAccount>,
        namespace_labels: Option<BTreeMap<String, String>>,
    },
}

/// Why a resource may use no credentials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Denial {
    /// The EcsAccounts are not listed yet.
    Pending,
    /// Another controller serves the EcsAccount.
    ServedByOther(Refused),
    Refused(Refused),
}

/// A refusal as it is reported in the rows of a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    pub reason: Reason,
    pub message: String,
}

/// What a resource declares about the account and the credentials that it needs.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub namespace: &'a str,
    /// The name of the EcsAccount; `None` for the ambient credentials.
    pub account_ref: Option<&'a str>,
    /// The declared region; `None` for the default region of the account.
    pub region: Option<&'a str>,
    pub retires_in_use: bool,
}

/// Returns the credentials that a resource may use, by the cached EcsAccounts and namespaces.
/// `allows_ambient` is the value of `--ambient-credentials`.
///
/// # Errors
/// Returns why it may use none.
pub fn authorize(accounts: &Accounts, subject: &Subject<'_>, allows_ambient: bool) -> Result<Access, Denial> {
    let refuse = |reason, message| Err(Denial::Refused(Refused { reason, message }));
    match accounts.readiness() {
        Readiness::Ready => {}
        Readiness::Pending => return Err(Denial::Pending),
        Readiness::Failed(error) => {
            let message = format!(
                "{error}: allow the service account of the controller to list them, or start it with --ecs-accounts=false"
            );
            return refuse(Reason::AccountNotReady, message);
        }
    }
    let Some(name) = subject.account_ref else {
        if allows_ambient {
            return Ok(Access::Ambient);
        }
        let message = "the controller's own credentials are not used (--ambient-credentials=false): name an EcsAccount in spec.accountRef";
        return refuse(Reason::AccountNotFound, message.to_owned());
    };
    let account = match accounts.get(name) {
        Ok(account) => account,
        Err(Missing::NotFound(message)) => return refuse(Reason::AccountNotFound, message),
        Err(Missing::Invalid(message)) => return refuse(Reason::AccountNotReady, message),
        Err(Missing::ServedByOther(message)) => {
            let reason = Reason::AccountNotFound;
            return Err(Denial::ServedByOther(Refused { reason, message }));
        }
    };
    let namespace_labels = accounts.namespace_labels(subject.namespace);
    match allow(&account, &request(&account, subject, namespace_labels.as_ref(), None)) {
        Ok(()) => Ok(Access::Account { account: Box::new(account), namespace_labels }),
        Err(refusal) => refuse(Reason::NotAllowed, refusal.to_string()),
    }
}

/// Returns why revisions of `family` are not allowed, or `None` if they are.
#[must_use]
pub fn refuse_family(access: &Access, subject: &Subject<'_>, family: &str) -> Option<Refused> {
    let Access::Account { account, namespace_labels } = access else { return None };
    let request = request(account, subject, namespace_labels.as_ref(), Some(family));
    let refusal = allow(account, &request).err()?;
    Some(Refused { reason: Reason::NotAllowed, message: refusal.to_string() })
}

/// Reads an EcsAccount and, if its labels decide, the namespace uncached, and decides again.
/// Returns true if the account is the one that was planned with and still allows the request.
///
/// # Errors
/// Returns [`Error::ReadResource`] if a call to the API server fails.
pub async fn is_still_allowed(
    (accounts, client): (&Accounts, &Client),
    planned: &ValidatedAccount,
    subject: &Subject<'_>,
    family: &str,
) -> Result<bool, Error> {
    let api: Api<EcsAccount> = Api::all(client.clone());
    let read = in_flight::kubernetes("get EcsAccount", api.get_opt(&planned.name)).await;
    let Some(live) = read.map_err(Error::ReadResource)? else { return Ok(false) };
    let is_same = live.uid().as_ref() == Some(&planned.source.uid)
        && live.metadata.generation == Some(planned.source.generation)
        && live.metadata.deletion_timestamp.is_none();
    let Ok(account) = accounts.validated(&live) else { return Ok(false) };
    if !is_same || account.is_suspended {
        return Ok(false);
    }
    let labels = if depends_on_labels(&account, subject.namespace) {
        let api: Api<Namespace> = Api::all(client.clone());
        let read = in_flight::kubernetes("get namespace", api.get_metadata_opt(subject.namespace)).await;
        read.map_err(Error::ReadResource)?.map(|namespace| namespace.metadata.labels.unwrap_or_default())
    } else {
        None
    };
    Ok(allow(&account, &request(&account, subject, labels.as_ref(), Some(family))).is_ok())
}

fn request<'a>(
    account: &'a ValidatedAccount,
    subject: &Subject<'a>,
    namespace_labels: Option<&'a BTreeMap<String, String>>,
    family: Option<&'a str>,
) -> Request<'a> {
    Request {
        namespace: subject.namespace,
        namespace_labels,
        region: subject.region.unwrap_or(&account.source.region),
        retires_in_use: subject.retires_in_use,
        family,
    }
}
