//! The same retirements with the calls that other tools make, on the same bucket: alone, and beside
//! a deploy.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_ecs::{Client, config::retry::RetryConfig};
use futures::future::join_all;
use testkit::simulated_ecs::{ACCOUNT, Action, SimulatedEcs};
use tokio::{
    sync::Semaphore,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    deploy::{self, Deploy},
    report::{Peer, seconds},
    world::{Failure, throttled},
};

/// Speed of the buckets relative to real time. The pauses of the tools are shortened by the same
/// factor.
pub const SPEED: f64 = 20.0;

const REVISIONS: usize = 1000;
const WORKERS: usize = 10;

/// Time limit of a tool: almost two hours on the clock of the bucket.
const LIMIT: Duration = Duration::from_secs(340);

/// A way to deregister a list of revisions.
#[derive(Clone, Copy)]
pub enum Tool {
    /// A shell loop over the AWS command line, with a pause of one second after each call.
    Loop,
    /// Ten concurrent calls, each with the SDK's standard retries. Revisions that still fail go to
    /// the end of the list.
    SdkRetries,
    /// A Go controller: ten workers, one attempt per call, and the default rate limiter of the
    /// workqueue.
    Requeue,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Loop => "a loop with a pause of 1 s",
            Self::SdkRetries => "10 calls at once, the SDK's standard retries",
            Self::Requeue => "10 workers, exponential requeue from 5 ms to 1,000 s",
        }
    }

    fn retries(self) -> RetryConfig {
        match self {
            Self::Loop | Self::Requeue => RetryConfig::disabled(),
            Self::SdkRetries => RetryConfig::standard()
                .with_initial_backoff(scaled(Duration::from_secs(1)))
                .with_max_backoff(scaled(Duration::from_secs(20))),
        }
    }

    async fn work(self, client: &Client, revisions: Vec<String>) {
        match self {
            Self::Loop => {
                for revision in revisions {
                    while !deregister(client, &revision).await {
                        sleep(scaled(Duration::from_secs(1))).await;
                    }
                    sleep(scaled(Duration::from_secs(1))).await;
                }
            }
            Self::SdkRetries => {
                let list = Mutex::new(VecDeque::from(revisions));
                let lock = || list.lock().unwrap_or_else(PoisonError::into_inner);
                join_all((0..WORKERS).map(|_| async {
                    while let Some(revision) = { lock().pop_front() } {
                        if !deregister(client, &revision).await {
                            lock().push_back(revision);
                        }
                    }
                }))
                .await;
            }
            Self::Requeue => {
                let (workers, limiter) = (Semaphore::new(WORKERS), Limiter::new());
                join_all(revisions.iter().map(|revision| async {
                    for failures in 0.. {
                        let worker = workers.acquire().await;
                        if deregister(client, revision).await {
                            break;
                        }
                        drop(worker);
                        sleep_until(limiter.when(failures).into()).await;
                    }
                }))
                .await;
            }
        }
    }
}

/// The default rate limiter of client-go's workqueue: the later of an exponential backoff from 5 ms
/// to 1,000 s, and a bucket of ten a second with a burst of 100.
struct Limiter {
    next: Mutex<Instant>,
}

impl Limiter {
    const PERIOD: Duration = Duration::from_millis(100);

    fn new() -> Self {
        Self { next: Mutex::new(Instant::now()) }
    }

    fn when(&self, failures: i32) -> Instant {
        let now = Instant::now();
        let backoff = (0.005 * 2_f64.powi(failures)).min(1000.0);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now.checked_sub(scaled(Self::PERIOD * 100)).unwrap_or(now);
        *next = (*next).max(full) + scaled(Self::PERIOD);
        (*next).max(now + scaled(Duration::from_secs_f64(backoff)))
    }
}

fn scaled(pause: Duration) -> Duration {
    pause.div_f64(SPEED)
}

async fn deregister(client: &Client, revision: &str) -> bool {
    client.deregister_task_definition().task_definition(revision).send().await.is_ok()
}

/// One run, alone or beside a deploy.
struct Run {
    seconds: f64,
    done: usize,
    throttled: usize,
    deploy: deploy::Deployed,
}

pub async fn measure(tool: Tool) -> Result<Peer, Failure> {
    let (alone, beside) = tokio::join!(run(tool, false), run(tool, true));
    let (alone, beside) = (alone?, beside?);
    let text = |run: &Run| {
        let done = if run.done == REVISIONS { String::new() } else { format!("{} done in ", run.done) };
        format!("{done}{}, {} throttled", seconds(run.seconds), run.throttled)
    };
    let deploy = format!("; the deploy: {} of {}", beside.deploy.throttled, beside.deploy.calls);
    Ok(Peer { name: tool.name().to_owned(), alone: text(&alone), beside: text(&beside) + &deploy })
}

async fn run(tool: Tool, has_deploy: bool) -> Result<Run, Failure> {
    let ecs = SimulatedEcs::start().await;
    ecs.region(ACCOUNT, "us-west-2").register_many("web", REVISIONS);
    ecs.throttle(SPEED);
    let client = deploy::client(&ecs, tool.retries());
    let deploy = has_deploy.then(|| Deploy::start(&ecs, SPEED));
    let revisions = (1..=REVISIONS).map(|number| format!("web:{number}")).collect();
    let began = Instant::now();
    let in_time = timeout(LIMIT, tool.work(&client, revisions)).await.is_ok();
    let lasted = if in_time { began.elapsed() } else { LIMIT };
    let deploy = match deploy {
        Some(deploy) => deploy.stop().await?,
        None => deploy::Deployed::default(),
    };
    let calls = ecs.calls_of(Action::DeregisterTaskDefinition);
    Ok(Run {
        seconds: lasted.as_secs_f64() * SPEED,
        done: calls.iter().filter(|call| call.changed).count(),
        throttled: throttled(&calls),
        deploy,
    })
}
