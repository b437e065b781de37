//! One run: a workload, one failure, the real binary, and the judgement of what came of it.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::join};
use serde_json::Value;
use testkit::{
    api_proxy::{self, ApiProxy, Effect},
    process::{Process, Signal},
    simulated_ecs::{self, Action},
};
use tokio::time::{sleep, timeout};

use super::{
    oracle::{self, Evidence},
    state::{End, Versions, end, resource_versions},
    workload::Workload,
};
use crate::support::World;

const DEREGISTER: Action = Action::DeregisterTaskDefinition;

/// By when every run has settled once its failure is over; the machine may be busy.
const SETTLED: Duration = Duration::from_mins(2);

/// By when a leader renews its lease.
const RENEWAL: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(100);

/// What goes wrong in a run.
#[derive(Clone, Debug)]
pub enum Failure {
    Nothing,
    /// The process is killed at the nth Deregister, before or after ECS has carried it out, and another started.
    CrashAtCall {
        nth: u32,
        is_carried_out: bool,
    },
    /// The process is killed at the nth write to Kubernetes, before or after it is done, and another started.
    CrashAtWrite {
        nth: u32,
        is_carried_out: bool,
    },
    Aws {
        name: &'static str,
        fault: simulated_ecs::Fault,
        loses_reply: bool,
    },
    Kubernetes {
        fault: api_proxy::Fault,
    },
}

/// One run to be done.
#[derive(Clone, Debug)]
pub struct Run {
    pub workload: Workload,
    pub failure: Failure,
    pub elects: bool,
    /// The end of the run in which nothing fails.
    pub end: End,
}

