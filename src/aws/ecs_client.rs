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
        error::{NO_ANSWER, code, failure, rejects_credentials},
        outage::OutageLog,
        response::{Description, Failure, FailureKind, Newest, Reply, Seen, Status, same_revision},
    },
    in_flight::Call,
    retirement::plan::Deregistration,
    task_definition::{Arn, Reference},
};

/// Error codes of IAM for a missing permission.
const NOT_PERMITTED: [&str; 2] = ["AccessDenied", "AccessDeniedException"];

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

/// ECS client of one region.
pub struct Ecs {
    client: aws_sdk_ecs::Client,
    breaker: CircuitBreaker,
    outages: OutageLog,
    /// Whether AWS has rejected the credentials of a call since the last call of
    /// [`Ecs::take_rejection`].
    has_rejected: AtomicBool,
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
    pub async fn describe(&self, arn: &Arn) -> Seen {
        let guard = self.breaker.admit(Instant::now())?;
        let call = self.client.describe_task_definition().task_definition(arn.to_string()).send();
        let seen = match observed("DescribeTaskDefinition", call).await {
            Ok(output) => {
                self.outages.record_response("DescribeTaskDefinition");
                description(arn, output.task_definition())
            }
            Err(error) => Err(self.failed("DescribeTaskDefinition", arn, &error)),
        };
        guard.record(&seen, Instant::now());
        seen
    }

    /// Calls `ListTaskDefinitions`, and returns the newest revision of the family of `arn` in one
    /// status.
    ///
    /// # Errors
    /// Returns the failure if ECS did not respond, or if a retry may succeed.
    pub async fn newest(&self, arn: &Arn, status: &Status) -> Result<Newest, Failure> {
        let guard = self.breaker.admit(Instant::now())?;
        let call = self.client.list_task_definitions().family_prefix(arn.revision().family());
        let call = call
            .status(TaskDefinitionStatus::from(status.as_str()))
            .sort(SortOrder::Desc)
            .max_results(NEWEST_PAGE)
            .send();
        let newest = match observed("ListTaskDefinitions", call).await {
            Ok(output) => {
                self.outages.record_response("ListTaskDefinitions");
                Ok(newest_of_family(arn, output.task_definition_arns()))
            }
            Err(error) => {
                let failure = self.failed("ListTaskDefinitions", arn, &error);
                let is_rejected = match failure.kind {
                    FailureKind::AccessDenied => {
                        error.code().is_some_and(|code| NOT_PERMITTED.contains(&code))
                    }
                    kind => kind == FailureKind::Refused,
                };
                if is_rejected { Ok(Newest::Refused(failure)) } else { Err(failure) }
            }
        };
        guard.record(&newest, Instant::now());
        newest
    }

    /// Calls `DeregisterTaskDefinition`. This cannot be undone, so it requires a `Deregistration`,
    /// which only a plan can create. The call has the full ARN; ECS rejects one of another account
    /// or region.
    pub async fn deregister(&self, deregistration: &Deregistration) -> Reply {
        let arn = deregistration.arn();
        let guard = match self.breaker.admit(Instant::now()) {
            Ok(guard) => guard,
            Err(failure) => return Reply { answer: Err(failure), request_id: None },
        };
        let call = self.client.deregister_task_definition().task_definition(arn.to_string()).send();
        let reply = match observed("DeregisterTaskDefinition", call).await {
            Ok(output) => {
                self.outages.record_response("DeregisterTaskDefinition");
                let request_id = output.request_id().map(str::to_owned);
                tracing::info!(revision = %arn, request_id, "deregistered");
                Reply { answer: description(arn, output.task_definition()), request_id }
            }
            Err(error) => {
                let answer = Err(self.failed("DeregisterTaskDefinition", arn, &error));
                Reply { answer, request_id: error.request_id().map(str::to_owned) }
            }
        };
        guard.record(&reply.answer, Instant::now());
        reply
    }

    /// Returns the failure of a call, and logs it. An error response is logged each time, an outage
    /// only when its cause changes.
    fn failed<E>(&self, operation: &'static str, arn: &Arn, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = failure(error);
        if code(error) == NO_ANSWER {
            self.outages.record_outage(operation, &failure.message, error);
            return failure;
        }
        self.outages.record_response(operation);
        if failure.code.as_deref().is_some_and(rejects_credentials) {
            self.has_rejected.store(true, Ordering::Relaxed);
        }
        tracing::warn!(
            operation,
            revision = %arn,
            code = failure.code,
            request_id = error.request_id(),
            message = failure.message,
            "call to AWS failed"
        );
        failure.during(operation)
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

fn description(requested: &Arn, returned: Option<&TaskDefinition>) -> Seen {
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
            Failure::new(
                FailureKind::ServerFault,
                "ECS answered without the status of the revision".to_owned(),
            )
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
