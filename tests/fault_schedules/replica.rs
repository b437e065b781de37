//! A controller process of a run: the real replica on its own runtime, whose paused clock advances
//! in steps.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ecs_retirement_controller::{
    CONTROLLER,
    aws::permit_queue::Pacing,
    runtime::{
        Election, Options,
        http_server::BindAddress,
        kubernetes,
        replica::{Dependencies, Replica},
    },
};
use kube::client::ClientBuilder;
use testkit::simulated_ecs::in_process;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::{Instant, advance, sleep_until},
};
use tower::service_fn;

use super::{kinds::NAMESPACE, link::Link, schedule::Halt, users::REGION, world::World};
use crate::support::invariants::Process;

pub struct Running {
    runtime: Runtime,
    link: Arc<Link>,
    stop: watch::Sender<bool>,
    work: JoinHandle<()>,
    /// When the process began, in the time of the run and on its own clock.
    began: (Duration, Instant),
    /// End of the current pause. `None` if the process is not paused.
    paused_until: Option<Duration>,
}

pub fn identity((slot, process): Process) -> String {
    format!("replica-{slot}-{process}")
}

fn options(world: &World, pacing: Pacing) -> Options {
    let election = Election { namespace: Some(NAMESPACE.to_owned()), id: "controller".to_owned() };
    Options {
        allowed_accounts: BTreeSet::new(),
        controller_name: (!world.users.roles.is_empty()).then(|| CONTROLLER.to_owned()),
        serves_policies: !world.users.policies.is_empty(),
        allows_ambient: true,
        namespaces: [].into(),
        concurrency: 16,
        pacing,
        election: (world.schedule.replicas > 1).then_some(election),
        metrics: BindAddress::Off,
        health_probes: BindAddress::Off,
    }
}

impl Running {
    pub fn start(by: Process, world: &Arc<World>, pacing: Pacing) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("the runtime can be built");
        let link = Link::new(by, world.clone());
        let (stop, stop_receiver) = watch::channel(false);
        let now = world.time.now();
        let (work, began) = runtime.block_on(async {
            let for_api = link.clone();
            let service = service_fn(move |request| for_api.clone().kubernetes(request));
            let time = world.time.clone();
            let dependencies = Dependencies {
                client: kubernetes::bounded(ClientBuilder::new(service, NAMESPACE)),
                own_namespace: NAMESPACE.to_owned(),
                aws: in_process::config(REGION, link.aws()),
                clock: Arc::new(move || time.wall()),
                instance: identity(by),
                identity: identity(by),
                stop: stop_receiver,
            };
            let replica = Replica::new(&options(world, pacing), dependencies);
            (tokio::spawn(replica.run()), (now, Instant::now()))
        });
        Self { runtime, link, stop, work, began, paused_until: None }
    }

    /// Runs the process from `at` to `until`. Returns the halt that one of its requests triggered,
    /// if any.
    pub fn step(&mut self, world: &World, at: Duration, until: Duration) -> Option<Halt> {
        if self.paused_until.is_some_and(|end| at < end) {
            return None;
        }
        self.paused_until = None;
        self.link.resume();
        let local = |time: Duration| self.began.1 + time.saturating_sub(self.began.0);
        let (begin, end) = (local(at), local(until));
        self.runtime.block_on(async {
            world.time.begin_step(at, begin);
            // The clock of the process jumps after a pause.
            let lag = begin.saturating_duration_since(Instant::now());
            if !lag.is_zero() {
                advance(lag).await;
            }
            tokio::select! {
                biased;
                () = self.link.interrupted.notified() => {}
                () = sleep_until(end) => {}
            }
        });
        self.link.take_halt()
    }

    pub fn pause(&mut self, until: Duration) {
        self.link.stop();
        self.paused_until = Some(until);
    }

    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn has_ended(&self) -> bool {
        self.work.is_finished()
    }
}