/// How a run went.
#[derive(Debug)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// Whether the failure came to pass.
    pub struck: bool,
    pub end: End,
    pub deregistrations: usize,
    pub writes: usize,
    pub events: u32,
    pub took: Duration,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, ", self.workload)?;
        match &self.failure {
            Failure::Aws { name, fault, .. } => write!(f, "{name}: {fault:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Run {
    /// The run in which nothing fails: what it ends with, and how many side effects and events it has.
    pub async fn without_failure(workload: Workload, elects: bool) -> Verdict {
        let run = Self { workload, failure: Failure::Nothing, elects, end: End::new() };
        let verdict = run.judge().await;
        assert!(verdict.violations.is_empty(), "{workload:?}, nothing fails: {:#?}", verdict.violations);
        verdict
    }

    pub async fn judge(&self) -> Verdict {
        let began = Instant::now();
        let world = World::new().await;
        let proxy = ApiProxy::before(world.namespace.control_plane()).await.expect("a proxy");
        let versions = Versions::collect(world.api());
        self.plant(&world, &proxy);
        self.workload.begin(&world).await;
        let mut controller = self.start(&world, &proxy);

        let mut violations = Vec::new();
        let strike = self.strike(&world, &proxy, &mut controller);
        let (mut struck, ()) = join(strike, self.workload.go_on(&world, SETTLED)).await;
        let end = self.settle(&world).await.unwrap_or_else(|end| {
            violations.push(format!("I2, I5: the end is {end:#?}, and should be {:#?}", self.end));
            end
        });
        if let Failure::Kubernetes { .. } = self.failure {
            // A lease is renewed by the clock, and not for a resource.
            let patience = if self.elects { RENEWAL } else { Duration::ZERO };
            struck = proxy.wait_until_struck(1, patience).await;
        }
        let (deregistrations, writes) = (world.ecs.calls_of(DEREGISTER).len(), writes(&proxy));
        let events = proxy.events();
        let log = controller.log();
        // A leader that is killed keeps its lease; one that has hardly begun takes no notice.
        if self.elects {
            controller.signal(Signal::TERM).expect("a signal can be sent");
            controller.wait(SETTLED).await;
        }
        drop(controller);
        violations.extend(self.restart(&world, &proxy).await);

        let evidence = Evidence {
            calls: world.ecs.calls(),
            exchanges: proxy.log(),
            versions: versions.all(),
            untouchable: self.workload.untouchable().iter().map(|it| (*it).to_owned()).collect(),
            reply_was_lost: self.loses_reply(),
            is_shared: self.workload == Workload::SharedRevisions,
        };
        violations.extend(oracle::violations(&evidence));
        if !violations.is_empty() {
            violations.push(log);
        }
        let took = began.elapsed();
        Verdict { violations, struck, end, deregistrations, writes, events, took }
    }

    fn plant(&self, world: &World<'_>, proxy: &ApiProxy) {
        match &self.failure {
            Failure::Nothing => {}
            Failure::CrashAtCall { nth, is_carried_out } => {
                let target = simulated_ecs::Fault::on(DEREGISTER).nth(*nth);
                let for_ever = Duration::from_hours(1);
                world.ecs.fault(if *is_carried_out { target.delay(for_ever) } else { target.hang() });
            }
            Failure::CrashAtWrite { nth, is_carried_out } => {
                let effect = if *is_carried_out { Effect::HoldAnswer } else { Effect::Hang };
                proxy.fault(api_proxy::Fault::write(*nth, effect));
            }
            Failure::Aws { fault, .. } => world.ecs.fault(fault.clone()),
            Failure::Kubernetes { fault } => proxy.fault(fault.clone()),
        }
    }

    fn start(&self, world: &World<'_>, proxy: &ApiProxy) -> Process {
        let kubeconfig = proxy.kubeconfig().display().to_string();
        let elects = self.elects.to_string();
        world.start_with(&[
            ("KUBECONFIG", &kubeconfig),
            ("LEADER_ELECT", &elects),
            ("LEADER_ELECTION_NAMESPACE", world.namespace.name()),
        ])
    }

    /// Waits for the moment to kill the process, does so, and starts the next; whether the failure came to pass.
    async fn strike(&self, world: &World<'_>, proxy: &ApiProxy, controller: &mut Process) -> bool {
        let has_come = || match &self.failure {
            Failure::CrashAtCall { nth, .. } => {
                usize::try_from(*nth).is_ok_and(|nth| world.ecs.calls_of(DEREGISTER).len() >= nth)
            }
            Failure::CrashAtWrite { .. } => proxy.struck() > 0,
            _ => false,
        };
        match &self.failure {
            Failure::Nothing | Failure::Kubernetes { .. } => return false,
            Failure::Aws { .. } => return true,
            Failure::CrashAtCall { .. } | Failure::CrashAtWrite { .. } => {}
        }
        let began = Instant::now();
        while !has_come() {
            // An event may still be on its way.
            let is_over = self.is_end(&end(world).await) && !proxy.wait_until_struck(1, RENEWAL).await;
            if is_over || began.elapsed() > SETTLED {
                return false;
            }
            sleep(PAUSE).await;
        }
        controller.kill();
        *controller = self.start(world, proxy);
        true
    }

    /// A process that begins when all is settled has nothing left to do, whatever has come up beside it.
    async fn restart(&self, world: &World<'_>, proxy: &ApiProxy) -> Vec<String> {
        self.workload.afterwards(world);
        let (called, versions) = (world.ecs.calls().len(), resource_versions(world).await);
        let controller = self.start(world, proxy);
        // It panics where it waits in vain.
        let fence = AssertUnwindSafe(world.wait_until_all_is_seen()).catch_unwind();
        if !matches!(timeout(SETTLED, fence).await, Ok(Ok(()))) {
            return vec![format!("I2: nothing is done any more: {}", controller.log())];
        }
        let mut calls = world.ecs.calls().split_off(called);
        // What is in use is looked at for as long as it waits.
        calls.retain(|it| {
            let arn = it.task_definition.as_deref().unwrap_or("/fence:");
            let waits = self.workload == Workload::Mixed && arn.ends_with("/web:2");
            !waits && !arn.contains("/fence:")
        });
        let mut after = resource_versions(world).await;
        after.retain(|name, _| !name.starts_with("fence"));
        let mut violations = Vec::new();
        if !calls.is_empty() {
            violations.push(format!("I2: settled, and yet called: {calls:?}"));
        }
        if after != versions {
            violations.push(format!("I2: settled, and yet written: {versions:?}, then {after:?}"));
        }
        violations
    }

    /// The end, or the state in which it did not come.
    async fn settle(&self, world: &World<'_>) -> Result<End, End> {
        let began = Instant::now();
        loop {
            let end = end(world).await;
            if self.is_end(&end) {
                return Ok(end);
            }
            if began.elapsed() > SETTLED {
                return Err(end);
            }
            sleep(PAUSE).await;
        }
    }

    fn is_end(&self, end: &End) -> bool {
        if !self.end.is_empty() {
            return *end == self.end;
        }
        let is_settled = |row: &Value| match row["reason"].as_str() {
            Some("Retired") => row["message"].is_null() && row["ecs"] == "Some(Inactive)",
            Some("InUse" | "NotFound" | "WrongAccount") => row["ecs"] != "Some(Inactive)",
            _ => false,
        };
        self.workload.end().iter().all(|(name, progress)| {
            end.get(*name).is_some_and(|it| {
                let rows = it["status"]["revisions"].as_array();
                it["generation"] == it["status"]["observedGeneration"]
                    && it["status"]["progress"] == *progress
                    && rows.is_some_and(|rows| rows.iter().all(is_settled))
            })
        })
    }

    fn loses_reply(&self) -> bool {
        match self.failure {
            Failure::Nothing | Failure::Kubernetes { .. } => false,
            Failure::CrashAtCall { .. } | Failure::CrashAtWrite { .. } => true,
            Failure::Aws { loses_reply, .. } => loses_reply,
        }
    }
}

fn writes(proxy: &ApiProxy) -> usize {
    proxy.log().iter().filter(|it| it.request.verb.is_write()).count()
}
