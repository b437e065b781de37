//! The result of a call, and its encoding in each protocol. No I/O.

use super::{
    action::{Action, Service},
    caller::Caller,
    in_process::Received,
    request::Request,
};
use axum::{
    http::{
        StatusCode,
        header::{CONTENT_TYPE, DATE},
    },
    response::{IntoResponse, Response},
};
use serde_json::json;

/// The result of a call.
pub(super) type CallResult = Result<Done, Failure>;

/// A successful result.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// JSON for ECS, the XML of the result for STS.
    pub(super) body: String,
    /// True if the call changed anything.
    pub(super) changed: bool,
}

/// A failure with an AWS error code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
    /// True for an HTML page that does not come from AWS.
    is_page: bool,
}

/// An encoded response.
pub(super) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    request_id: String,
    /// The time of ECS's clock.
    date: String,
    body: String,
}

impl Failure {
    /// Creates a client error (status 400).
    pub(super) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: code.into(), message: message.into(), is_page: false }
    }

    pub(super) fn client(message: impl Into<String>) -> Self {
        Self::new("ClientException", message)
    }

    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }

    /// Creates the error for a missing cluster or service.
    pub(super) fn not_found(kind: &str) -> Self {
        Self::new(format!("{kind}NotFoundException"), format!("{kind} not found."))
    }

    pub(super) fn throttled(service: Service) -> Self {
        match service {
            Service::Ecs => Self::new("ThrottlingException", "Rate exceeded"),
            Service::Sts => Self::new("Throttling", "Rate exceeded"),
        }
    }

    pub(super) fn server(service: Service) -> Self {
        let (code, message) = match service {
            Service::Ecs => ("ServerException", "Service Unavailable. Please try again later."),
            Service::Sts => ("InternalFailure", "An internal error has occurred."),
        };
        Self::new(code, message).with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Creates the HTML page of a load balancer, proxy or firewall.
    pub(super) fn page(status: StatusCode) -> Self {
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n\
             <body>\r\n<center><h1>{status}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        Self { is_page: true, ..Self::new("ServiceUnavailable", page).with_status(status) }
    }

    pub(super) fn access_denied(request: &Request, caller: &Caller) -> Self {
        if let (Action::AssumeRole, Some(role)) = (request.action, request.role_to_assume()) {
            return Self::not_authorized_to_assume(role, caller);
        }
        let permission = format!("{}:{}", request.service.name(), request.action.name());
        let message = format!(
            "User: {} is not authorized to perform: {permission} on resource: {} \
             because no identity-based policy allows the {permission} action",
            caller.arn(),
            request.resource(caller)
        );
        match request.service {
            Service::Sts if request.action == Action::AssumeRoleWithWebIdentity => {
                let message = format!("Not authorized to perform {permission}");
                Self::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN)
            }
            Service::Ecs => Self::new("AccessDeniedException", message),
            Service::Sts => Self::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN),
        }
    }

    /// Creates the error for a role that does not exist or does not trust the caller.
    pub(super) fn not_authorized_to_assume(role: &str, caller: &Caller) -> Self {
        let message = format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {role}",
            caller.arn()
        );
        Self::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN)
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationError", message)
    }

    /// Creates the error for a field of an STS call with an invalid value.
    pub(super) fn constraint(field: &str, value: &str, constraint: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: {constraint}"
        ))
    }

    pub(super) fn expired_token(service: Service) -> Self {
        let message = "The security token included in the request is expired";
        match service {
            Service::Ecs => Self::new("ExpiredTokenException", message),
            Service::Sts => Self::new("ExpiredToken", message).with_status(StatusCode::FORBIDDEN),
        }
    }

    pub(super) fn unknown_access_key(service: Service) -> Self {
        let message = "The security token included in the request is invalid.";
        match service {
            Service::Ecs => Self::new("UnrecognizedClientException", message),
            Service::Sts => Self::new("InvalidClientTokenId", message).with_status(StatusCode::FORBIDDEN),
        }
    }

    pub(super) fn unsigned(service: Service) -> Self {
        let message = "Request is missing Authentication Token";
        match service {
            Service::Ecs => Self::new("MissingAuthenticationTokenException", message),
            Service::Sts => {
                Self::new("MissingAuthenticationToken", message).with_status(StatusCode::FORBIDDEN)
            }
        }
    }

    pub(super) fn signed_for_another_service(service: Service) -> Self {
        let message = format!("Credential should be scoped to correct service: '{}'.", service.name());
        match service {
            Service::Ecs => Self::new("InvalidSignatureException", message),
            Service::Sts => Self::new("SignatureDoesNotMatch", message).with_status(StatusCode::FORBIDDEN),
        }
    }

    pub(super) fn unknown_action(service: Service, name: &str) -> Self {
        let message = format!("the simulated {} has no action '{name}'", service.name());
        match service {
            Service::Ecs => Self::new("UnknownOperationException", message),
            Service::Sts => Self::new("InvalidAction", message),
        }
    }

    fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl Done {
    /// Creates an empty success.
    pub(super) fn empty() -> Self {
        Self { body: String::new(), changed: false }
    }
}

impl Reply {
    pub(super) fn new(request: &Request, request_id: String, date: String, answer: CallResult) -> Self {
        const JSON: &str = "application/x-amz-json-1.1";
        const XML: &str = "text/xml";
        let (status, content_type, body) = match (request.service, answer) {
            (_, Err(failure)) if failure.is_page => (failure.status, "text/html", failure.message),
            (Service::Ecs, Ok(done)) => (StatusCode::OK, JSON, done.body),
            (Service::Ecs, Err(failure)) => {
                let body = json!({"__type": failure.code, "message": failure.message});
                (failure.status, JSON, body.to_string())
            }
            (Service::Sts, Ok(done)) => {
                let body = result_xml(request.action, &request_id, &done);
                (StatusCode::OK, XML, body)
            }
            (Service::Sts, Err(failure)) => (failure.status, XML, error_xml(&request_id, &failure)),
        };
        Self { status, content_type, request_id, date, body }
    }
}

impl From<Reply> for Received {
    fn from(reply: Reply) -> Self {
        let headers = vec![
            ("content-type", reply.content_type.to_owned()),
            ("x-amzn-requestid", reply.request_id),
            ("date", reply.date),
        ];
        Self { status: reply.status.as_u16(), headers, body: reply.body }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let headers = [
            (CONTENT_TYPE.as_str(), self.content_type),
            ("x-amzn-RequestId", &self.request_id),
            (DATE.as_str(), &self.date),
        ];
        (self.status, headers, self.body).into_response()
    }
}

fn result_xml(action: Action, request_id: &str, done: &Done) -> String {
    let (name, result) = (action.name(), &done.body);
    format!(
        "<{name}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <{name}Result>{result}</{name}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
         </{name}Response>"
    )
}

fn error_xml(request_id: &str, failure: &Failure) -> String {
    let side = if failure.status.is_server_error() { "Receiver" } else { "Sender" };
    let (code, message) = (escape(&failure.code), escape(&failure.message));
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
