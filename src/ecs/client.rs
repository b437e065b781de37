//! The calls to ECS, each tried once; what ECS answers comes back as data.

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
    types::TaskDefinition,
};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    calls::Call,
    ecs::{
        answer::{Description, Failure, FailureKind, Reply, Seen, Status, same_revision},
        error::{NO_ANSWER, code, failure, rejects_credentials},
        gate::Gate,
        outage::OutageLog,
    },
    retirement::plan::Deregistration,
    task_definition::Arn,
};

/// The longest that any call to AWS takes, connecting and loading credentials included.
pub(crate) const OPERATION_LIMIT: Duration = Duration::from_secs(8);

/// Calls to AWS by `operation` and `code`: `OK`, the error code of AWS, or `NoAnswer`.
pub const AWS_CALLS: &str = "ecs_retirement_aws_calls_total";

/// How long calls to AWS took, by `operation`, in seconds.
pub const AWS_CALL_SECONDS: &str = "ecs_retirement_aws_call_duration_seconds";

/// ECS in one region, with one set of credentials.
pub struct Ecs {
    client: aws_sdk_ecs::Client,
    gate: Gate,
    outages: OutageLog,
    /// Whether AWS has rejected the credentials of a call since the last time that this was read.
    has_rejected: AtomicBool,
}

impl Ecs {
    pub(crate) fn new(config: &SdkConfig) -> Self {
        let outages = OutageLog::new(config.region().map(AsRef::as_ref).unwrap_or_default());
        let client = aws_sdk_ecs::Client::new(config);
        Self { client, gate: Gate::default(), outages, has_rejected: AtomicBool::default() }
    }

    /// Returns true if AWS has rejected the credentials of a call since the last time that this was called.
    pub(crate) fn take_rejection(&self) -> bool {
        self.has_rejected.swap(false, Ordering::Relaxed)
    }

    /// Whether a call would be turned away just now, since ECS does not answer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.gate.is_closed(Instant::now())
    }

    /// `DescribeTaskDefinition`: what ECS holds of a revision.
    ///
    /// # Errors
    /// What ECS answered instead.
    pub async fn describe(&self, arn: &Arn) -> Seen {
        let pass = self.gate.enter(Instant::now())?;
        let call = self.client.describe_task_definition().task_definition(arn.to_string()).send();
        let seen = match observed("DescribeTaskDefinition", call).await {
            Ok(output) => {
                self.outages.answered("DescribeTaskDefinition");
                description(arn, output.task_definition())
            }
            Err(error) => Err(self.failed("DescribeTaskDefinition", arn, &error)),
        };
        pass.settle(&seen, Instant::now());
        seen
    }

    /// `DeregisterTaskDefinition`: cannot be undone, and so takes nothing but what a plan made. ECS is
    /// given the full ARN, and itself refuses one of another account or region.
    pub async fn deregister(&self, deregistration: &Deregistration) -> Reply {
        let arn = deregistration.arn();
        let pass = match self.gate.enter(Instant::now()) {
            Ok(pass) => pass,
            Err(failure) => return Reply { answer: Err(failure), request_id: None },
        };
        let call = self.client.deregister_task_definition().task_definition(arn.to_string()).send();
        let reply = match observed("DeregisterTaskDefinition", call).await {
            Ok(output) => {
                self.outages.answered("DeregisterTaskDefinition");
                let request_id = output.request_id().map(str::to_owned);
                tracing::info!(revision = %arn, request_id, "deregistered");
                Reply { answer: description(arn, output.task_definition()), request_id }
            }
            Err(error) => {
                let answer = Err(self.failed("DeregisterTaskDefinition", arn, &error));
                Reply { answer, request_id: error.request_id().map(str::to_owned) }
            }
        };
        pass.settle(&reply.answer, Instant::now());
        reply
    }

    /// Returns what a failed call means, and logs it: an answer each time, an outage when its cause changes.
    fn failed<E>(&self, operation: &'static str, arn: &Arn, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = failure(error);
        if code(error) == NO_ANSWER {
            self.outages.failed(operation, &failure.message, error);
            return failure;
        }
        self.outages.answered(operation);
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

/// Makes a call to AWS known to health and to the metrics.
pub(crate) async fn observed<T, E>(
    operation: &'static str,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata,
{
    let _call = Call::begin(operation, OPERATION_LIMIT);
    let began = Instant::now();
    let answer = call.await;
    measured(operation, answer.as_ref().map_or_else(code, |_| "OK"), began.elapsed());
    answer
}

/// Counts a call to AWS.
pub(crate) fn measured(operation: &'static str, code: &str, took: Duration) {
    metrics::counter!(AWS_CALLS, "operation" => operation, "code" => code.to_owned()).increment(1);
    metrics::histogram!(AWS_CALL_SECONDS, "operation" => operation).record(took);
}

fn description(asked: &Arn, answered: Option<&TaskDefinition>) -> Seen {
    same_revision(asked, answered.and_then(TaskDefinition::task_definition_arn))?;
    let timestamp = |time: Option<&DateTime>| time.and_then(|time| Timestamp::from_second(time.secs()).ok());
    answered
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
