//! Classification of failed AWS calls by error code and HTTP status.

use std::error::Error as StdError;

use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::aws::{
    outage::{is_from_aws, outage},
    response::{Failure, FailureKind},
};

use FailureKind::{AccessDenied, Refused, ServerFault, Throttled, Unavailable};

/// Kind of failure of each error code. The suffix `Exception` is omitted because AWS adds it to
/// many codes in one protocol and not in another. Codes of transient faults count with any HTTP
/// status.
///
/// Source: "Common Error Types" of the Amazon ECS and the AWS STS API References, and "Errors" of
/// each action that is called. Throttling: the SDK's list,
/// `aws_runtime::retries::classifiers::THROTTLING_ERRORS`.
const CODES: [(&str, FailureKind); 58] = [
    ("AccessDenied", AccessDenied),
    ("AuthFailure", AccessDenied),
    ("ExpiredToken", AccessDenied),
    ("IDPRejectedClaim", AccessDenied),
    ("IncompleteSignature", AccessDenied),
    ("InvalidAccessKeyId", AccessDenied),
    ("InvalidClientTokenId", AccessDenied),
    ("InvalidIdentityToken", AccessDenied),
    ("InvalidSignature", AccessDenied),
    ("InvalidToken", AccessDenied),
    ("MissingAuthenticationToken", AccessDenied),
    ("NotAuthorized", AccessDenied),
    ("OptInRequired", AccessDenied),
    ("RegionDisabled", AccessDenied),
    ("RequestExpired", AccessDenied),
    ("SignatureDoesNotMatch", AccessDenied),
    ("SubscriptionRequired", AccessDenied),
    ("UnauthorizedOperation", AccessDenied),
    ("UnrecognizedClient", AccessDenied),
    ("BandwidthLimitExceeded", Throttled),
    ("EC2Throttled", Throttled),
    ("LimitExceeded", Refused),
    ("PriorRequestNotComplete", Throttled),
    ("ProvisionedThroughputExceeded", Throttled),
    ("RequestLimitExceeded", Throttled),
    ("RequestThrottled", Throttled),
    ("SlowDown", Throttled),
    ("Throttled", Throttled),
    ("Throttling", Throttled),
    ("TooManyRequests", Throttled),
    ("IDPCommunicationError", ServerFault),
    ("InternalError", ServerFault),
    ("InternalFailure", ServerFault),
    ("InternalServer", ServerFault),
    ("InternalServerError", ServerFault),
    ("RequestTimeout", ServerFault),
    ("Server", ServerFault),
    ("ServiceUnavailable", Unavailable),
    ("Client", Refused),
    ("ClusterNotFound", Refused),
    ("InvalidAction", Refused),
    ("InvalidParameter", Refused),
    ("InvalidParameterCombination", Refused),
    ("InvalidParameterValue", Refused),
    ("InvalidQueryParameter", Refused),
    ("MalformedHttpRequest", Refused),
    ("MalformedPolicyDocument", Refused),
    ("MalformedQueryString", Refused),
    ("MissingAction", Refused),
    ("MissingParameter", Refused),
    ("PackedPolicyTooLarge", Refused),
    ("RequestAborted", ServerFault),
    ("RequestEntityTooLarge", Refused),
    ("ServiceNotFound", Refused),
    ("UnknownOperation", Refused),
    ("UnsupportedFeature", Refused),
    ("Validation", Refused),
    ("ValidationError", Refused),
];

/// Codes for invalid or expired credentials. A region that is not enabled returns them for valid
/// credentials as well.
const CREDENTIALS_REJECTED: [&str; 3] = ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient"];

/// HTTP statuses of a gateway or load balancer without a server behind it.
const GATEWAY: [u16; 3] = [502, 503, 504];

/// Texts of a `ClientException` for a revision that does not exist. The code alone does not
/// identify it.
const ABSENT: [&str; 2] = ["unable to describe task definition", "task definition does not exist"];

/// Maximum lengths of a message and of an error code of AWS, in characters. Longer ones are
/// truncated.
const TEXT_LENGTH: usize = 512;
const CODE_LENGTH: usize = 128;

/// Value of the metric label `code` for a call without a response from AWS.
pub(crate) const NO_ANSWER: &str = "NoAnswer";

/// Returns the value of the metric label `code`.
pub(crate) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> &str {
    match error {
        SdkError::ServiceError(service) if is_from_aws(service.err().meta(), service.raw()) => {
            label(service.err().meta().code().unwrap_or_default())
        }
        _ => NO_ANSWER,
    }
}

/// Returns AWS's error code for a metric, or `Other` if it is not in the table, which limits the
/// number of label values.
pub(crate) fn label(code: &str) -> &str {
    if kind(code).is_some() { code } else { "Other" }
}

/// Returns the failure of a call that AWS responded to, or `None` if there was no response from
/// AWS.
pub(super) fn response_failure<E>(error: &SdkError<E, HttpResponse>) -> Option<Failure>
where
    E: ProvideErrorMetadata,
{
    match error {
        SdkError::ServiceError(service) if is_from_aws(service.err().meta(), service.raw()) => {
            let metadata = service.err().meta();
            Some(classify(metadata.code(), metadata.message(), service.raw().status().as_u16()))
        }
        _ => None,
    }
}

/// Returns the failure of a call that got no response from AWS.
pub(super) fn unreachable<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: StdError + 'static,
{
    Failure::new(Unavailable, format!("AWS could not be reached: {}", outage(error)))
}

/// Returns true if the error code `code` means that AWS rejected the credentials of a call.
pub(crate) fn rejects_credentials(code: &str) -> bool {
    CREDENTIALS_REJECTED.contains(&without_suffix(code))
}

/// Returns true if the error code `code` means that access is denied, whatever the operation.
pub(crate) fn is_denied(code: &str) -> bool {
    kind(code) == Some(AccessDenied)
}

fn kind(code: &str) -> Option<FailureKind> {
    let name = without_suffix(code);
    CODES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

fn without_suffix(code: &str) -> &str {
    code.strip_suffix("Exception").unwrap_or(code)
}

fn classify(code: Option<&str>, text: Option<&str>, http_status: u16) -> Failure {
    let code: String = code.unwrap_or_default().chars().take(CODE_LENGTH).collect();
    let text: String = text.unwrap_or_default().chars().take(TEXT_LENGTH).collect();
    let has_any = |texts: &[&str]| texts.iter().any(|it| text.to_lowercase().contains(it));
    let kind = match kind(&code) {
        Some(Throttled) => Throttled,
        _ if http_status == 429 => Throttled,
        Some(AccessDenied) => AccessDenied,
        _ if GATEWAY.contains(&http_status) => Unavailable,
        Some(kind @ (ServerFault | Unavailable)) => kind,
        _ if http_status >= 500 => ServerFault,
        _ if code == "ClientException" && has_any(&ABSENT) => FailureKind::Absent,
        _ => Refused,
    };
    let message = match (code.as_str(), text.as_str()) {
        ("", _) => format!("HTTP status {http_status}"),
        (code, "") => code.to_owned(),
        (code, text) => format!("{code}: {text}"),
    };
    Failure { code: Some(code).filter(|code| !code.is_empty()), ..Failure::new(kind, message) }
}

#[cfg(test)]
mod tests;
