//! Why credentials could not be loaded, from the errors of the SDK's providers. Pure.

use std::{
    error::Error as StdError,
    io::{self, ErrorKind},
};

use aws_config::imds::client::error::ImdsError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};

use crate::aws::{
    error,
    outage::{cause, chain},
    response::{Failure, FailureKind},
};

/// The value of the label `code` for credentials that are missing or refused without an error code of AWS.
pub(crate) const NO_CREDENTIALS: &str = "NoCredentials";

/// The value of the label `operation` for credentials that are loaded otherwise than from STS.
pub(crate) const LOAD_CREDENTIALS: &str = "LoadCredentials";

const WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";

const MISSING: &str =
    "the controller has no AWS credentials: give its service account an IAM role (IRSA or EKS Pod Identity)";

/// How the HTTP provider of the SDK, which serves ECS and EKS Pod Identity, reports a refusal: it has no type for it.
/// Source: `parse_response` in `aws_config::http_credential_provider`.
const HTTP_STATUS: &str = "Non-success status from HTTP credential provider: ";
const HTTP_REFUSAL: &str = "failed to load credentials [";

/// A failure to load credentials, as the SDK hands it on from the provider to its callers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(crate) struct NotLoaded(pub(crate) Failure);

/// What the environment says of the role of the controller, for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Role {
    pub(crate) arn: Option<String>,
    pub(crate) token_file: Option<String>,
}

