//! AWS's error codes, all in one place, and what each means for a retirement. Pure.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::ecs::answer::{Failure, FailureKind};

/// Throttling is not in the model of ECS, so these arrive as unmodelled codes.
/// Source: the SDK's own list, `aws_runtime::retries::classifiers::THROTTLING_ERRORS`.
const THROTTLED: [&str; 10] = [
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// Source: "Common Errors" of the ECS and STS API References.
const ACCESS_DENIED: [&str; 13] = [
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes of a passing fault, whatever status they come with.
const SERVER_FAULT: [&str; 3] = ["RequestTimeout", "RequestTimeoutException", "ServerException"];

/// Codes of the model that stand for refusals.
const REFUSED: [&str; 2] = ["ClientException", "InvalidParameterException"];

/// What a gateway or a load balancer answers in place of AWS.
const NOBODY_THERE: [u16; 3] = [502, 503, 504];

/// `ClientException` covers many refusals: only its text tells that a revision is not there.
const ABSENT: [&str; 2] = ["unable to describe task definition", "task definition does not exist"];

/// The longest text of AWS that is kept, in characters.
const TEXT_LENGTH: usize = 512;

/// The error code of AWS as a label of a metric; only known ones, so that there are few.
pub(crate) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> &'static str {
    let SdkError::ServiceError(service) = error else { return "NoAnswer" };
    let code = service.err().meta().code().unwrap_or_default();
    let known = [THROTTLED.as_slice(), &ACCESS_DENIED, &SERVER_FAULT, &REFUSED].concat();
    known.into_iter().find(|known| *known == code).unwrap_or("Other")
}

/// What a failed call means.
pub(crate) fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    if let SdkError::ServiceError(service) = error {
        let metadata = service.err().meta();
        return answered(metadata.code(), metadata.message(), service.raw().status().as_u16());
    }
    // Which way it failed may change from try to try, and the message must not.
    credentials_error(error).map_or_else(
        || {
            Failure::new(
                FailureKind::Unavailable,
                "AWS could not be reached, or did not answer in time".to_owned(),
            )
        },
        no_credentials,
    )
}

/// What it means that there are no credentials to call with.
pub(crate) fn no_credentials(error: &CredentialsError) -> Failure {
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Failure::new(
                FailureKind::AccessDenied,
                "the controller has no AWS credentials: give its service account an IAM role (IRSA or EKS Pod Identity)",
            )
        }
        _ => Failure::new(
            FailureKind::Unavailable,
            "the AWS credentials of the controller could not be refreshed",
        ),
    }
}

fn answered(code: Option<&str>, text: Option<&str>, http_status: u16) -> Failure {
    let code = code.unwrap_or_default();
    let text: String = text.unwrap_or_default().chars().take(TEXT_LENGTH).collect();
    let says = |texts: &[&str]| texts.iter().any(|t| text.to_lowercase().contains(t));
    let kind = if THROTTLED.contains(&code) || http_status == 429 {
        FailureKind::Throttled
    } else if ACCESS_DENIED.contains(&code) {
        FailureKind::AccessDenied
    } else if NOBODY_THERE.contains(&http_status) {
        FailureKind::Unavailable
    } else if SERVER_FAULT.contains(&code) || http_status >= 500 {
        FailureKind::ServerFault
    } else if code == "ClientException" && says(&ABSENT) {
        FailureKind::Absent
    } else {
        FailureKind::Refused
    };
    let message = match (code, text.as_str()) {
        ("", _) => format!("HTTP status {http_status}"),
        (code, "") => code.to_owned(),
        (code, text) => format!("{code}: {text}"),
    };
    Failure::new(kind, message)
}

