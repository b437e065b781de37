//! Classification of the errors of the SDK's credential providers.

use std::{
    error::Error as StdError,
    io::{self, ErrorKind},
};

use aws_config::imds::client::error::{ImdsError, TokenError};
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
    outage::{TIMEOUT, cause, chain},
    response::{Failure, FailureKind},
};

/// Value of the metric label `code` for credentials that are missing or denied without an AWS error
/// code.
pub(crate) const NO_CREDENTIALS: &str = "NoCredentials";

/// Value of the metric label `operation` for credentials that are not from STS.
pub(crate) const LOAD_CREDENTIALS: &str = "LoadCredentials";

/// The operation that assumes the role of an account resource.
pub(crate) const ASSUME_ROLE: &str = "AssumeRole";

/// The operation that reads the identity of the credentials.
pub(crate) const GET_CALLER_IDENTITY: &str = "GetCallerIdentity";

const WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";

const MISSING: &str =
    "the controller has no AWS credentials: give its service account an IAM role (IRSA or EKS Pod Identity)";

/// Texts with which the SDK's providers for ECS, EKS Pod Identity and instance metadata (IMDS)
/// report a rejection. There is no error type for it.
/// Source: `parse_response` in `aws_config::http_credential_provider`, and `retrieve_credentials`
/// in `aws_config::imds::credentials`.
const HTTP_STATUS: &str = "Non-success status from HTTP credential provider: ";
const HTTP_REJECTION: &str = "failed to load credentials [";
const IMDS_REJECTION: &str = "Error retrieving credentials from IMDS: ";

/// A failure to load credentials, as an error that the SDK passes from the provider to its callers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(crate) struct NotLoaded(pub(crate) Failure);

/// The controller's role and token file from the environment, for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Role {
    pub(crate) arn: Option<String>,
    pub(crate) token_file: Option<String>,
}

/// Returns the failure of a call, which may be that its credentials could not be loaded.
pub(crate) fn call_failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let failure = error::response_failure(error).or_else(|| find(error));
    failure.unwrap_or_else(|| error::unreachable(error))
}