/// Returns the failure to load credentials in the chain of `error`, if that is why it failed.
pub(crate) fn find(error: &(dyn StdError + 'static)) -> Option<Failure> {
    chain(error).find_map(|error| match error.downcast_ref() {
        Some(NotLoaded(failure)) => Some(failure.clone()),
        None => error.downcast_ref().map(|error| failure(error, &Role::default())),
    })
}

/// Returns what it means that credentials could not be loaded.
pub(crate) fn failure(error: &CredentialsError, role: &Role) -> Failure {
    if let Some(NotLoaded(failure)) = chain(error).find_map(|error| error.downcast_ref()) {
        return failure.clone();
    }
    let answered = chain(error).find_map(|error| {
        sts::<AssumeRoleWithWebIdentityError>(error, WEB_IDENTITY, role)
            .or_else(|| sts::<AssumeRoleError>(error, "AssumeRole", &Role::default()))
            .or_else(|| refused_by_endpoint(error))
    });
    answered.unwrap_or_else(|| unanswered(error, role))
}

/// Returns the value of the label `code` of a metric for credentials that could not be loaded.
pub(crate) fn code(failure: &Failure) -> &str {
    match (&failure.code, failure.kind) {
        (Some(code), _) => error::label(code),
        (None, FailureKind::AccessDenied) => NO_CREDENTIALS,
        (None, _) => error::NO_ANSWER,
    }
}

/// The failure of a call to STS. Whatever it refuses, the role or the token must be corrected.
fn sts<E>(error: &(dyn StdError + 'static), operation: &'static str, role: &Role) -> Option<Failure>
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let error: &SdkError<E, HttpResponse> = error.downcast_ref()?;
    let failure = error::failure(error).during(operation);
    Some(match failure.kind {
        FailureKind::AccessDenied | FailureKind::Refused | FailureKind::Absent | FailureKind::Deleted => {
            let role = role.arn.as_deref().unwrap_or("the role");
            let message = format!("cannot assume {role}: {}", failure.message);
            Failure { kind: FailureKind::AccessDenied, message, ..failure }
        }
        FailureKind::Throttled | FailureKind::Unavailable | FailureKind::ServerFault => failure,
    })
}

/// The refusal of an endpoint for credentials: that of ECS, EKS Pod Identity, or the instance metadata service.
fn refused_by_endpoint(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(ImdsError::ErrorResponse(response)) = error.downcast_ref() {
        return Some(endpoint_status(response.response().status().as_u16()));
    }
    let text = error.to_string();
    if let Some(status) = text.strip_prefix(HTTP_STATUS) {
        let digits: String = status.chars().filter(char::is_ascii_digit).collect();
        return Some(endpoint_status(digits.parse().unwrap_or_default()));
    }
    let refusal = text.strip_prefix(HTTP_REFUSAL)?.replacen("]: ", ": ", 1);
    Some(Failure::new(FailureKind::AccessDenied, format!("AWS refused to give credentials: {refusal}")))
}

fn endpoint_status(status: u16) -> Failure {
    let is_refusal = (400..500).contains(&status) && status != 408 && status != 429;
    let kind = if is_refusal { FailureKind::AccessDenied } else { FailureKind::Unavailable };
    Failure::new(kind, format!("the endpoint for AWS credentials answered HTTP status {status}"))
}

fn unanswered(error: &CredentialsError, role: &Role) -> Failure {
    let denied = |message: String| Failure::new(FailureKind::AccessDenied, message);
    let unavailable = |message: String| Failure::new(FailureKind::Unavailable, message);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => return denied(MISSING.to_owned()),
        CredentialsError::InvalidConfiguration(_) => {
            let cause = chain(error).last().map(ToString::to_string).unwrap_or_default();
            return denied(format!("the AWS configuration of the controller is not valid: {cause}"));
        }
        _ => {}
    }
    if let Some(cause) = chain(error).find_map(unreadable) {
        let file = role.token_file.as_deref().unwrap_or("of the AWS configuration");
        return denied(format!("cannot read the token file {file}: {cause}"));
    }
    let cause = cause(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    unavailable(format!("the AWS credentials of the controller could not be loaded{cause}"))
}

/// The cause if `error` says that a file cannot be read; no connection fails in these ways.
fn unreadable(error: &(dyn StdError + 'static)) -> Option<String> {
    let kind = error.downcast_ref::<io::Error>()?.kind();
    let is_of_file = matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
    );
    is_of_file.then(|| kind.to_string())
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::error::ErrorMetadata;

    use super::*;

    fn role() -> Role {
        Role {
            arn: Some("arn:aws:iam::012345678910:role/r".to_owned()),
            token_file: Some("/token".to_owned()),
        }
    }

    fn refused(code: &str, status: u16) -> Failure {
        let metadata = ErrorMetadata::builder().code(code).message("No.").build();
        let error = AssumeRoleWithWebIdentityError::generic(metadata);
        let response = HttpResponse::new(status.try_into().expect("a status"), "".into());
        // As the profile provider nests it.
        let error = CredentialsError::provider_error(SdkError::service_error(error, response));
        failure(&CredentialsError::provider_error(error), &role())
    }

    #[test]
    fn refusals_of_sts_name_the_role_the_code_and_the_text() {
        for refusal in ["AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", "ValidationError"] {
            let failure = refused(refusal, 403);
            assert_eq!(failure.kind, FailureKind::AccessDenied, "{refusal}");
            let expected = format!("cannot assume arn:aws:iam::012345678910:role/r: {refusal}: No.");
            assert_eq!(failure.message, expected);
            assert_eq!((failure.operation, failure.code.as_deref()), (Some(WEB_IDENTITY), Some(refusal)));
        }
        assert_eq!(refused("IDPCommunicationError", 400).kind, FailureKind::ServerFault);
        assert_eq!(refused("InternalFailure", 500).kind, FailureKind::ServerFault);
        assert_eq!(refused("Throttling", 400).kind, FailureKind::Throttled);
    }

    #[test]
    fn endpoints_that_refuse_are_access_denied_and_endpoints_that_fail_are_unavailable() {
        let of = |text: &str| failure(&CredentialsError::provider_error(text.to_owned()), &role());
        let denied = of("Non-success status from HTTP credential provider: StatusCode(403)");
        assert_eq!(denied.kind, FailureKind::AccessDenied);
        assert_eq!(denied.message, "the endpoint for AWS credentials answered HTTP status 403");
        assert_eq!(code(&denied), NO_CREDENTIALS);
        let failed = of("Non-success status from HTTP credential provider: StatusCode(500)");
        assert_eq!((failed.kind, code(&failed)), (FailureKind::Unavailable, error::NO_ANSWER));
        let coded = of("failed to load credentials [AccessDenied]: no association");
        assert_eq!(coded.kind, FailureKind::AccessDenied);
        assert_eq!(coded.message, "AWS refused to give credentials: AccessDenied: no association");
    }

    #[test]
    fn unreadable_token_files_are_access_denied_and_name_the_file() {
        let missing = CredentialsError::provider_error(io::Error::from(ErrorKind::NotFound));
        let failure = failure(&missing, &role());
        assert_eq!(failure.kind, FailureKind::AccessDenied);
        assert_eq!(failure.message, "cannot read the token file /token: entity not found");
    }

    #[test]
    fn providers_without_an_answer_are_unavailable() {
        let refused = CredentialsError::unhandled(io::Error::from(ErrorKind::ConnectionRefused));
        let told = failure(&refused, &role());
        assert_eq!(told.kind, FailureKind::Unavailable);
        assert!(told.message.ends_with("could not be loaded: connection refused"), "{}", told.message);
        let invalid = failure(&CredentialsError::invalid_configuration("no such profile"), &role());
        assert_eq!(invalid.kind, FailureKind::AccessDenied);
        assert!(invalid.message.ends_with("not valid: no such profile"), "{}", invalid.message);
    }
}
