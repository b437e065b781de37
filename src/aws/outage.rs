//! Causes of calls that got no response from AWS: short and stable for users, detailed for the log.

use std::{
    borrow::Cow,
    collections::HashMap,
    error::Error as StdError,
    io::{self, ErrorKind},
    iter,
};

use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ErrorMetadata, SdkError},
};
use aws_smithy_async::future::timeout::TimedOutError;
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use parking_lot::Mutex;

/// Headers that identify a response of AWS.
/// Source: `aws_types::request_id::RequestId`.
const REQUEST_IDS: [&str; 2] = ["x-amzn-requestid", "x-amz-request-id"];

/// Status with which a proxy demands credentials. Servers behind a proxy never return it.
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

pub(super) const TIMEOUT: &str = "no response in time";
const CONNECTION_CLOSED: &str = "connection closed";

/// Returns true if an error response is from AWS, and not from a proxy, a firewall or a load
/// balancer.
pub(super) fn is_from_aws(metadata: &ErrorMetadata, response: &HttpResponse) -> bool {
    let headers = response.headers();
    let is_html = headers.get("content-type").is_some_and(|value| value.starts_with("text/html"));
    let has_id = || REQUEST_IDS.iter().any(|name| headers.contains_key(*name));
    !is_html && (metadata.code().is_some() || has_id())
}

/// Returns why a call got no response from AWS, in a few words without addresses, ports or times.
pub(crate) fn outage<E>(error: &SdkError<E, HttpResponse>) -> Cow<'static, str>
where
    E: StdError + 'static,
{
    match error {
        SdkError::TimeoutError(_) => TIMEOUT.into(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => TIMEOUT.into(),
        SdkError::ResponseError(response) => response_cause(response.raw(), error),
        SdkError::ServiceError(service) => response_cause(service.raw(), error),
        _ => cause(error).unwrap_or("the request failed").into(),
    }
}

/// Returns the cause if something other than AWS responded. The chain of `error` names the cause if
/// the response was truncated.
fn response_cause(response: &HttpResponse, error: &(dyn StdError + 'static)) -> Cow<'static, str> {
    match response.status().as_u16() {
        PROXY_AUTHENTICATION_REQUIRED => "HTTP 407 from the proxy".into(),
        status => cause(error).map_or_else(
            || format!("unexpected response that is not from AWS (HTTP status {status})").into(),
            Cow::from,
        ),
    }
}

/// Returns the cause of a failed connection, or `None` if the chain of errors has no known cause.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    chain(error).find_map(|error| {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(match error {
                rustls::Error::InvalidCertificate(_) => "untrusted certificate",
                _ => "TLS handshake failed",
            });
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            let is_cut = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
            return is_cut.then_some(CONNECTION_CLOSED);
        }
        if error.is::<ResolveDnsError>() {
            return Some("unknown host");
        }
        if error.is::<TimedOutError>() {
            return Some(TIMEOUT);
        }
        error.downcast_ref::<io::Error>().map_or_else(|| rejected_by_proxy(error), io_cause)
    })
}

fn io_cause(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Some("connection refused"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("network unreachable"),
        ErrorKind::TimedOut => Some(TIMEOUT),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => Some(CONNECTION_CLOSED),
        _ => None,
    }
}

/// Returns the cause if the proxy rejected a tunnel. The error type is private to `hyper_util`, so
/// the text is matched. An error with a source occurred before the proxy responded.
fn rejected_by_proxy(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    match error.to_string().strip_prefix("tunnel error: ")? {
        "proxy authorization required" => Some("HTTP 407 from the proxy"),
        _ if error.source().is_none() => Some("refused by the proxy"),
        _ => None,
    }
}

/// Iterates over `error` and its causes. The cause of an I/O error is its payload, which `source`
/// would skip.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|payload| payload as _),
        None => error.source(),
    })
}

