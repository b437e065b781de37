//! The health probes: `/healthz` for liveness, `/readyz` for readiness.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use futures::FutureExt;

use crate::{
    account::readiness::Readiness, api::TaskDefinitionRetirement, controller::Cache, in_flight,
    retirement::context::Context,
};

/// How far a call may exceed its timeout before the process counts as stuck.
const GRACE: Duration = Duration::from_secs(5);

/// Returns the router of both probes. A response of `/healthz` proves that the async runtime makes
/// progress; `/readyz` names what is missing.
pub fn router(caches: Vec<Cache<TaskDefinitionRetirement>>, context: Arc<Context>) -> Router {
    let readyz = move || {
        let missing = missing(&caches, &context);
        async move { respond(&missing) }
    };
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

async fn healthz() -> (StatusCode, String) {
    let overdue = in_flight::overdue(GRACE).into_iter();
    respond(&overdue.map(|call| format!("timeout exceeded: {call}")).collect::<Vec<_>>())
}

fn respond(problems: &[String]) -> (StatusCode, String) {
    match problems {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        problems => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", problems.join("\n"))),
    }
}

/// Returns why the process is not ready. Standby replicas are ready: their caches are synced, and
/// they have not called STS.
fn missing(caches: &[Cache<TaskDefinitionRetirement>], context: &Context) -> Vec<String> {
    let is_synced = |cache: &Cache<TaskDefinitionRetirement>| {
        matches!(cache.wait_until_ready().now_or_never(), Some(Ok(())))
    };
    let count = caches.iter().filter(|cache| !is_synced(cache)).count();
    let unsynced = (count > 0).then(|| {
        format!("{count} of {} caches not synced: TaskDefinitionRetirements are not listed yet", caches.len())
    });
    let accounts = match context.accounts.readiness() {
        Readiness::Ready => None,
        Readiness::Pending => {
            Some("caches not synced: EcsAccounts and namespaces are not listed yet".to_owned())
        }
        Readiness::Failed(error) => Some(error),
    };
    let identities = context.sources.ambient().identity_failures().into_iter();
    unsynced
        .into_iter()
        .chain(accounts)
        .chain(identities.map(|failure| format!("AWS identity not known in {failure}")))
        .collect()
}
