//! Makes policies a kind that is reconciled.

use std::{sync::Arc, time::Duration};

use kube::runtime::watcher;

use crate::{
    api::TaskDefinitionRetentionPolicy,
    controller::{Error, Kind, guarded::Guarded},
    retention::{context::Context, reconcile::reconcile},
};

impl Kind for TaskDefinitionRetentionPolicy {
    type Context = Context;

    const CONTROLLER: &'static str = "taskdefinitionretentionpolicy";

    fn work_is_due(policy: &Self) -> bool {
        policy.metadata.deletion_timestamp.is_none()
    }

    fn prune(_: &mut Self) {}

    async fn reconcile(object: Arc<Guarded<Self>>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
        match &object.0 {
            Ok(policy) if (context.is_active)() => Box::pin(reconcile(policy, &context)).await,
            Ok(_) => Ok(None),
            Err(metadata) => {
                let name = metadata.name.as_deref();
                tracing::error!(name, "the policy cannot be read: correct its spec");
                Ok(None)
            }
        }
    }

    fn observed(_: Option<&Guarded<Self>>, _: Option<&Guarded<Self>>, _: &Context) {}

    fn watch_failed(_: &watcher::Error, _: &Context) {}
}
