//! The health probes: whether the process moves, and whether it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use futures::FutureExt;

use crate::{in_flight, retirement::reconcile::Context, runtime::controllers::Cache};

/// How far past its limit a call must be before the process is believed to be stuck.
const GRACE: Duration = Duration::from_secs(5);

/// `/healthz`: an answer at all proves that the runtime moves. `/readyz`: says what is missing.
pub fn router(caches: Vec<Cache>, context: Arc<Context>) -> Router {
    let readyz = move || {
        let missing = missing(&caches, &context);
        async move { answer(&missing) }
    };
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

async fn healthz() -> (StatusCode, String) {
    let overdue = in_flight::overdue(GRACE).into_iter();
    answer(&overdue.map(|call| format!("{call} is past its limit")).collect::<Vec<_>>())
}

fn answer(faults: &[String]) -> (StatusCode, String) {
    match faults {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        faults => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", faults.join("\n"))),
    }
}

/// A standby lacks nothing but the lead: its caches are warm, and it has not asked who it is.
fn missing(caches: &[Cache], context: &Context) -> Vec<String> {
    let is_synced = |cache: &Cache| matches!(cache.wait_until_ready().now_or_never(), Some(Ok(())));
    let unsynced = caches.iter().filter(|cache| !is_synced(cache)).count();
    let cold = (unsynced > 0).then(|| {
        format!(
            "{unsynced} of {} caches not synced: TaskDefinitionRetirements are not listed yet",
            caches.len()
        )
    });
    let identities = context.account.identity_failures().into_iter();
    cold.into_iter().chain(identities.map(|failure| format!("AWS identity not known in {failure}"))).collect()
}
