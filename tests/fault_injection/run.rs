//! One run: a workload, one failure, the real binary, and the check of the result.

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

/// Time within which a run converges after its failure, on a busy machine.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_mins(2);

/// Time within which a leader renews its lease.
const RENEWAL: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The failure of a run.
#[derive(Clone, Debug)]
pub enum Failure {
    Nothing,
    /// The process is killed at the nth `DeregisterTaskDefinition` call, before or after ECS
    /// carries it out, and a new process is started.
    CrashAtCall {
        nth: u32,
        is_carried_out: bool,
    },
    /// The process is killed at the nth write to Kubernetes, before or after it is carried out, and
    /// a new process is started.
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

/// One run: a workload and a failure.
#[derive(Clone, Debug)]
pub struct Run {
    pub workload: Workload,
    pub failure: Failure,
    pub elects: bool,
    /// The end state of the run without a failure.
    pub end: End,
}

/// The result of a run.
#[derive(Debug)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// True if the failure was triggered.
    pub triggered: bool,
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
    /// Runs the workload without a failure. Returns its end state and the numbers of side effects
    /// and events.
    pub async fn without_failure(workload: Workload, elects: bool) -> Verdict {
        let run = Self { workload, failure: Failure::Nothing, elects, end: End::new() };
        let verdict = run.judge().await;
        assert!(verdict.violations.is_empty(), "{workload:?}, without a failure: {:#?}", verdict.violations);
        verdict
    }

    pub async fn judge(&self) -> Verdict {
        let start = Instant::now();
        let world = World::new().await;
        let proxy = ApiProxy::in_front_of(world.namespace.control_plane()).await.expect("the proxy starts");
        let versions = Versions::collect(world.api());
        self.inject(&world, &proxy);
        self.workload.begin(&world).await;
        let mut controller = self.start(&world, &proxy);

        let mut violations = Vec::new();
        let crash = self.crash(&world, &proxy, &mut controller);
        let (mut triggered, ()) = join(crash, self.workload.resume(&world, CONVERGENCE_TIMEOUT)).await;
        let end = self.wait_for_end(&world).await.unwrap_or_else(|end| {
            violations.push(format!("I2, I5: the end state is {end:#?}, expected {:#?}", self.end));
            end
        });
        if let Failure::Kubernetes { .. } = self.failure {
            // A lease is renewed periodically, independently of resources.
            let deadline = if self.elects { RENEWAL } else { Duration::ZERO };
            triggered = proxy.wait_until_faults_applied(1, deadline).await;
        }
        let (deregistrations, writes) = (world.ecs.calls_of(DEREGISTER).len(), writes(&proxy));
        let events = proxy.events();
        let log = controller.log();
        // Stop a leader with SIGTERM, since a killed leader leaves its lease behind.
        if self.elects {
            controller.signal(Signal::TERM).expect("a signal can be sent");
            controller.wait(CONVERGENCE_TIMEOUT).await;
        }
        drop(controller);
        violations.extend(self.restart(&world, &proxy).await);

        let evidence = Evidence {
            calls: world.ecs.calls(),
            exchanges: proxy.log(),
            versions: versions.all(),
            protected: self.workload.protected().iter().map(|it| (*it).to_owned()).collect(),
            reply_was_lost: self.loses_reply(),
            is_shared: self.workload == Workload::SharedRevisions,
        };
        violations.extend(oracle::violations(&evidence));
        if !violations.is_empty() {
            violations.push(log);
        }
        let took = start.elapsed();
        Verdict { violations, triggered, end, deregistrations, writes, events, took }
    }

