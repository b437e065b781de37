//! The access keys, their owners, and the validity of temporary credentials. No I/O.

use super::{
    caller::{Caller, Principal},
    reply::Failure,
    request::Request,
};
use std::{collections::HashMap, time::Instant};

/// All valid access keys, and the expired ones.
#[derive(Default)]
pub(super) struct Credentials(HashMap<String, Owner>);

struct Owner {
    account: String,
    principal: Principal,
    /// `None` for long-term credentials.
    session: Option<Session>,
}

/// The limits of temporary credentials.
pub(super) struct Session {
    pub(super) token: String,
    pub(super) expires_at: Instant,
}

impl Credentials {
    /// Assigns an access key to a principal of an account.
    pub(super) fn assign(
        &mut self,
        access_key: &str,
        account: &str,
        principal: Principal,
        session: Option<Session>,
    ) {
        let owner = Owner { account: account.to_owned(), principal, session };
        self.0.insert(access_key.to_owned(), owner);
    }

    pub(super) fn revoke(&mut self, access_key: &str) {
        self.0.remove(access_key);
    }

    /// Revokes the credentials of all sessions of a role.
    pub(super) fn revoke_sessions(&mut self, role: &str) {
        let is_session =
            |principal: &Principal| matches!(principal, Principal::Session { role: it, .. } if it == role);
        self.0.retain(|_, owner| !is_session(&owner.principal));
    }

    /// Returns the caller of a request, or the error of AWS if its credentials are not valid.
    pub(super) fn authenticate(&self, request: &Request, now: Instant) -> Result<Caller, Failure> {
        let service = request.service;
        if let Some(caller) = request.web_identity() {
            return Ok(caller);
        }
        let Some(scope) = &request.scope else {
            return Err(Failure::unsigned(service));
        };
        if scope.service != service.name() {
            return Err(Failure::signed_for_another_service(service));
        }
        let unknown = || Failure::unknown_access_key(service);
        let owner = self.0.get(&scope.access_key).ok_or_else(unknown)?;
        if let Some(session) = &owner.session {
            if request.session_token.as_ref() != Some(&session.token) {
                return Err(unknown());
            }
            if session.expires_at <= now {
                return Err(Failure::expired_token(service));
            }
        }
        Ok(Caller {
            account: owner.account.clone(),
            region: scope.region.clone(),
            principal: owner.principal.clone(),
        })
    }
}
