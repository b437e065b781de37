//! Whether a resource can be reconciled now, and with which credentials. No I/O.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;

use crate::{
    account::{
        authorize::{Access, Denial, Refused, Subject, authorize, refuse_family},
        validate::ValidatedAccount,
    },
    api::{Reason, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    aws::{session::Session, source::Source},
    retirement::{
        context::{Context, key},
        requeue, resolve,
        trigger::Trigger,
        validate::{InvalidSpec, UsePolicy, ValidatedSpec, validate},
    },
};

/// The result of [`admit`].
pub enum Admission {
    Admitted(Box<Admitted>),
    /// The EcsAccounts are not listed yet.
    Pending,
    /// Another controller serves the EcsAccount, and reports the status.
    ServedByOther,
}

/// A resource with a valid spec, and the credentials that it may use.
pub struct Admitted {
    pub spec: ValidatedSpec,
    /// The region of the resource; `None` if it is not known.
    pub region: Option<String>,
    pub access: Option<Access>,
    /// Why the resource may use no credentials. `None` if it may.
    pub refused: Option<Refused>,
    /// The session of the credentials. `None` if the resource may use none.
    pub session: Option<Arc<Session>>,
}

impl Admitted {
    /// Returns the EcsAccount of the resource; `None` for the ambient credentials.
    #[must_use]
    pub fn account(&self) -> Option<&ValidatedAccount> {
        match &self.access {
            Some(Access::Account { account, .. }) => Some(account),
            Some(Access::Ambient) | None => None,
        }
    }

    /// Returns the access that a resource of `namespace` requests.
    #[must_use]
    pub fn subject<'a>(&'a self, namespace: &'a str) -> Subject<'a> {
        subject(&self.spec, namespace)
    }

    /// Returns why revisions of `family` are not allowed, or `None` if they are.
    #[must_use]
    pub fn refuse_family(&self, namespace: &str, family: &str) -> Option<Refused> {
        refuse_family(self.access.as_ref()?, &self.subject(namespace), family)
    }
}

fn subject<'a>(spec: &'a ValidatedSpec, namespace: &'a str) -> Subject<'a> {
    Subject {
        namespace,
        account_ref: spec.account_ref.as_deref(),
        region: spec.region.as_deref(),
        retires_in_use: spec.use_policy == UsePolicy::Retire,
    }
}

/// Validates a resource, and decides which credentials it may use.
///
/// # Errors
/// Returns [`InvalidSpec`] if the spec is invalid.
pub fn admit(resource: &TaskDefinitionRetirement, context: &Context) -> Result<Admission, InvalidSpec> {
    let mut spec = validate(&resource.spec)?;
    let status = resource.status.as_ref();
    let namespace = resource.namespace().unwrap_or_default();
    let access = match authorize(&context.accounts, &subject(&spec, &namespace), context.allows_ambient) {
        Ok(access) => access,
        Err(Denial::Pending) => return Ok(Admission::Pending),
        // Its own controller has reported the resource.
        Err(Denial::ServedByOther(_)) if status.is_some_and(is_reported_by_other) => {
            return Ok(Admission::ServedByOther);
        }
        Err(Denial::ServedByOther(refused) | Denial::Refused(refused)) => {
            let region = status.and_then(|status| status.region.clone()).or_else(|| spec.region.clone());
            let (access, refused, session) = (None, Some(refused), None);
            return Ok(Admission::Admitted(Box::new(Admitted { spec, region, access, refused, session })));
        }
    };
    let source = source(&access, context);
    let region = resolve::region(&spec, status, source.default_region())?;
    if let Access::Account { account, .. } = &access {
        spec.restrict(account);
    }
    let session = Some(source.session(&region));
    let (region, access, refused) = (Some(region), Some(access), None);
    Ok(Admission::Admitted(Box::new(Admitted { spec, region, access, refused, session })))
}

fn source(access: &Access, context: &Context) -> Arc<Source> {
    match access {
        Access::Ambient => context.sources.ambient().clone(),
        Access::Account { account, .. } => context.sources.account(&account.name, &account.source),
    }
}

/// Returns true if a status shows progress, which this controller reports for no resource of an
/// EcsAccount that it does not serve. The account of a pending revision is known only to the
/// controller that serves the EcsAccount.
fn is_reported_by_other(status: &TaskDefinitionRetirementStatus) -> bool {
    let is_ours = |reason| match reason {
        Reason::AccountNotFound | Reason::Invalid => true,
        Reason::Pending => status.account.is_none(),
        _ => false,
    };
    status.revisions.iter().any(|row| !is_ours(row.reason))
}

/// Returns the requeue delay of a resource for which nothing can be done now, and whose status says
/// so already.
#[must_use]
pub fn delay(cached: &TaskDefinitionRetirement, context: &Context) -> Option<Duration> {
    let status = cached.status.as_ref()?;
    if status.conditions.is_empty() || Trigger::of(cached, status).is_due() {
        return None;
    }
    let Ok(Admission::Admitted(admitted)) = admit(cached, context) else { return None };
    let session = admitted.session.as_ref()?;
    let uid = cached.uid().unwrap_or_default();
    let is_reported = || status.revisions.iter().any(|row| row.reason == Reason::Unavailable);
    if session.is_open() && is_reported() {
        return Some(requeue::after_outage(&uid));
    }
    // A resource with a permit to deregister is not delayed.
    let has_permit = || context.waiters.get(&key(cached)).is_some_and(|waiter| waiter.has_permit());
    let is_at_limit = || context.aws_concurrency.available_permits() == 0 && !has_permit();
    // While the first verification is in progress, only one resource waits for it: a hanging
    // account does not use up the concurrency permits.
    (session.is_being_verified() || is_at_limit()).then(|| requeue::at_concurrency_limit(&uid))
}
