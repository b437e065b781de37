//! How a usage scan makes its calls: page by page, paced, retried while they may succeed; and what their answers say.

use std::collections::HashMap;

use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::Failure as Missing,
};
use tokio::time::Instant;

use crate::aws::{
    ecs_client::observed,
    error::failure,
    permit_queue::{Pacing, PermitQueue, Turn},
    response::{Failure, FailureKind},
    usage::short,
};

/// How often a call is made within a scan while ECS throttles it, or has a fault that may pass: a scan is many in_flight, and worth nothing
/// if one of them fails.
const TRIES: u32 = 3;

pub(super) type Answer<T, E> = Result<T, SdkError<E, HttpResponse>>;

/// Why a call of a scan has no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// The cluster that the call names does not exist.
    ClusterGone(Failure),
    /// The service that the call names does not exist.
    ServiceGone(Failure),
    Failed(Failure),
}

impl CallError {
    fn new<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = failure(error);
        let text = error.message().unwrap_or_default().to_lowercase();
        let unavailable = || unclear(operation, &failure.message);
        match error.code() {
            Some("ClusterNotFoundException") => Self::ClusterGone(unavailable()),
            Some("InvalidParameterException") if text.contains("cluster is inactive") => {
                Self::ClusterGone(unavailable())
            }
            Some("ServiceNotFoundException" | "ServiceNotActiveException") => {
                Self::ServiceGone(unavailable())
            }
            _ => {
                tracing::warn!(operation, message = failure.message, "call to AWS failed");
                // "Absent" is about task definitions, which no call of a scan asks for.
                let is_absent = failure.kind == FailureKind::Absent;
                let kind = if is_absent { FailureKind::Refused } else { failure.kind };
                let message = format!("ecs:{operation}: {}", failure.message);
                let operation = failure.operation.unwrap_or(operation);
                Self::Failed(Failure { kind, message, ..failure }.during(operation))
            }
        }
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::ClusterGone(failure) | Self::ServiceGone(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// Returns the failure of an operation whose answer does not say clearly what it was asked.
pub(super) fn unclear(operation: &str, text: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("ecs:{operation}: {text}"))
}

/// Returns all items of a list.
///
/// # Errors
/// Returns `Failed` if an answer has no list, or if a page repeats.
pub(super) async fn pages<T, E, F>(
    bucket: &mut Bucket,
    operation: &'static str,
    page: impl Fn(Option<String>) -> F,
) -> Result<Vec<T>, CallError>
where
    F: Future<Output = Answer<(Option<Vec<T>>, Option<String>), E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    loop {
        let (items, next) = paced(bucket, operation, || page(tokens.last().cloned())).await?;
        let Some(items) = items else {
            return Err(CallError::Failed(unclear(operation, "the answer has no list")));
        };
        all.extend(items);
        match next.filter(|token| !token.is_empty()) {
            None => return Ok(all),
            Some(token) if tokens.contains(&token) => {
                return Err(CallError::Failed(unclear(operation, "the same page came twice")));
            }
            Some(token) => tokens.push(token),
        }
    }
}

/// Makes a call once the bucket has a token. Reduces the rate and retries if the failure may pass.
pub(super) async fn paced<T, E, F>(
    bucket: &mut Bucket,
    operation: &'static str,
    call: impl Fn() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Answer<T, E>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut tries = 0;
    loop {
        bucket.take().await;
        tries += 1;
        let error = match observed(operation, call()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let may_pass = matches!(
            failure(&error).kind,
            FailureKind::Throttled | FailureKind::ServerFault | FailureKind::Unavailable
        );
        if !may_pass || tries == TRIES {
            return Err(CallError::new(operation, &error));
        }
        bucket.0.throttled(Instant::now());
    }
}

/// What a Describe call says about one of the resources it was asked for.
#[derive(Debug)]
pub(super) enum Described<T> {
    Found(T),
    /// ECS reports it as MISSING.
    Missing(Failure),
    /// ECS reports another reason, or nothing.
    Unclear(Failure),
}

/// Returns what a Describe call says about each ARN it was asked for.
pub(super) fn described<T>(
    operation: &str,
    asked: &[String],
    answered: Vec<T>,
    arn: impl Fn(&T) -> Option<&str>,
    failures: &[Missing],
) -> Vec<(String, Described<T>)> {
    let named = answered.into_iter().filter_map(|it| Some((arn(&it).map(short)?.to_owned(), it)));
    let mut named: HashMap<String, T> = named.collect();
    let answer_about = |asked: &String| {
        if let Some(found) = named.remove(short(asked)) {
            return Described::Found(found);
        }
        let its_own = failures.iter().find(|it| it.arn().map(short) == Some(short(asked)));
        // A failed service deployment is reported by the ARN of the service revision that is missing.
        match its_own.or(failures.first()) {
            Some(failure) => {
                let text = [failure.arn(), failure.reason()].map(|it| it.unwrap_or("unknown")).join(": ");
                let is_missing = its_own.is_some() && failure.reason() == Some("MISSING");
                let failure = unclear(operation, &text);
                if is_missing { Described::Missing(failure) } else { Described::Unclear(failure) }
            }
            None => Described::Unclear(unclear(operation, &format!("the answer does not mention {asked}"))),
        }
    };
    let answers: Vec<Described<T>> = asked.iter().map(answer_about).collect();
    asked.iter().cloned().zip(answers).collect()
}

/// One of ECS's token buckets, for the one scan at a time.
pub(super) struct Bucket(PermitQueue<()>);

impl Bucket {
    pub(super) fn new(pacing: Pacing) -> Self {
        Self(PermitQueue::new(pacing, Instant::now()))
    }

    async fn take(&mut self) {
        while self.0.take(&(), Instant::now()) == Turn::Later {
            if let Some(due) = self.0.next_grant(Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            self.0.call(Instant::now());
        }
    }
}
