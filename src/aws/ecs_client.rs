//! ECS client: calls without retries, with responses as data.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
    primitives::DateTime,
    types::{SortOrder, TaskDefinition, TaskDefinitionStatus},
};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    aws::{
        circuit_breaker::CircuitBreaker,
        credentials_error,
        error::{NO_ANSWER, code, rejects_credentials},
        outage::OutageLog,
        response::{DescribeResult, Description, Failure, FailureKind, Newest, Reply, Status, same_revision},
    },
    deregistration::Deregistration,
    in_flight::Call,
    task_definition::{Arn, Reference},
};

/// Error codes of IAM for a missing permission.
const NOT_PERMITTED: [&str; 2] = ["AccessDenied", "AccessDeniedException"];

/// Timeouts of connecting to AWS, and of an attempt of a call. SDK retries are disabled; the next
/// reconcile is the retry.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of any call to AWS, including connecting and loading credentials.
pub(crate) const OPERATION_LIMIT: Duration = Duration::from_secs(8);

/// Page size of the list of the newest revisions. It exceeds one only because emulators ignore the
/// order.
const NEWEST_PAGE: i32 = 100;

/// Metric of the calls to AWS, by `operation` and `code`: `OK`, the error code of AWS, or
/// `NoAnswer`.
pub const AWS_CALLS: &str = "ecs_retirement_aws_calls_total";

/// Metric of the duration of calls to AWS in seconds, by `operation`.
pub const AWS_CALL_SECONDS: &str = "ecs_retirement_aws_call_duration_seconds";

/// ECS client of one source of credentials in one region. All calls to ECS are made with it.
pub struct Ecs {
    pub(super) client: aws_sdk_ecs::Client,
    breaker: CircuitBreaker,
    outages: OutageLog,
    /// Whether AWS has rejected the credentials of a call since the last call of
    /// [`Ecs::take_rejection`].
    has_rejected: AtomicBool,
}

/// A failed call, with the request id if ECS responded.
#[derive(Debug)]
pub(super) struct CallFailure {
    pub(super) failure: Failure,
    request_id: Option<String>,
}

impl Ecs {
    pub(crate) fn new(config: &SdkConfig) -> Self {
        let outages = OutageLog::new(config.region().map(AsRef::as_ref).unwrap_or_default());
        let client = aws_sdk_ecs::Client::new(config);
        Self { client, breaker: CircuitBreaker::default(), outages, has_rejected: AtomicBool::default() }
    }

    /// Returns true if AWS has rejected the credentials of a call since the last call of this
    /// function.
    pub(crate) fn take_rejection(&self) -> bool {
        self.has_rejected.swap(false, Ordering::Relaxed)
    }

    /// Returns true if the circuit breaker is open, so that a call would be rejected.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.breaker.is_open(Instant::now())
    }

    /// Calls `DescribeTaskDefinition` for a revision.
    ///
    /// # Errors
    /// Returns the failure of the call.
    pub async fn describe(&self, arn: &Arn) -> DescribeResult {
        let operation = "DescribeTaskDefinition";
        let call = self.client.describe_task_definition().task_definition(arn.to_string()).send();
        match self.call(operation, call).await {
            Ok(output) => description(arn, output.task_definition()),
            Err(error) => Err(error.logged(operation, arn)),
        }
    }

    /// Calls `ListTaskDefinitions`, and returns the newest revision of the family of `arn` in one
    /// status.
    ///
    /// # Errors
    /// Returns the failure if ECS did not respond, or if a retry may succeed.
    pub async fn newest(&self, arn: &Arn, status: &Status) -> Result<Newest, Failure> {
        let operation = "ListTaskDefinitions";
        let call = self.client.list_task_definitions().family_prefix(arn.revision().family());
        let call = call
            .status(TaskDefinitionStatus::from(status.as_str()))
            .sort(SortOrder::Desc)
            .max_results(NEWEST_PAGE)
            .send();
        match self.call(operation, call).await {
            Ok(output) => Ok(newest_of_family(arn, output.task_definition_arns())),
            Err(error) => {
                let failure = error.logged(operation, arn);
                let is_not_permitted =
                    || failure.code.as_deref().is_some_and(|code| NOT_PERMITTED.contains(&code));
                let is_refused = match failure.kind {
                    FailureKind::AccessDenied => is_not_permitted(),
                    kind => kind == FailureKind::Refused,
                };
                if is_refused { Ok(Newest::Refused(failure)) } else { Err(failure) }
            }
        }
    }

    /// Calls `DeregisterTaskDefinition`. This cannot be undone, so it requires a `Deregistration`,
    /// which only a plan can create. The call has the full ARN; ECS rejects one of another account
    /// or region.
    pub async fn deregister(&self, deregistration: &Deregistration) -> Reply {
        let (operation, arn) = ("DeregisterTaskDefinition", deregistration.arn());
        let call = self.client.deregister_task_definition().task_definition(arn.to_string()).send();
        match self.call(operation, call).await {
            Ok(output) => {
                let request_id = output.request_id().map(str::to_owned);
                tracing::info!(revision = %arn, request_id, "deregistered");
                Reply { response: description(arn, output.task_definition()), request_id }
            }
            Err(error) => {
                let request_id = error.request_id.clone();
                Reply { response: Err(error.logged(operation, arn)), request_id }
            }
        }
    }

    /// Makes a call if the circuit breaker admits it, and records whether ECS responded. An outage
    /// is logged when its cause changes.
    ///
    /// # Errors
    /// Returns the failure of the call, or that which opened the circuit breaker.
    pub(super) fn call<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> impl Future<Output = Result<T, CallFailure>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        // The futures of the SDK are large.
        let call = Box::pin(call);
        self.call_boxed(operation, call)
    }

    async fn call_boxed<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, CallFailure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let guard = self.breaker.admit(Instant::now());
        let guard = guard.map_err(|failure| CallFailure { failure, request_id: None })?;
        let result = observed(operation, call).await.map_err(|error| {
            let failure = credentials_error::call_failure(&error);
            if code(&error) == NO_ANSWER {
                self.outages.record_outage(operation, &failure.message, &error);
                return CallFailure { failure, request_id: None };
            }
            self.outages.record_response(operation);
            if failure.code.as_deref().is_some_and(rejects_credentials) {
                self.has_rejected.store(true, Ordering::Relaxed);
            }
            let request_id = error.request_id().map(str::to_owned);
            CallFailure { failure: failure.during(operation), request_id }
        });
        if result.is_ok() {
            self.outages.record_response(operation);
        }
        guard.record(result.as_ref().err().map(|error| &error.failure), Instant::now());
        result
    }
}

