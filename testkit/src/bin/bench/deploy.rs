//! A deploy that registers revisions at half of the bucket's rate, and counts how often it is
//! throttled.

use std::time::{Duration, Instant};

use aws_sdk_ecs::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    types::ContainerDefinition,
};
use testkit::{
    sdk,
    simulated_ecs::{ACCESS_KEY, SimulatedEcs},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::world::Failure;

/// The calls of the deploy, in total and throttled.
#[derive(Clone, Copy, Default)]
pub struct Deployed {
    pub calls: u32,
    pub throttled: u32,
}

/// A running deploy, until [`Deploy::stop`].
pub struct Deploy {
    began: Instant,
    deployed: watch::Receiver<Deployed>,
    task: JoinHandle<()>,
}

impl Deploy {
    /// Starts registering one revision every two seconds of the bucket's clock, which runs `speed`
    /// times as fast as real time.
    pub fn start(ecs: &SimulatedEcs, speed: f64) -> Self {
        let client = client(ecs, RetryConfig::disabled());
        let (sender, deployed) = watch::channel(Deployed::default());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs_f64(2.0 / speed));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let container = ContainerDefinition::builder().name("app").image("app").build();
                let call = client.register_task_definition().family("deployed");
                let throttled = call.container_definitions(container).send().await.is_err();
                sender.send_modify(|deployed| {
                    deployed.calls += 1;
                    deployed.throttled += u32::from(throttled);
                });
            }
        });
        Self { began: Instant::now(), deployed, task }
    }

    /// Waits until the deploy has made `calls` calls, and returns the time since its start.
    pub async fn wait_for_calls(&self, calls: u32) -> Duration {
        self.deployed.clone().wait_for(|deployed| deployed.calls >= calls).await.ok();
        self.began.elapsed()
    }

    pub async fn stop(self) -> Result<Deployed, Failure> {
        self.task.abort();
        match self.task.await {
            Err(ended) if ended.is_panic() => Err("the deploy panicked".into()),
            _ => Ok(*self.deployed.borrow()),
        }
    }
}

/// Returns a client of the SDK with this retry configuration.
pub fn client(ecs: &SimulatedEcs, retries: RetryConfig) -> Client {
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(sdk::http_client())
        .endpoint_url(ecs.endpoint())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new(ACCESS_KEY, "secret", None, None, "bench"))
        .retry_config(retries)
        .build();
    Client::from_conf(config)
}
