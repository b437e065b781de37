//! Calls of a usage scan: paginated, rate limited, and retried after transient failures.

use std::collections::HashMap;

use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::Failure as Missing,
};
use tokio::{sync::Mutex, time::Instant};

use crate::aws::{
    circuit_breaker::OPEN_DURATION,
    ecs_client::Ecs,
    permit_queue::{Acquire, Pacing, PermitQueue},
    response::{Failure, FailureKind},
    usage::short,
};

/// Maximum number of attempts of a call after transient failures. Calls of a scan are retried
/// because one failed call makes the whole scan useless.
const MAX_ATTEMPTS: u32 = 3;

/// Result of a call of the SDK.
pub(super) type SdkResult<T, E> = Result<T, SdkError<E, HttpResponse>>;

/// Failure of a call of a scan.
#[derive(Debug)]
pub(super) enum CallError {
    /// The cluster that the call names does not exist.
    ClusterGone(Failure),
    /// The same, although an earlier call of the scan found the cluster.
    ClusterVanished(Failure),
    /// The service that the call names does not exist.
    ServiceGone(Failure),
    /// Any other failure.
    Failed(Failure),
}

impl CallError {
    fn new(operation: &'static str, failure: Failure) -> Self {
        let unavailable = || unclear(operation, &failure.message);
        match failure.code.as_deref() {
            Some("ClusterNotFoundException") => Self::ClusterGone(unavailable()),
            Some("InvalidParameterException")
                if failure.message.to_lowercase().contains("cluster is inactive") =>
            {
                Self::ClusterGone(unavailable())
            }
            Some("ServiceNotFoundException" | "ServiceNotActiveException") => {
                Self::ServiceGone(unavailable())
            }
            _ => {
                // `Absent` refers to task definitions, which no call of a scan requests.
                let is_absent = failure.kind == FailureKind::Absent;
                let kind = if is_absent { FailureKind::Refused } else { failure.kind };
                let message = format!("ecs:{operation}: {}", failure.message);
                let operation = failure.operation.unwrap_or(operation);
                Self::Failed(Failure { kind, message, ..failure }.during(operation))
            }
        }
    }

    /// Returns the failure of a scan. Only a denial is certain to need manual intervention.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) if failure.kind == FailureKind::Refused => {
                Failure { kind: FailureKind::Unavailable, ..failure }
            }
            Self::ClusterGone(failure)
            | Self::ClusterVanished(failure)
            | Self::ServiceGone(failure)
            | Self::Failed(failure) => failure,
        }
    }

    /// Returns the error of a call about a cluster that an earlier call of the scan found.
    pub(super) fn of_existing_cluster(self) -> Self {
        match self {
            Self::ClusterGone(failure) => Self::ClusterVanished(failure),
            other => other,
        }
    }
}

/// Returns the failure of an operation whose response is incomplete or unexpected.
pub(super) fn unclear(operation: &str, text: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("ecs:{operation}: {text}"))
}

/// Returns all items of a paginated list.
///
/// # Errors
/// Returns the failure of a call, or `Failed` if a response has no list or a pagination token
/// repeats.
pub(super) async fn pages<T, E, F>(
    ecs: &Ecs,
    bucket: &Bucket,
    operation: &'static str,
    page: impl Fn(Option<String>) -> F,
) -> Result<Vec<T>, CallError>
where
    F: Future<Output = SdkResult<(Option<Vec<T>>, Option<String>), E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    loop {
        let response = paced(ecs, bucket, operation, || page(tokens.last().cloned())).await;
        let (items, next) =
            if tokens.is_empty() { response? } else { response.map_err(CallError::of_existing_cluster)? };
        let Some(items) = items else {
            return Err(CallError::Failed(unclear(operation, "the response has no list")));
        };
        all.extend(items);
        match next.filter(|token| !token.is_empty()) {
            None => return Ok(all),
            Some(token) if tokens.contains(&token) => {
                return Err(CallError::Failed(unclear(operation, "the response repeats a pagination token")));
            }
            Some(token) => tokens.push(token),
        }
    }
}

/// Makes a call once the bucket has a token. Reduces the rate and retries after a transient
/// failure, and not before the circuit breaker admits a probe.
///
/// # Errors
/// Returns the failure of the last attempt.
pub(super) async fn paced<T, E, F>(
    ecs: &Ecs,
    bucket: &Bucket,
    operation: &'static str,
    call: impl Fn() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = SdkResult<T, E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut attempts = 0;
    loop {
        bucket.acquire().await;
        attempts += 1;
        let failure = match ecs.call(operation, call()).await {
            Ok(response) => return Ok(response),
            Err(error) => error.failure,
        };
        let is_transient = matches!(
            failure.kind,
            FailureKind::Throttled | FailureKind::ServerFault | FailureKind::Unavailable
        );
        if !is_transient || attempts == MAX_ATTEMPTS {
            return Err(CallError::new(operation, failure));
        }
        bucket.0.lock().await.throttled(Instant::now());
        if failure.kind == FailureKind::Unavailable {
            tokio::time::sleep(OPEN_DURATION).await;
        }
    }
}

/// Result of a Describe call for one requested resource.
#[derive(Debug)]
pub(super) enum Described<T> {
    /// The resource.
    Found(T),
    /// ECS reports it as MISSING.
    Missing(Failure),
    /// ECS reports another reason, or does not mention the resource.
    Unclear(Failure),
}

/// Returns the result of a Describe call for each requested ARN.
pub(super) fn described<T>(
    operation: &str,
    requested: &[String],
    returned: Vec<T>,
    arn: impl Fn(&T) -> Option<&str>,
    failures: &[Missing],
) -> Vec<(String, Described<T>)> {
    let named = returned.into_iter().filter_map(|it| Some((arn(&it).map(short)?.to_owned(), it)));
    let mut by_name: HashMap<String, T> = named.collect();
    let result_for = |requested: &String| {
        if let Some(found) = by_name.remove(short(requested)) {
            return Described::Found(found);
        }
        let own = failures.iter().find(|it| it.arn().map(short) == Some(short(requested)));
        // ECS reports a failed service deployment by the ARN of the missing service revision.
        if let Some(failure) = own.or(failures.first()) {
            let text = [failure.arn(), failure.reason()].map(|it| it.unwrap_or("unknown")).join(": ");
            let is_missing = own.is_some() && failure.reason() == Some("MISSING");
            let failure = unclear(operation, &text);
            if is_missing { Described::Missing(failure) } else { Described::Unclear(failure) }
        } else {
            let text = format!("the response does not mention {requested}");
            Described::Unclear(unclear(operation, &text))
        }
    };
    let results: Vec<Described<T>> = requested.iter().map(result_for).collect();
    requested.iter().cloned().zip(results).collect()
}

/// Token bucket of one group of ECS calls, shared by the scans of one account and region. The mutex
/// is its wait queue: one waiter at a time waits for a token.
pub(super) struct Bucket(Mutex<PermitQueue<()>>);

impl Bucket {
    pub(super) fn new(pacing: Pacing) -> Self {
        Self(Mutex::new(PermitQueue::new(pacing, Instant::now())))
    }

    async fn acquire(&self) {
        let mut tokens = self.0.lock().await;
        while tokens.acquire(&(), Instant::now()) == Acquire::Queued {
            if let Some(due) = tokens.next_grant(Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            tokens.grant(Instant::now());
        }
    }
}
