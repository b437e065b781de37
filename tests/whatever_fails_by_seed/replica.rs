//! A process of the controller in a run: the real replica on a runtime of its own, whose paused clock moves in turns.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ecs_retirement_controller::{
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

use super::{
    journal::Process,
    link::Link,
    people::REGION,
    schedule::Halt,
    world::{NAMESPACE, World},
};

pub struct Running {
    runtime: Runtime,
    link: Arc<Link>,
    stop: watch::Sender<bool>,
    work: JoinHandle<()>,
    /// When it began, by the time of the run and by its own clock.
    began: (Duration, Instant),
    /// Until when it is stopped in its tracks.
    paused_until: Option<Duration>,
}

pub fn identity((slot, process): Process) -> String {
    format!("replica-{slot}-{process}")
}

fn options(world: &World, pacing: Pacing) -> Options {
    let election = Election { namespace: Some(NAMESPACE.to_owned()), id: "controller".to_owned() };
    Options {
        allowed_accounts: BTreeSet::new(),
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
        let runtime = runtime.expect("a runtime can be built");
        let link = Link::new(by, world.clone());
        let (stop, told) = watch::channel(false);
        let now = world.time.now();
        let (work, began) = runtime.block_on(async {
            let wire = link.clone();
            let service = service_fn(move |request| wire.clone().kubernetes(request));
            let time = world.time.clone();
            let dependencies = Dependencies {
                client: kubernetes::bounded(ClientBuilder::new(service, NAMESPACE)),
                own_namespace: NAMESPACE.to_owned(),
                aws: in_process::config(REGION, link.aws()),
                clock: Arc::new(move || time.wall()),
                instance: identity(by),
                identity: identity(by),
                stop: told,
            };
            let replica = Replica::new(&options(world, pacing), dependencies);
            (tokio::spawn(replica.run()), (now, Instant::now()))
        });
        Self { runtime, link, stop, work, began, paused_until: None }
    }

    /// Lets it run from `at` to `until`. What is to happen to it, if a request brought that about.
    pub fn turn(&mut self, world: &World, at: Duration, until: Duration) -> Option<Halt> {
        if self.paused_until.is_some_and(|end| at < end) {
            return None;
        }
        self.paused_until = None;
        self.link.resume();
        let mine = |time: Duration| self.began.1 + time.saturating_sub(self.began.0);
        let (begin, end) = (mine(at), mine(until));
        self.runtime.block_on(async {
            world.time.begin_turn(at, begin);
            // After a pause, its clock jumps.
            let behind = begin.saturating_duration_since(Instant::now());
            if !behind.is_zero() {
                advance(behind).await;
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

    pub fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn has_ended(&self) -> bool {
        self.work.is_finished()
    }
}
