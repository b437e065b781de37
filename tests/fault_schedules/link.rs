//! The connections of a process to the API server and to AWS, into which scheduled faults are
//! injected.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, Bytes},
    http::{Request, Response},
};
use futures::{FutureExt, future::pending, stream};
use serde_json::{Value, json};
use testkit::{
    model_api::{self, ApiRequest, Verb, Watch},
    simulated_ecs::in_process::{self, Received, Sent, Transport},
};
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep},
};

use super::{
    schedule::{Effect, Halt, Target, When, Window},
    world::{AwsCall, World},
};
use crate::support::invariants::Process;

/// Minimum duration of a request to Kubernetes and of a call to AWS.
const LATENCY: Duration = Duration::from_millis(2);
const AWS_LATENCY: Duration = Duration::from_millis(10);

/// The connections of one process.
pub struct Link {
    pub by: Process,
    pub world: Arc<World>,
    state: Mutex<State>,
    pub interrupted: Notify,
}

#[derive(Default)]
struct State {
    /// Number of requests by name.
    request_counts: HashMap<String, u64>,
    halt: Option<Halt>,
    is_stopped: bool,
}

impl Link {
    pub fn new(by: Process, world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { by, world, state: Mutex::default(), interrupted: Notify::new() })
    }

    /// Takes the halt that a request triggered, if any.
    pub fn take_halt(&self) -> Option<Halt> {
        self.lock().halt.take()
    }

    pub fn stop(&self) {
        self.lock().is_stopped = true;
    }

    pub fn resume(&self) {
        self.lock().is_stopped = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of that name and returns its number, from 1.
    fn nth(&self, name: &str) -> u64 {
        let mut state = self.lock();
        let nth = state.request_counts.entry(name.to_owned()).or_default();
        *nth += 1;
        *nth
    }

    fn next_fault(&self, target: Target, name: &str) -> Option<Effect> {
        let nth = self.nth(&format!("{target:?} {name}"));
        let now = self.world.time.now();
        let (_, window) = self.world.schedule.fault_for(target, self.by.0, now, (name, nth))?;
        self.world.journal().record_injected(&window);
        Some(window.effect)
    }

    /// Halts the process if a halt is scheduled for this moment.
    async fn checkpoint(&self, moment: When) {
        let Some(halt) = self.world.due(self.by.0, moment) else { return };
        self.lock().halt = Some(halt);
        self.interrupted.notify_one();
        match halt {
            Halt::Crash(_) => pending().await,
            Halt::Pause(_) => {
                self.stop();
                // Until the process resumes, it is polled only for the rest of the current step.
                while self.lock().is_stopped {
                    yield_now().await;
                }
            }
            Halt::HandOver(_) => {}
        }
    }

    /// Carries out a request subject to the scheduled fault. Returns `None` if the connection
    /// broke.
    async fn carry<T>(&self, target: Target, name: &str, act: impl FnOnce(Option<Effect>) -> T) -> Option<T> {
        let nth = self.world.count(self.by.0);
        let wait = Wait { link: self, began: Instant::now(), at: self.world.time.now() };
        let effect = self.next_fault(target, name);
        self.checkpoint(When::Before(nth)).await;
        sleep(if target == Target::Kubernetes { LATENCY } else { AWS_LATENCY }).await;
        match effect {
            Some(Effect::Delay(delay)) => sleep(delay).await,
            Some(Effect::Hang) => pending().await,
            Some(Effect::DropRequest) => return None,
            _ => {}
        }
        let response = act(effect);
        self.checkpoint(When::After(nth)).await;
        match effect {
            Some(Effect::DelayReply(delay)) => sleep(delay).await,
            Some(Effect::DropReply) => return None,
            _ => {}
        }
        drop(wait);
        Some(response)
    }

    /// Sends a request to the API server.
    ///
    /// # Errors
    /// Returns an error if the connection broke.
    pub async fn kubernetes(
        self: Arc<Self>,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Body>, BoxError> {
        let request = ApiRequest::receive(request).await?;
        let name = format!("{:?} {} {:?}", request.verb, request.plural, request.name);
        let rejection_of = |effect| match effect {
            // Only writes can conflict, and only lists and watches use a version that can expire.
            Effect::Refuse(409) if !matches!(request.verb, Verb::ApplyStatus | Verb::Replace) => None,
            Effect::Refuse(410) if !matches!(request.verb, Verb::List | Verb::Watch) => None,
            Effect::Refuse(code) => Some(rejection(code)),
            _ => None,
        };
        let act = |effect: Option<Effect>| {
            effect.and_then(rejection_of).unwrap_or_else(|| self.world.kubernetes(self.by, &request))
        };
        let response = self.carry(Target::Kubernetes, &name, act).await;
        match response.ok_or("the connection broke")? {
            model_api::ApiResponse::Whole(status, body) => {
                let response = Response::builder().status(status).header("content-type", "application/json");
                Ok(response.body(Body::from(body.to_string()))?)
            }
            model_api::ApiResponse::Watch(watch) => {
                let effect = self.next_fault(Target::Watches, "watch");
                let events = Events { link: self.clone(), watch, effect, delivered: 0, repeated: None };
                let chunks = stream::unfold(events, |mut events| async {
                    let chunk = events.next().await?;
                    Some((Ok::<_, Infallible>(Bytes::from(format!("{chunk}\n"))), events))
                });
                Ok(Response::new(Body::from_stream(chunks)))
            }
        }
    }

    /// Returns the transport to AWS.
    pub fn aws(self: &Arc<Self>) -> Transport {
        let link = self.clone();
        Arc::new(move |sent| {
            let link = link.clone();
            async move { link.call(sent).await }.boxed()
        })
    }

    async fn call(&self, sent: Sent) -> Option<Received> {
        let target = sent.headers.get("x-amz-target").and_then(|it| it.to_str().ok());
        let form =
            || std::str::from_utf8(&sent.body).ok()?.split('&').find_map(|it| it.strip_prefix("Action="));
        let action = target.or_else(form).unwrap_or_default().rsplit('.').next().unwrap_or_default();
        let input: Value = serde_json::from_slice(&sent.body).unwrap_or_default();
        let name = format!("{action} {}", input["taskDefinition"].as_str().unwrap_or_default());
        let call = AwsCall { by: self.by, began: self.world.time.now(), action, input: &input, sent: &sent };
        let act = |effect| match self.world.aws(&call, effect) {
            in_process::Answer::Now(received) => Some(received),
            _ => None,
        };
        let target = if action == "AssumeRole" { Target::AssumeRole } else { Target::Aws };
        self.carry(target, &name, act).await.flatten()
    }
}

fn rejection(code: u16) -> model_api::ApiResponse {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let (code, body) = model_api::failure(code, reason, "injected by the schedule");
    model_api::ApiResponse::Whole(code, body)
}

/// A pending request, which records its duration when dropped.
struct Wait<'a> {
    link: &'a Link,
    began: Instant,
    at: Duration,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let (waited, now) = (self.began.elapsed(), self.link.world.time.now());
        let mut journal = self.link.world.journal();
        // The clock of a paused process jumps, so that the wait is not meaningful.
        if !journal.was_paused(self.link.by.0, self.at, now) {
            journal.longest_wait = journal.longest_wait.max(waited);
        }
    }
}

