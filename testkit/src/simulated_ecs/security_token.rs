//! The calls of STS, with the semantics of AWS. No I/O.

use super::{
    caller::{Caller, Principal, account_of},
    credentials::{Credentials, Session},
    reply::{CallResult, Done, Failure},
    roles::Roles,
    simulation::Moment,
};
use jiff::SignedDuration;
use serde_json::Value;
use std::time::Duration;

/// Default lifetime of a session, and its limit if the caller is a session of a role.
/// Source: `AssumeRole`, AWS STS API Reference.
const SESSION: Duration = Duration::from_hours(1);

const MIN_DURATION_SECONDS: u64 = 900;

/// Issues credentials of a role to a trusted caller. `number` identifies the call.
pub(super) fn assume_role(
    roles: &Roles,
    credentials: &mut Credentials,
    caller: &Caller,
    input: &Value,
    now: Moment,
    number: u64,
) -> CallResult {
    let role_arn = input["RoleArn"].as_str().unwrap_or_default();
    let account = account_of(role_arn)
        .filter(|_| role_arn.contains(":role/"))
        .ok_or_else(|| Failure::validation(format!("{role_arn} is invalid")))?;
    let name = session_name(input)?;
    let requested = duration(input)?;
    let external_id = input["ExternalId"].as_str();
    let role = roles
        .assumable(role_arn, caller, external_id)
        .ok_or_else(|| Failure::not_authorized_to_assume(role_arn, caller))?;
    if requested > SESSION && caller.role().is_some() {
        return Err(Failure::validation(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        ));
    }
    if requested > role.max_session_duration {
        return Err(Failure::validation(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let session = Caller {
        account: role.account.as_deref().unwrap_or(account).to_owned(),
        region: caller.region.clone(),
        principal: Principal::Session { role: role_arn.to_owned(), name: name.to_owned() },
    };
    Ok(issue(credentials, &session, role.session_lifetime.unwrap_or(requested), now, number))
}

/// Issues credentials of the role `controller`. The web identity token is not verified.
pub(super) fn assume_role_with_web_identity(
    credentials: &mut Credentials,
    caller: &Caller,
    now: Moment,
    number: u64,
) -> Done {
    issue(credentials, caller, SESSION, now, number)
}

pub(super) fn get_caller_identity(caller: &Caller) -> Done {
    Done {
        body: format!(
            "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
            caller.arn(),
            caller.user_id(),
            caller.account
        ),
        changed: false,
    }
}

fn issue(
    credentials: &mut Credentials,
    session: &Caller,
    lifetime: Duration,
    now: Moment,
    number: u64,
) -> Done {
    let access_key = format!("ASIASIMULATED{number:07}");
    let token = format!("session-token-{number}");
    let limits = Session { token: token.clone(), expires_at: now.at + lifetime };
    credentials.assign(&access_key, &session.account, session.principal.clone(), Some(limits));
    let expiration = now.time + SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
    Done {
        body: format!(
            "<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{}</Expiration></Credentials>\
             <AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>{}</AssumedRoleId></AssumedRoleUser>",
            expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
            session.arn(),
            session.user_id()
        ),
        changed: false,
    }
}

/// Returns the name of the session: 2 to 64 characters of a limited set.
fn session_name(input: &Value) -> Result<&str, Failure> {
    let name = input["RoleSessionName"].as_str().unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if (2..=64).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(name);
    }
    Err(Failure::constraint(
        "roleSessionName",
        name,
        "Member must have a length of 2 to 64 and satisfy regular expression pattern: [\\w+=,.@-]*",
    ))
}

/// Returns the requested lifetime of the session.
fn duration(input: &Value) -> Result<Duration, Failure> {
    let Some(text) = input["DurationSeconds"].as_str() else {
        return Ok(SESSION);
    };
    match text.parse() {
        Ok(seconds) if seconds >= MIN_DURATION_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::constraint(
            "durationSeconds",
            text,
            "Member must have value greater than or equal to 900",
        )),
    }
}
