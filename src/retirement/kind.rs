//! Makes retirements a kind that is reconciled.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;

use crate::{
    api::TaskDefinitionRetirement,
    aws::rate_limiter::ResourceKey,
    controller::{Error, Kind, guarded::Guarded},
    retirement::{
        context::{Context, key},
        policy_guard::{controlling_policy, is_finished},
        reconcile::reconcile,
        requeue,
    },
};

impl Kind for TaskDefinitionRetirement {
    type Context = Context;

    const CONTROLLER: &'static str = "taskdefinitionretirement";

    fn work_is_due(resource: &Self) -> bool {
        requeue::work_is_due(resource)
    }

    /// A reconcile reads the resource again.
    fn prune(resource: &mut Self) {
        for row in resource.status.iter_mut().flat_map(|status| &mut status.revisions) {
            row.arn = None;
            row.request_id = None;
        }
    }

    async fn reconcile(object: Arc<Guarded<Self>>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
        reconcile(object, context).await
    }

    fn observed(before: Option<&Guarded<Self>>, after: Option<&Guarded<Self>>, context: &Context) {
        match (before, after.map(|it| &it.0)) {
            (Some(deleted), None) => context.forget(deleted),
            // Another process may have finished it while this one waited.
            (_, Some(Ok(resource))) if !requeue::work_is_due(resource) => {
                context.waiters.remove(&key(resource));
            }
            _ => {}
        }
        wake_policy(before, after, context);
    }
}

/// Wakes the policy that controls a retirement if the retirement was approved, finished or deleted.
fn wake_policy(
    before: Option<&Guarded<TaskDefinitionRetirement>>,
    after: Option<&Guarded<TaskDefinitionRetirement>>,
    context: &Context,
) {
    let (before, after) = (readable(before), readable(after));
    let state = |it: &TaskDefinitionRetirement| (it.spec.suspend, is_finished(it));
    if before.map(state) == after.map(state) {
        return;
    }
    let Some(retirement) = after.or(before) else { return };
    if let Some(owner) = controlling_policy(retirement) {
        let namespace = retirement.namespace().unwrap_or_default();
        (context.policy_trigger.0)(&ResourceKey { namespace, name: owner.name.clone() });
    }
}

fn readable(object: Option<&Guarded<TaskDefinitionRetirement>>) -> Option<&TaskDefinitionRetirement> {
    object?.0.as_ref().ok()
}