/// The events of one watch, and the fault that is injected into them.
struct Events {
    link: Arc<Link>,
    watch: Watch,
    effect: Option<Effect>,
    delivered: u32,
    repeated: Option<Value>,
}

impl Events {
    async fn next(&mut self) -> Option<Value> {
        if let Some(repeated) = self.repeated.take() {
            return Some(repeated);
        }
        match self.effect {
            Some(Effect::CutWatch(count)) if self.delivered >= count => {
                // Events of these two seconds are lost with the connection. The next watch delivers
                // them.
                sleep(Duration::from_secs(2)).await;
                return None;
            }
            Some(Effect::ExpireWatch) => {
                self.effect = Some(Effect::CutWatch(0));
                let (_, status) = model_api::failure(410, "Expired", "too old resource version");
                return Some(json!({ "type": "ERROR", "object": status }));
            }
            _ => {}
        }
        let event = self.watch.next().await?;
        if let Some(Effect::DelayEvents(delay)) = self.effect {
            sleep(delay).await;
        }
        // A disconnected replica receives no events.
        while let Some(until) = self.disconnected_until() {
            sleep(until.saturating_sub(self.link.world.time.now()).max(Duration::from_millis(1))).await;
        }
        self.delivered += 1;
        self.link.world.journal().events += 1;
        if self.effect == Some(Effect::RepeatEvents) {
            self.repeated = Some(event.clone());
        }
        Some(event)
    }

    fn disconnected_until(&self) -> Option<Duration> {
        let (now, slot) = (self.link.world.time.now(), self.link.by.0);
        let disconnects = |window: &&Window| {
            window.target == Target::Kubernetes
                && window.percent == 100
                && matches!(window.effect, Effect::Hang | Effect::DropRequest)
                && window.slot.is_none_or(|it| it == slot)
                && (window.from..window.until).contains(&now)
        };
        self.link.world.schedule.windows.iter().find(disconnects).map(|window| window.until)
    }
}