fn credentials_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::{
        error::ErrorMetadata, operation::describe_task_definition::DescribeTaskDefinitionError,
    };

    use super::*;

    #[test]
    fn each_code_of_aws_means_one_thing() {
        let table = [
            ("ThrottlingException", "Rate exceeded", 400, FailureKind::Throttled),
            ("", "", 429, FailureKind::Throttled),
            ("AccessDeniedException", "User is not authorized", 400, FailureKind::AccessDenied),
            ("ExpiredToken", "The security token is expired", 403, FailureKind::AccessDenied),
            ("ServerException", "Internal", 400, FailureKind::ServerFault),
            ("", "", 500, FailureKind::ServerFault),
            ("", "", 501, FailureKind::ServerFault),
            ("", "", 499, FailureKind::Refused),
            ("", "", 503, FailureKind::Unavailable),
            ("ThrottlingException", "Rate exceeded", 503, FailureKind::Throttled),
            ("BrandNewException", "Unable to describe task definition.", 400, FailureKind::Refused),
            ("ClientException", "Unable to describe task definition.", 400, FailureKind::Absent),
            ("ClientException", "The specified task definition does not exist.", 400, FailureKind::Absent),
            ("ClientException", "Too many concurrent attempts", 400, FailureKind::Refused),
            ("InvalidParameterException", "Unable to describe task definition.", 400, FailureKind::Refused),
            ("", "", 404, FailureKind::Refused),
        ];
        for (code, text, status, kind) in table {
            assert_eq!(answered(Some(code), Some(text), status).kind, kind, "{code} {text} {status}");
        }
    }

    fn error(code: &str, status: u16) -> SdkError<DescribeTaskDefinitionError, HttpResponse> {
        let metadata = ErrorMetadata::builder().code(code).message("No.").build();
        let status = status.try_into().expect("a status");
        SdkError::service_error(
            DescribeTaskDefinitionError::generic(metadata),
            HttpResponse::new(status, "".into()),
        )
    }

    #[test]
    fn a_metric_names_the_codes_that_are_known_and_no_others() {
        for known in ["ThrottlingException", "ExpiredToken", "ServerException", "ClientException"] {
            assert_eq!(code(&error(known, 400)), known);
        }
        assert_eq!(code(&error("BrandNewException", 400)), "Other");
        let unanswered = SdkError::<DescribeTaskDefinitionError, _>::timeout_error("late");
        assert_eq!(code(&unanswered), "NoAnswer");
    }

    #[test]
    fn without_an_answer_the_message_says_whether_aws_or_the_credentials_are_missing() {
        let answered = failure(&error("ExpiredToken", 403));
        assert_eq!(
            (answered.kind, answered.message.as_str()),
            (FailureKind::AccessDenied, "ExpiredToken: No.")
        );

        let without = |cause: Box<dyn StdError + Send + Sync>| {
            failure(&SdkError::<DescribeTaskDefinitionError, HttpResponse>::construction_failure(cause))
        };
        let silent = without("reset".into());
        let told = (silent.kind, silent.message.as_str());
        assert_eq!(told, (FailureKind::Unavailable, "AWS could not be reached, or did not answer in time"));
        for missing in [CredentialsError::not_loaded("none"), CredentialsError::invalid_configuration("bad")]
        {
            let missing = without(missing.into());
            assert_eq!(missing.kind, FailureKind::AccessDenied);
            assert!(missing.message.starts_with("the controller has no AWS credentials: give its"));
        }
        let stale = without(CredentialsError::provider_error("STS is down").into());
        let told = (stale.kind, stale.message.as_str());
        assert_eq!(
            told,
            (FailureKind::Unavailable, "the AWS credentials of the controller could not be refreshed")
        );
    }

    #[test]
    fn a_refusal_keeps_the_code_and_the_text_of_aws() {
        let failure = answered(Some("ClientException"), Some("No."), 400);
        assert_eq!(failure.message, "ClientException: No.");
        assert_eq!(answered(None, None, 404).message, "HTTP status 404");
        assert_eq!(answered(Some("ClientException"), None, 400).message, "ClientException");
        let long = "ü".repeat(TEXT_LENGTH + 1);
        let kept = answered(Some("ClientException"), Some(&long), 400).message;
        assert_eq!(kept, format!("ClientException: {}", "ü".repeat(TEXT_LENGTH)));
    }
}