/// Returns the failure to load credentials in the chain of `error`, or `None` if there is none.
fn find(error: &(dyn StdError + 'static)) -> Option<Failure> {
    chain(error).find_map(|error| match error.downcast_ref() {
        Some(NotLoaded(failure)) => Some(failure.clone()),
        None => error.downcast_ref().map(|error| failure(error, &Role::default())),
    })
}

/// Returns the failure for credentials that could not be loaded.
pub(crate) fn failure(error: &CredentialsError, role: &Role) -> Failure {
    if let Some(NotLoaded(failure)) = chain(error).find_map(|error| error.downcast_ref()) {
        return failure.clone();
    }
    let rejection = chain(error).find_map(|error| {
        sts::<AssumeRoleWithWebIdentityError>(error, WEB_IDENTITY, role)
            .or_else(|| sts::<AssumeRoleError>(error, ASSUME_ROLE, &Role::default()))
            .or_else(|| rejected_by_endpoint(error))
    });
    rejection.unwrap_or_else(|| without_response(error, role))
}

/// Returns the value of the metric label `code` for credentials that could not be loaded. Those
/// that are denied with any other code, such as `ValidationError`, have one of the alert as well.
pub(crate) fn code(failure: &Failure) -> &str {
    match (&failure.code, failure.kind) {
        (Some(code), FailureKind::AccessDenied) if error::is_denied(code) => code,
        (_, FailureKind::AccessDenied) => NO_CREDENTIALS,
        (Some(code), _) => error::label(code),
        (None, _) => error::NO_ANSWER,
    }
}

/// Returns the failure of a call to STS, or `None` for other errors. All rejections count as access
/// denied because the role or the token must be corrected.
fn sts<E>(error: &(dyn StdError + 'static), operation: &'static str, role: &Role) -> Option<Failure>
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let error: &SdkError<E, HttpResponse> = error.downcast_ref()?;
    Some(denied(call_failure(error).during(operation), role.arn.as_deref()))
}

/// Returns true if a failure of `operation` is one of the credentials, and not of ECS.
#[must_use]
pub fn is_of_credentials(operation: &str) -> bool {
    [LOAD_CREDENTIALS, ASSUME_ROLE, WEB_IDENTITY, GET_CALLER_IDENTITY].contains(&operation)
}

/// Returns the failure of a call of `sts:AssumeRole` for `role`.
pub(crate) fn cannot_assume(error: &SdkError<AssumeRoleError, HttpResponse>, role: &str) -> Failure {
    match find(error) {
        // The ambient credentials could not be loaded.
        Some(failure) => failure,
        None => denied(call_failure(error).during(ASSUME_ROLE), Some(role)),
    }
}

fn denied(failure: Failure, role: Option<&str>) -> Failure {
    match failure.kind {
        FailureKind::Throttled | FailureKind::Unavailable | FailureKind::ServerFault => failure,
        FailureKind::AccessDenied
        | FailureKind::AccountMismatch
        | FailureKind::Refused
        | FailureKind::Absent
        | FailureKind::Deleted => {
            let message = format!("cannot assume {}: {}", role.unwrap_or("the role"), failure.message);
            Failure { kind: FailureKind::AccessDenied, message, ..failure }
        }
    }
}

/// Returns the failure if a credentials endpoint (ECS, EKS Pod Identity or instance metadata)
/// responded with an error.
fn rejected_by_endpoint(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(ImdsError::ErrorResponse(response)) = error.downcast_ref() {
        return Some(endpoint_status(response.response().status().as_u16()));
    }
    if let Some(SdkError::ServiceError(response)) = error.downcast_ref::<SdkError<TokenError, HttpResponse>>()
    {
        return Some(endpoint_status(response.raw().status().as_u16()));
    }
    let text = error.to_string();
    if let Some(status) = text.strip_prefix(HTTP_STATUS) {
        let digits: String = status.chars().filter(char::is_ascii_digit).collect();
        return Some(endpoint_status(digits.parse().unwrap_or_default()));
    }
    let rejection = match text.strip_prefix(IMDS_REJECTION) {
        Some(rejection) => rejection.replacen(' ', ": ", 1),
        None => text.strip_prefix(HTTP_REJECTION)?.replacen("]: ", ": ", 1),
    };
    Some(Failure::new(FailureKind::AccessDenied, format!("AWS refused to give credentials: {rejection}")))
}

fn endpoint_status(status: u16) -> Failure {
    let is_rejection = (400..500).contains(&status) && status != 408 && status != 429;
    let kind = if is_rejection { FailureKind::AccessDenied } else { FailureKind::Unavailable };
    Failure::new(kind, format!("the endpoint for AWS credentials returned HTTP status {status}"))
}

/// Returns the failure if neither STS nor an endpoint responded.
fn without_response(error: &CredentialsError, role: &Role) -> Failure {
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
    let cause = match error {
        CredentialsError::ProviderTimedOut(_) => Some(TIMEOUT),
        _ => cause(error),
    };
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    unavailable(format!("the AWS credentials of the controller could not be loaded{cause}"))
}

/// Returns the cause if `error` reports an unreadable file. Connection errors have other kinds.
fn unreadable(error: &(dyn StdError + 'static)) -> Option<String> {
    let kind = error.downcast_ref::<io::Error>()?.kind();
    let is_file_error = matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
    );
    is_file_error.then(|| kind.to_string())
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Arc, time::Duration};

    use aws_config::{imds::credentials::ImdsCredentialsProvider, provider_config::ProviderConfig};
    use aws_credential_types::provider::ProvideCredentials;
    use aws_sdk_ecs::error::ErrorMetadata;
    use aws_smithy_async::future::timeout::TimedOutError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use testkit::simulated_ecs::in_process::{self, Received};

    use super::*;

    fn role() -> Role {
        Role {
            arn: Some("arn:aws:iam::012345678910:role/r".to_owned()),
            token_file: Some("/token".to_owned()),
        }
    }

    fn rejected(code: &str, status: u16) -> Failure {
        let metadata = ErrorMetadata::builder().code(code).message("No.").build();
        let error = AssumeRoleWithWebIdentityError::generic(metadata);
        let response = HttpResponse::new(status.try_into().expect("valid status"), "".into());
        // Nested as by the profile provider.
        let error = CredentialsError::provider_error(SdkError::service_error(error, response));
        failure(&CredentialsError::provider_error(error), &role())
    }

    #[test]
    fn sts_rejection_names_the_role_the_error_code_and_the_message() {
        for code in ["AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", "ValidationError"] {
            let failure = rejected(code, 403);
            assert_eq!(failure.kind, FailureKind::AccessDenied, "{code}");
            let expected = format!("cannot assume arn:aws:iam::012345678910:role/r: {code}: No.");
            assert_eq!(failure.message, expected);
            assert_eq!((failure.operation, failure.code.as_deref()), (Some(WEB_IDENTITY), Some(code)));
        }
        assert_eq!(rejected("IDPCommunicationError", 400).kind, FailureKind::ServerFault);
        assert_eq!(rejected("InternalFailure", 500).kind, FailureKind::ServerFault);
        assert_eq!(rejected("Throttling", 400).kind, FailureKind::Throttled);
    }

    #[test]
    fn endpoint_rejections_are_access_denied_and_endpoint_faults_are_unavailable() {
        let failure = |text: &str| failure(&CredentialsError::provider_error(text.to_owned()), &role());
        let denied = failure("Non-success status from HTTP credential provider: StatusCode(403)");
        assert_eq!(denied.kind, FailureKind::AccessDenied);
        assert_eq!(denied.message, "the endpoint for AWS credentials returned HTTP status 403");
        assert_eq!(code(&denied), NO_CREDENTIALS);
        let failed = failure("Non-success status from HTTP credential provider: StatusCode(500)");
        assert_eq!((failed.kind, code(&failed)), (FailureKind::Unavailable, error::NO_ANSWER));
        let coded = failure("failed to load credentials [AccessDenied]: no association");
        assert_eq!(coded.kind, FailureKind::AccessDenied);
        assert_eq!(coded.message, "AWS refused to give credentials: AccessDenied: no association");
    }

    /// Returns the failure of the SDK's provider if the instance metadata service returns these
    /// responses.
    async fn instance_metadata(responses: Vec<(u16, &'static str)>) -> Failure {
        let responses = Mutex::new(responses.into_iter());
        let transport = Arc::new(move |_| {
            let (status, body) = responses.lock().next().expect("no other request");
            let headers = vec![("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_owned())];
            ready(Some(Received { status, headers, body: body.to_owned() })).boxed()
        });
        let client = in_process::config("us-west-2", transport).http_client().expect("a client");
        let config = ProviderConfig::without_region().with_http_client(client);
        let provider = ImdsCredentialsProvider::builder().configure(&config).build();
        failure(&provider.provide_credentials().await.expect_err("no credentials"), &role())
    }

    #[tokio::test(start_paused = true)]
    async fn rejections_by_instance_metadata_are_access_denied() {
        let denied = instance_metadata(vec![(403, "")]).await;
        let message = "the endpoint for AWS credentials returned HTTP status 403";
        assert_eq!((denied.kind, denied.message.as_str()), (FailureKind::AccessDenied, message));
        assert_eq!(code(&denied), NO_CREDENTIALS);
        let rejection = r#"{ "Code": "Failed", "Message": "The role cannot be assumed." }"#;
        let coded = instance_metadata(vec![(200, "token"), (200, "profile"), (200, rejection)]).await;
        assert_eq!(coded.kind, FailureKind::AccessDenied);
        assert_eq!(coded.message, "AWS refused to give credentials: Failed: The role cannot be assumed.");
    }

    #[test]
    fn every_rejection_by_sts_has_a_metric_label_of_the_access_denied_alert() {
        for known in ["AccessDenied", "ExpiredTokenException"] {
            assert_eq!(code(&rejected(known, 400)), known);
        }
        for other in ["ValidationError", "PackedPolicyTooLarge", "BrandNewException"] {
            assert_eq!(code(&rejected(other, 400)), NO_CREDENTIALS, "{other}");
        }
        assert_eq!(code(&rejected("Throttling", 400)), "Throttling");
    }

    #[test]
    fn unreadable_token_files_are_access_denied_and_name_the_file() {
        let missing = CredentialsError::provider_error(io::Error::from(ErrorKind::NotFound));
        let failure = failure(&missing, &role());
        assert_eq!(failure.kind, FailureKind::AccessDenied);
        assert_eq!(failure.message, "cannot read the token file /token: entity not found");
    }

    #[test]
    fn provider_errors_without_a_response_are_unavailable() {
        let error = CredentialsError::unhandled(io::Error::from(ErrorKind::ConnectionRefused));
        let unavailable = failure(&error, &role());
        assert_eq!(unavailable.kind, FailureKind::Unavailable);
        let message = unavailable.message;
        assert!(message.ends_with("could not be loaded: connection refused"), "{message}");
        for error in [
            CredentialsError::provider_timed_out(Duration::from_secs(7)),
            CredentialsError::unhandled(ConnectorError::timeout(TimedOutError.into())),
        ] {
            let late = failure(&error, &role());
            assert_eq!(late.kind, FailureKind::Unavailable);
            assert!(late.message.ends_with("could not be loaded: no response in time"), "{}", late.message);
        }
        let invalid = failure(&CredentialsError::invalid_configuration("no such profile"), &role());
        assert_eq!(invalid.kind, FailureKind::AccessDenied);
        assert!(invalid.message.ends_with("not valid: no such profile"), "{}", invalid.message);
    }
}
