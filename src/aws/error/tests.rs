//! Tests of the classification of AWS errors.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ecs::{
    error::ErrorMetadata, operation::describe_task_definition::DescribeTaskDefinitionError as Describe,
};

use super::*;
use crate::aws::credentials_error::{self, call_failure};

fn error(code: &str, status: u16) -> SdkError<Describe, HttpResponse> {
    let metadata = ErrorMetadata::builder().code(code).message("No.").build();
    let status = status.try_into().expect("valid status");
    SdkError::service_error(Describe::generic(metadata), HttpResponse::new(status, "".into()))
}

#[test]
fn error_codes_have_the_same_kind_with_and_without_suffix() {
    let denied = [
        "AccessDenied",
        "ExpiredToken",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignature",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "RegionDisabled",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClient",
    ];
    for code in denied.into_iter().flat_map(|code| [code.to_owned(), format!("{code}Exception")]) {
        for status in [400, 403, 500, 503] {
            let failure = call_failure(&error(&code, status));
            assert_eq!((failure.kind, failure.code.as_deref()), (AccessDenied, Some(code.as_str())));
        }
    }
    for (index, (code, _)) in CODES.iter().enumerate() {
        assert!(CODES[..index].iter().all(|(other, _)| other != code), "{code} is listed twice");
        assert_eq!(*code, without_suffix(code));
    }
}

#[test]
fn http_status_decides_if_the_error_code_does_not() {
    let table = [
        ("ThrottlingException", "Rate exceeded", 400, Throttled),
        ("", "", 429, Throttled),
        ("AccessDeniedException", "User is not authorized", 400, AccessDenied),
        ("ServerException", "Internal", 400, ServerFault),
        ("IDPCommunicationError", "try again", 400, ServerFault),
        ("ServiceUnavailable", "busy", 400, Unavailable),
        ("", "", 500, ServerFault),
        ("", "", 501, ServerFault),
        ("", "", 499, Refused),
        ("", "", 503, Unavailable),
        ("ThrottlingException", "Rate exceeded", 503, Throttled),
        ("BrandNewException", "Unable to describe task definition.", 400, Refused),
        ("ClientException", "Unable to describe task definition.", 400, FailureKind::Absent),
        ("ClientException", "The specified task definition does not exist.", 400, FailureKind::Absent),
        ("ClientException", "Too many concurrent attempts", 400, Refused),
        ("InvalidParameterException", "Unable to describe task definition.", 400, Refused),
        ("ValidationError", "", 400, Refused),
        ("", "", 404, Refused),
    ];
    for (code, text, status, kind) in table {
        assert_eq!(classify(Some(code), Some(text), status).kind, kind, "{code} {text} {status}");
    }
}

#[test]
fn metric_labels_contain_only_known_error_codes() {
    for known in ["ThrottlingException", "ExpiredToken", "ServerException", "ClientException"] {
        assert_eq!(code(&error(known, 400)), known);
    }
    assert_eq!(code(&error("BrandNewException", 400)), "Other");
    assert_eq!(code(&SdkError::<Describe, _>::timeout_error("late")), "NoAnswer");
}

#[test]
fn access_denied_alert_names_every_access_denied_code() {
    let alerts = include_str!("../../../charts/ecs-retirement-controller/files/alerts.yaml");
    let (_, alert) = alerts.split_once("- alert: EcsRetirementAccessDenied").expect("alert is defined");
    let (_, list) = alert.split_once("code=~\"(").expect("alert lists codes");
    let (list, _) = list.split_once(")(Exception)?\"").expect("list of codes ends");
    let named: Vec<&str> = list.split('|').collect();
    for (code, kind) in CODES {
        assert_eq!(named.contains(&code), kind == AccessDenied, "{code} in the alert");
    }
    assert!(named.contains(&credentials_error::NO_CREDENTIALS));
}

#[test]
fn rejected_credentials_are_recognized_by_error_code() {
    let codes =
        ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"];
    assert!(codes.into_iter().all(rejects_credentials));
    assert!(!["AccessDeniedException", "SignatureDoesNotMatch", ""].into_iter().any(rejects_credentials));
}

#[test]
fn call_without_a_response_reports_an_outage_or_missing_credentials() {
    let failed = |cause: Box<dyn StdError + Send + Sync>| {
        call_failure(&SdkError::<Describe, HttpResponse>::construction_failure(cause))
    };
    let outage = failed("reset".into());
    assert_eq!((outage.kind, outage.code), (Unavailable, None));
    assert!(outage.message.starts_with("AWS could not be reached: "), "{}", outage.message);
    let missing = failed(CredentialsError::not_loaded("none").into());
    assert_eq!(missing.kind, AccessDenied);
    assert!(missing.message.starts_with("the controller has no AWS credentials: give its"));
}

#[test]
fn rejections_keep_the_error_code_and_message_of_aws() {
    let failure = classify(Some("ClientException"), Some("No."), 400);
    assert_eq!(failure.message, "ClientException: No.");
    assert_eq!(failure.code.as_deref(), Some("ClientException"));
    assert_eq!(classify(None, None, 404).message, "HTTP status 404");
    assert_eq!(classify(None, None, 404).code, None);
    assert_eq!(classify(Some("ClientException"), None, 400).message, "ClientException");
    let long = "ü".repeat(TEXT_LENGTH + 1);
    let kept = classify(Some("ClientException"), Some(&long), 400).message;
    assert_eq!(kept, format!("ClientException: {}", "ü".repeat(TEXT_LENGTH)));
}
