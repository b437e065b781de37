//! The user actions of a run: six ways in which work is added, changed and removed, and one
//! workload with every state in which a revision can be found.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use testkit::simulated_ecs::{Action, Service, Task};
use tokio::time::sleep;

use crate::support::{World, kind};

/// A revision of another account.
const FOREIGN_REVISION: &str = "arn:aws:ecs:us-west-2:999999999999:task-definition/web:5";

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Workload {
    OneRevision,
    FortyRevisions,
    /// Two resources declare the same five revisions, as `family:revision` and as ARNs.
    SharedRevisions,
    /// Four of five entries are removed while the first is being deregistered.
    EntriesRemoved,
    /// Suspended while the second of five is being deregistered, and resumed once the status
    /// reports the suspension.
    Suspended,
    /// Deleted while the first of five is being deregistered, and recreated with the same name and
    /// another revision.
    Recreated,
    /// One unused revision, one in use by a service, one that does not exist and one of another
    /// account. The reconcile makes every possible call.
    Mixed,
}

impl Workload {
    /// The workloads whose every side effect is a crash point.
    pub const SIX: [Self; 6] = [
        Self::OneRevision,
        Self::FortyRevisions,
        Self::SharedRevisions,
        Self::EntriesRemoved,
        Self::Suspended,
        Self::Recreated,
    ];

    /// Returns the progress of each resource in the end state.
    pub fn end(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::OneRevision | Self::EntriesRemoved | Self::Recreated => &[("web", "1/1")],
            Self::FortyRevisions => &[("web", "40/40")],
            Self::SharedRevisions => &[("arns", "5/5"), ("short", "5/5")],
            Self::Suspended => &[("web", "5/5")],
            Self::Mixed => &[("web", "1/4")],
        }
    }

    /// Declares the resources and schedules the user actions that happen during calls.
    pub async fn begin(self, world: &World<'_>) {
        let count = if self == Self::FortyRevisions { 40 } else { 6 };
        world.west.register_many("web", count);
        let revisions = |count: usize| (1..=count).map(|it| format!("web:{it}")).collect::<Vec<_>>();
        match self {
            Self::OneRevision => declare(world, "web", &revisions(1)).await,
            Self::FortyRevisions => declare(world, "web", &revisions(40)).await,
            Self::SharedRevisions => {
                let arns: Vec<String> = revisions(5).iter().map(|it| world.west.arn(it)).collect();
                declare(world, "short", &revisions(5)).await;
                declare(world, "arns", &arns).await;
            }
            Self::EntriesRemoved => {
                change_at_deregister(world, 1, json!({ "revisions": ["web:1"] }));
                declare(world, "web", &revisions(5)).await;
            }
            Self::Suspended => {
                change_at_deregister(world, 2, json!({ "suspend": true }));
                declare(world, "web", &revisions(5)).await;
            }
            Self::Recreated => {
                recreate_at_first_deregister(world);
                declare(world, "web", &revisions(5)).await;
            }
            Self::Mixed => {
                let cluster = world.west.cluster("prod");
                cluster.put_service(Service::steady("web", "web:2").rolling_back_to("web:3"));
                cluster.put_task(Task::running("batch", "web:4"));
                let revisions = ["web:1", "web:2", "web:7", FOREIGN_REVISION].map(str::to_owned);
                declare(world, "web", &revisions).await;
            }
        }
    }

    /// Resumes the suspended resource once its status reports the suspension.
    pub async fn resume(self, world: &World<'_>, deadline: Duration) {
        if self != Self::Suspended {
            return;
        }
        let start = Instant::now();
        loop {
            let seen = world.seen("web").await;
            if seen.is_current() && seen.ready_reason() == "Suspended" {
                break;
            }
            if start.elapsed() > deadline {
                // The check of the end state reports the failure.
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let patch = Patch::Merge(json!({ "spec": { "suspend": false } }));
        world.api().patch("web", &PatchParams::default(), &patch).await.expect("the resource can be resumed");
    }

    /// Registers, as a deploy does, the revision that did not exist before the end state.
    pub fn afterwards(self, world: &World<'_>) {
        if self == Self::Mixed {
            assert_eq!(world.west.register("web"), 7);
        }
    }

    /// Returns the revisions that must never be deregistered.
    pub fn protected(self) -> &'static [&'static str] {
        match self {
            Self::Mixed => &["web:2", "web:3", "web:4", "web:5", "web:6", "web:7"],
            Self::EntriesRemoved | Self::Suspended => &["web:6"],
            Self::OneRevision | Self::FortyRevisions | Self::SharedRevisions | Self::Recreated => &[],
        }
    }
}

async fn declare(world: &World<'_>, name: &str, revisions: &[String]) {
    world.apply(name, json!({ "revisions": revisions })).await.expect("the resource is admitted");
}

/// Changes the spec of `web` before ECS carries out the nth `DeregisterTaskDefinition` call.
fn change_at_deregister(world: &World<'_>, nth: u32, spec: serde_json::Value) {
    let api = world.api();
    world.ecs.before(Action::DeregisterTaskDefinition, nth, async move {
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch("web", &PatchParams::default(), &patch).await.expect("the resource can be changed");
    });
}

fn recreate_at_first_deregister(world: &World<'_>) {
    let api = world.api();
    world.ecs.before(Action::DeregisterTaskDefinition, 1, async move {
        api.delete("web", &DeleteParams::default()).await.expect("the resource can be deleted");
        let mut recreated = DynamicObject::new("web", &kind());
        recreated.data = json!({ "spec": { "revisions": ["web:6"] } });
        api.create(&PostParams::default(), &recreated).await.expect("the resource can be recreated");
    });
}