impl CallFailure {
    /// Logs an error response, and returns the failure. Outages are logged by [`Ecs::call`].
    fn logged(self, operation: &'static str, arn: &Arn) -> Failure {
        let Self { failure, request_id } = self;
        if failure.operation.is_some() {
            let Failure { code, message, .. } = &failure;
            tracing::warn!(operation, revision = %arn, code, request_id, message, "call to AWS failed");
        }
        failure
    }
}

/// Makes a call to AWS, and instruments it for the liveness probe and the metrics.
pub(crate) async fn observed<T, E>(
    operation: &'static str,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata,
{
    let _call = Call::begin(operation, OPERATION_LIMIT);
    let began = Instant::now();
    let result = call.await;
    record_call(operation, result.as_ref().map_or_else(code, |_| "OK"), began.elapsed());
    result
}

/// Returns the highest revision number among `listed` in the account, region and family of `arn`.
/// ECS lists exactly one family; emulators also list families with the same prefix.
fn newest_of_family(arn: &Arn, listed: &[String]) -> Newest {
    let is_of_family = |other: &Arn| {
        (other.partition(), other.region(), other.account(), other.revision().family())
            == (arn.partition(), arn.region(), arn.account(), arn.revision().family())
    };
    let numbers = listed.iter().filter_map(|text| match text.parse() {
        Ok(Reference::Arn(other)) if is_of_family(&other) => Some(other.revision().number()),
        _ => None,
    });
    numbers.max().map_or(Newest::None, Newest::Number)
}

/// Records a call to AWS in the metrics.
pub(crate) fn record_call(operation: &'static str, code: &str, duration: Duration) {
    metrics::counter!(AWS_CALLS, "operation" => operation, "code" => code.to_owned()).increment(1);
    metrics::histogram!(AWS_CALL_SECONDS, "operation" => operation).record(duration);
}

fn description(requested: &Arn, returned: Option<&TaskDefinition>) -> DescribeResult {
    same_revision(requested, returned.and_then(TaskDefinition::task_definition_arn))?;
    let timestamp = |time: Option<&DateTime>| time.and_then(|time| Timestamp::from_second(time.secs()).ok());
    returned
        .and_then(|definition| {
            Some(Description {
                status: Status::from(definition.status()?.as_str()),
                registered_at: timestamp(definition.registered_at()),
                deregistered_at: timestamp(definition.deregistered_at()),
            })
        })
        .ok_or_else(|| {
            Failure::new(FailureKind::ServerFault, "the response of ECS has no status of the revision")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_the_highest_revision_number_of_the_exact_family() {
        let arn = |text: &str| format!("arn:aws:ecs:us-west-2:012345678910:task-definition/{text}");
        let Ok(Reference::Arn(requested)) = arn("web:3").parse() else { panic!("not an ARN") };
        let newest = |listed: &[String]| newest_of_family(&requested, listed);
        assert_eq!(newest(&[]), Newest::None);
        assert_eq!(newest(&[arn("web:7"), arn("web:12"), arn("web:9")]), Newest::Number(12));
        let others = [
            arn("web-api:40"),
            arn("we:40"),
            arn("WEB:40"),
            arn("web:40").replace("us-west-2", "eu-west-1"),
            arn("web:40").replace("012345678910", "999999999999"),
            arn("web:40").replace("arn:aws:", "arn:aws-cn:"),
            "web:40".to_owned(),
            arn("web:latest"),
        ];
        assert_eq!(newest(&others), Newest::None);
    }
}
