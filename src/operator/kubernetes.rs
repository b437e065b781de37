//! The client of Kubernetes: no call pends for ever, and no failure is hidden by retries.

use std::time::Duration;

use kube::{Client, Config, client::ClientBuilder};
use tower::timeout::TimeoutLayer;

use crate::operator::Error;

/// How long the API server may take to begin its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The client that `KUBECONFIG`, the default kubeconfig or the pod's service account gives.
pub(super) async fn client() -> Result<Client, Error> {
    let refused = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(Some(error), |error| error.source());
        Error::Kubernetes(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    };
    let mut config = Config::infer().await.map_err(|error| refused(&error))?;
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|error| refused(&error))?;
    Ok(builder.with_layer(&TimeoutLayer::new(CALL_TIMEOUT)).build())
}
