//! A deploy beside whoever deregisters: it registers revisions at half of the bucket's rate, and counts how often it is throttled.

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

/// What became of the deploy's calls.
#[derive(Clone, Copy, Default)]
pub struct Deployed {
    pub calls: u32,
    pub throttled: u32,
}

/// A deploy at work, until ended.
pub struct Deploy {
    began: Instant,
    deployed: watch::Receiver<Deployed>,
    task: JoinHandle<()>,
}

impl Deploy {
    /// Begins to register once every two seconds of a bucket that runs `speed` times as fast.
    pub fn begin(ecs: &SimulatedEcs, speed: f64) -> Self {
        let client = client(ecs, RetryConfig::disabled());
        let (tell, deployed) = watch::channel(Deployed::default());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs_f64(2.0 / speed));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let container = ContainerDefinition::builder().name("app").image("app").build();
                let call = client.register_task_definition().family("deployed");
                let throttled = call.container_definitions(container).send().await.is_err();
                tell.send_modify(|deployed| {
                    deployed.calls += 1;
                    deployed.throttled += u32::from(throttled);
                });
            }
        });
        Self { began: Instant::now(), deployed, task }
    }

    /// Waits for its `calls`th call; gives how long it took until then.
    pub async fn ended_after(&self, calls: u32) -> Duration {
        self.deployed.clone().wait_for(|deployed| deployed.calls >= calls).await.ok();
        self.began.elapsed()
    }

    pub async fn end(self) -> Result<Deployed, Failure> {
        self.task.abort();
        match self.task.await {
            Err(ended) if ended.is_panic() => Err("the deploy has a defect".into()),
            _ => Ok(*self.deployed.borrow()),
        }
    }
}

/// The SDK's own client, with these retries.
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
