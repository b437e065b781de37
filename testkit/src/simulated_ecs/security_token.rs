//! STS responses. No I/O.

use super::{caller::Caller, reply::Done};
use jiff::{SignedDuration, Timestamp};

/// Validity of the credentials of a role, unless the call specifies another one.
const SESSION: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn assume_role_with_web_identity(caller: &Caller, access_key: &str, now: Timestamp) -> Done {
    let expiration = (now + SESSION).strftime("%Y-%m-%dT%H:%M:%SZ");
    Done {
        body: format!(
            "<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
             <AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>AROAIOSFODNN7EXAMPLE:session</AssumedRoleId>\
             </AssumedRoleUser>",
            caller.arn()
        ),
        changed: false,
    }
}

pub(super) fn get_caller_identity(caller: &Caller) -> Done {
    Done {
        body: format!(
            "<Arn>{}</Arn><UserId>AROAIOSFODNN7EXAMPLE:session</UserId><Account>{}</Account>",
            caller.arn(),
            caller.account
        ),
        changed: false,
    }
}