    fn inject(&self, world: &World<'_>, proxy: &ApiProxy) {
        match &self.failure {
            Failure::Nothing => {}
            Failure::CrashAtCall { nth, is_carried_out } => {
                let target = simulated_ecs::Fault::on(DEREGISTER).nth(*nth);
                let past_the_end = Duration::from_hours(1);
                world.ecs.fault(if *is_carried_out { target.delay(past_the_end) } else { target.hang() });
            }
            Failure::CrashAtWrite { nth, is_carried_out } => {
                let effect = if *is_carried_out { Effect::HangReply } else { Effect::Hang };
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

    /// Kills the process at the failure point and starts a new one. Returns true if the failure was
    /// triggered.
    async fn crash(&self, world: &World<'_>, proxy: &ApiProxy, controller: &mut Process) -> bool {
        let is_due = || match &self.failure {
            Failure::CrashAtCall { nth, .. } => {
                usize::try_from(*nth).is_ok_and(|nth| world.ecs.calls_of(DEREGISTER).len() >= nth)
            }
            Failure::CrashAtWrite { .. } => proxy.faults_applied() > 0,
            _ => false,
        };
        match &self.failure {
            Failure::Nothing | Failure::Kubernetes { .. } => return false,
            Failure::Aws { .. } => return true,
            Failure::CrashAtCall { .. } | Failure::CrashAtWrite { .. } => {}
        }
        let start = Instant::now();
        while !is_due() {
            // An event may still be pending.
            let is_over =
                self.is_end(&end(world).await) && !proxy.wait_until_faults_applied(1, RENEWAL).await;
            if is_over || start.elapsed() > CONVERGENCE_TIMEOUT {
                return false;
            }
            sleep(POLL_INTERVAL).await;
        }
        controller.kill();
        *controller = self.start(world, proxy);
        true
    }

    /// Restarts the process after the end state is reached. The new process must make no call and
    /// no write, whatever has been registered meanwhile.
    async fn restart(&self, world: &World<'_>, proxy: &ApiProxy) -> Vec<String> {
        self.workload.afterwards(world);
        let (called, versions) = (world.ecs.calls().len(), resource_versions(world).await);
        let controller = self.start(world, proxy);
        // The fence panics on a timeout.
        let fence = AssertUnwindSafe(world.wait_until_all_is_seen()).catch_unwind();
        if !matches!(timeout(CONVERGENCE_TIMEOUT, fence).await, Ok(Ok(()))) {
            return vec![format!("I2: the restarted process does not reconcile: {}", controller.log())];
        }
        let mut calls = world.ecs.calls().split_off(called);
        // A revision that waits for its usage to end is read periodically.
        calls.retain(|it| {
            let arn = it.task_definition.as_deref().unwrap_or("/fence:");
            let waits = self.workload == Workload::Mixed && arn.ends_with("/web:2");
            !waits && !arn.contains("/fence:")
        });
        let mut after = resource_versions(world).await;
        after.retain(|name, _| !name.starts_with("fence"));
        let mut violations = Vec::new();
        if !calls.is_empty() {
            violations.push(format!("I2: final, but called: {calls:?}"));
        }
        if after != versions {
            violations.push(format!("I2: final, but written: {versions:?}, then {after:?}"));
        }
        violations
    }

    /// Waits for the end state.
    ///
    /// # Errors
    /// Returns the current state if the end state is not reached in time.
    async fn wait_for_end(&self, world: &World<'_>) -> Result<End, End> {
        let start = Instant::now();
        loop {
            let end = end(world).await;
            if self.is_end(&end) {
                return Ok(end);
            }
            if start.elapsed() > CONVERGENCE_TIMEOUT {
                return Err(end);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn is_end(&self, end: &End) -> bool {
        if !self.end.is_empty() {
            return *end == self.end;
        }
        let is_final = |row: &Value| match row["reason"].as_str() {
            Some("Retired") => row["message"].is_null() && row["ecs"] == "Some(Inactive)",
            Some("InUse" | "NotFound" | "WrongAccount") => row["ecs"] != "Some(Inactive)",
            _ => false,
        };
        self.workload.end().iter().all(|(name, progress)| {
            end.get(*name).is_some_and(|it| {
                let rows = it["status"]["revisions"].as_array();
                it["generation"] == it["status"]["observedGeneration"]
                    && it["status"]["progress"] == *progress
                    && rows.is_some_and(|rows| rows.iter().all(is_final))
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
