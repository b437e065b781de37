//! What users do during a run: the six ways in which work comes, changes and goes, and one with all that can be found of a revision.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use testkit::simulated_ecs::{Action, Service, Task};
use tokio::time::sleep;

use crate::support::{World, kind};

/// A revision of an account that is not ours.
const ELSEWHERE: &str = "arn:aws:ecs:us-west-2:999999999999:task-definition/web:5";

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Workload {
    OneRevision,
    FortyRevisions,
    /// Two resources declare the same five, short and as ARNs.
    SharedRevisions,
    /// Four of five entries are removed while the first is being deregistered.
    EntriesRemoved,
    /// Suspended while the second of five is being deregistered, and resumed once the status says so.
    Suspended,
    /// Deleted while the first of five is being deregistered, and made again under the same name with another revision.
    MadeAgain,
    /// One that is free, one that a service uses, one that does not exist, one of another account, and every call there is
    /// to find that out.
    Mixed,
}

impl Workload {
    /// The six of which every side effect is a place to crash at.
    pub const SIX: [Self; 6] = [
        Self::OneRevision,
        Self::FortyRevisions,
        Self::SharedRevisions,
        Self::EntriesRemoved,
        Self::Suspended,
        Self::MadeAgain,
    ];

    /// The progress of each resource at the end.
    pub fn end(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::OneRevision | Self::EntriesRemoved | Self::MadeAgain => &[("web", "1/1")],
            Self::FortyRevisions => &[("web", "40/40")],
            Self::SharedRevisions => &[("arns", "5/5"), ("short", "5/5")],
            Self::Suspended => &[("web", "5/5")],
            Self::Mixed => &[("web", "1/4")],
        }
    }

    /// Declares all there is, and plants what users do while calls are under way.
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
                change_at(world, 1, json!({ "revisions": ["web:1"] }));
                declare(world, "web", &revisions(5)).await;
            }
            Self::Suspended => {
                change_at(world, 2, json!({ "suspend": true }));
                declare(world, "web", &revisions(5)).await;
            }
            Self::MadeAgain => {
                make_again_at_first(world);
                declare(world, "web", &revisions(5)).await;
            }
            Self::Mixed => {
                let cluster = world.west.cluster("prod");
                cluster.put_service(Service::steady("web", "web:2").rolling_back_to("web:3"));
                cluster.put_task(Task::running("batch", "web:4"));
                let revisions = ["web:1", "web:2", "web:7", ELSEWHERE].map(str::to_owned);
                declare(world, "web", &revisions).await;
            }
        }
    }

    /// What users do once the status says that something is so.
    pub async fn go_on(self, world: &World<'_>, deadline: Duration) {
        if self != Self::Suspended {
            return;
        }
        let began = Instant::now();
        loop {
            let seen = world.seen("web").await;
            if seen.is_current() && seen.ready_reason() == "Suspended" {
                break;
            }
            if began.elapsed() > deadline {
                // The end state tells.
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let patch = Patch::Merge(json!({ "spec": { "suspend": false } }));
        world.api().patch("web", &PatchParams::default(), &patch).await.expect("it can be resumed");
    }

    /// What happens beside us once all is settled: a deploy registers what did not exist.
    pub fn afterwards(self, world: &World<'_>) {
        if self == Self::Mixed {
            assert_eq!(world.west.register("web"), 7);
        }
    }

    /// The revisions that must be left alone whatever happens.
    pub fn untouchable(self) -> &'static [&'static str] {
        match self {
            Self::Mixed => &["web:2", "web:3", "web:4", "web:5", "web:6", "web:7"],
            Self::EntriesRemoved | Self::Suspended => &["web:6"],
            Self::OneRevision | Self::FortyRevisions | Self::SharedRevisions | Self::MadeAgain => &[],
        }
    }
}

async fn declare(world: &World<'_>, name: &str, revisions: &[String]) {
    world.apply(name, json!({ "revisions": revisions })).await.expect("the resource is admitted");
}

/// Changes the spec of `web` before ECS carries out the nth Deregister.
fn change_at(world: &World<'_>, nth: u32, spec: serde_json::Value) {
    let api = world.api();
    world.ecs.before(Action::DeregisterTaskDefinition, nth, async move {
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch("web", &PatchParams::default(), &patch).await.expect("it can be changed");
    });
}

fn make_again_at_first(world: &World<'_>) {
    let api = world.api();
    world.ecs.before(Action::DeregisterTaskDefinition, 1, async move {
        api.delete("web", &DeleteParams::default()).await.expect("it can be deleted");
        let mut again = DynamicObject::new("web", &kind());
        again.data = json!({ "spec": { "revisions": ["web:6"] } });
        api.create(&PostParams::default(), &again).await.expect("it can be made again");
    });
}