/// Log of calls that got no response from AWS. Logs once per operation, and again when the cause
/// changes or after a response.
#[derive(Debug)]
pub(crate) struct OutageLog {
    region: String,
    causes: Mutex<HashMap<&'static str, String>>,
}

impl OutageLog {
    pub(crate) fn new(region: &str) -> Self {
        Self { region: region.to_owned(), causes: Mutex::default() }
    }

    /// Records that AWS responded to a call of `operation`.
    pub(crate) fn record_response(&self, operation: &str) {
        self.causes.lock().remove(operation);
    }

    /// Records that a call of `operation` got no response. `message` names the cause. Logs the full
    /// chain of `error`.
    pub(crate) fn record_outage(
        &self,
        operation: &'static str,
        message: &str,
        error: &(dyn StdError + 'static),
    ) {
        let previous = {
            let mut causes = self.causes.lock();
            causes.insert(operation, message.to_owned())
        };
        if previous.as_deref() != Some(message) {
            let causes: Vec<String> = chain(error).map(ToString::to_string).collect();
            tracing::warn!(
                operation,
                region = self.region,
                message,
                error = causes.join(": "),
                "no response from AWS"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionError as Describe;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    fn io(kind: ErrorKind) -> Box<dyn StdError + Send + Sync> {
        // Nested as by hyper-rustls.
        io::Error::other(io::Error::new(kind, "at 10.0.0.1:443 after 3.2 s")).into()
    }

    fn response(status: u16, headers: &[(&'static str, &'static str)]) -> HttpResponse {
        let mut response = HttpResponse::new(status.try_into().expect("valid status"), "".into());
        for (name, value) in headers {
            response.headers_mut().insert(*name, *value);
        }
        response
    }

    #[test]
    fn causes_of_failed_connections_contain_no_details() {
        let rustls = |error: rustls::Error| io::Error::other(io::Error::new(ErrorKind::InvalidData, error));
        let table: [(Box<dyn StdError + Send + Sync>, &str); 8] = [
            (io(ErrorKind::ConnectionRefused), "connection refused"),
            (io(ErrorKind::ConnectionReset), "connection closed"),
            (io(ErrorKind::UnexpectedEof), "connection closed"),
            (io(ErrorKind::HostUnreachable), "network unreachable"),
            (ResolveDnsError::new(io::Error::other("Name or service not known")).into(), "unknown host"),
            (rustls(rustls::CertificateError::UnknownIssuer.into()).into(), "untrusted certificate"),
            (rustls(rustls::Error::DecryptError).into(), "TLS handshake failed"),
            ("something else".into(), "the request failed"),
        ];
        for (error, expected) in table {
            let error = SdkError::<Describe, _>::dispatch_failure(ConnectorError::io(error));
            assert_eq!(outage(&error), expected);
        }
        let late = ConnectorError::timeout("late".into());
        assert_eq!(outage(&SdkError::<Describe, _>::dispatch_failure(late)), TIMEOUT);
        assert_eq!(outage(&SdkError::<Describe, _>::timeout_error("late")), TIMEOUT);
    }

    #[test]
    fn responses_that_are_not_from_aws_are_reported_by_status() {
        let coded = ErrorMetadata::builder().code("ServerException").build();
        let uncoded = ErrorMetadata::builder().build();
        let id = ("x-amzn-requestid", "1");
        assert!(is_from_aws(&coded, &response(500, &[])));
        assert!(is_from_aws(&uncoded, &response(500, &[id])));
        assert!(!is_from_aws(&uncoded, &response(500, &[])));
        assert!(!is_from_aws(&uncoded, &response(503, &[id, ("content-type", "text/html; charset=utf-8")])));
        for (status, expected) in [
            (503, "unexpected response that is not from AWS (HTTP status 503)"),
            (407, "HTTP 407 from the proxy"),
        ] {
            let error = Describe::generic(uncoded.clone());
            assert_eq!(outage(&SdkError::service_error(error, response(status, &[]))), expected);
        }
    }
}
