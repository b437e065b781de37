//! The state of the simulation, and the processing of every call.

use super::{
    action::Action,
    call_log::{Call, Outcome},
    caller::{Caller, Location},
    clusters::{self, Clusters},
    credentials::Credentials,
    fault::{Effect, Faults, Subject},
    hooks::Hooks,
    reply::{CallResult, Done, Failure, Reply},
    request::Request,
    roles::Roles,
    security_token, service_deployments, services,
    store::TaskDefinitions,
    task_definition_list, task_definitions, tasks,
    throttling::Throttling,
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// All state, shared by the server and the handles of a test.
pub(super) struct Simulation {
    state: Mutex<State>,
    /// Changes whenever the log grows.
    pub(super) calls_logged: watch::Sender<u64>,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
    /// Seconds by which the clock of ECS is ahead of `clock`.
    skew: AtomicI64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) credentials: Credentials,
    pub(super) roles: Roles,
    pub(super) task_definitions: HashMap<Location, TaskDefinitions>,
    pub(super) clusters: HashMap<Location, Clusters>,
    pub(super) throttling: Option<Throttling>,
    pub(super) refuse_repeated_deregistration: bool,
    pub(super) faults: Faults,
    pub(super) hides_date: bool,
    pub(super) hooks: Hooks,
    pub(super) hook_panicked: bool,
    pub(super) log: Vec<Call>,
    call_count: u64,
}

/// How a response is delivered.
pub(super) enum Delivery {
    Immediate(Reply),
    Delayed(Duration, Reply),
    CutConnection,
    NoResponse,
}

/// One reading of the monotonic and the wall clock.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) time: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), time: Timestamp::now() }
    }
}

impl Simulation {
    pub(super) fn new(clock: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self {
            state: Mutex::default(),
            calls_logged: watch::Sender::new(0),
            clock: Box::new(clock),
            skew: AtomicI64::default(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        let Moment { at, time } = (self.clock)();
        Moment { at, time: time + SignedDuration::from_secs(self.skew.load(SeqCst)) }
    }

    pub(super) fn set_skew(&self, skew: SignedDuration) {
        self.skew.store(skew.as_secs(), SeqCst);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the mutex is not poisoned")
    }

    /// Runs the hooks of a call and carries it out; returns how to deliver the response.
    pub(super) async fn process(self: Arc<Self>, request: Request) -> Delivery {
        let hooks = {
            let mut state = self.lock();
            match state.credentials.authenticate(&request, self.now().at) {
                Ok(_) => state.hooks.take_due(request.action),
                Err(_) => Vec::new(),
            }
        };
        for hook in hooks {
            if tokio::spawn(hook).await.is_err() {
                self.lock().hook_panicked = true;
            }
        }
        self.carry_out(&request)
    }

    /// Carries out a call without hooks; returns how to deliver the response.
    pub(super) fn carry_out(&self, request: &Request) -> Delivery {
        let delivery = {
            let mut state = self.lock();
            // Read under the lock, so that timestamps are in the order of the log.
            let now = self.now();
            state.carry_out(request, now)
        };
        self.calls_logged.send_modify(|calls| *calls += 1);
        delivery
    }
}

/// Formats a time as a `Date` header (RFC 9110).
fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

impl State {
    pub(super) fn task_definitions(&mut self, caller: &Caller) -> &mut TaskDefinitions {
        self.task_definitions.entry(caller.location()).or_default()
    }

    pub(super) fn clusters(&mut self, caller: &Caller) -> &mut Clusters {
        self.clusters.entry(caller.location()).or_default()
    }

    /// Processes a call under one lock, so that calls take effect one at a time.
    fn carry_out(&mut self, request: &Request, now: Moment) -> Delivery {
        let task_definitions = request.task_definitions();
        let caller = self.credentials.authenticate(request, now.at);
        let (effect, result) = match &caller {
            Err(failure) => (None, Err(failure.clone())),
            Ok(caller) => {
                let effect = self.faults.effect_of(&Subject::new(request, caller));
                let result = match &effect {
                    Some(Effect::Refuse(refusal)) => Err(refusal.failure(request, caller)),
                    Some(Effect::Hang) => Ok(Done::empty()),
                    Some(Effect::DropReply | Effect::Delay(_)) | None => self.perform(request, caller, now),
                };
                (effect, result)
            }
        };
        let changed = matches!(&result, Ok(done) if done.changed);
        let logged = match &result {
            Ok(_) => Outcome::Ok,
            Err(failure) => Outcome::Error(failure.code.clone()),
        };
        self.call_count += 1;
        let request_id = format!("00000000-0000-4000-8000-{:012x}", self.call_count);
        // The HTTP server adds a missing date, so a hidden date is sent as an unreadable one.
        let date = if self.hides_date { "unknown".to_owned() } else { http_date(now.time) };
        let reply = Reply::new(request, request_id.clone(), date, result);
        let (outcome, delivery) = match effect {
            None | Some(Effect::Refuse(_)) => (logged, Delivery::Immediate(reply)),
            Some(Effect::Delay(delay)) => (logged, Delivery::Delayed(delay, reply)),
            Some(Effect::DropReply) => (Outcome::Dropped, Delivery::CutConnection),
            Some(Effect::Hang) => (Outcome::Hung, Delivery::NoResponse),
        };
        let (access_key, region) = request
            .scope
            .as_ref()
            .map(|scope| (scope.access_key.clone(), scope.region.clone()))
            .unwrap_or_default();
        self.log.push(Call {
            sequence: self.call_count,
            at: now.at,
            time: now.time,
            action: request.action,
            account: caller.as_ref().ok().map(|caller| caller.account.clone()),
            caller: caller.as_ref().ok().map(Caller::arn),
            role: caller.as_ref().ok().and_then(Caller::role),
            role_to_assume: request.role_to_assume().map(str::to_owned),
            region,
            access_key,
            task_definition: (!task_definitions.is_empty()).then(|| task_definitions.join(",")),
            outcome,
            request_id,
            changed,
        });
        delivery
    }

    fn perform(&mut self, request: &Request, caller: &Caller, now: Moment) -> CallResult {
        if let (Some(throttling), Some(bucket)) = (&mut self.throttling, request.action.bucket())
            && !throttling.try_take(&caller.location(), bucket, now.at)
        {
            return Err(Failure::throttled(request.service));
        }
        let Some(input) = &request.input else {
            let message = "the body is not a JSON object";
            return Err(Failure::new("SerializationException", message));
        };
        let refuse_repeated = self.refuse_repeated_deregistration;
        let store = self.task_definitions(caller);
        match request.action {
            Action::DescribeTaskDefinition => task_definitions::describe(store, caller, input),
            Action::DeregisterTaskDefinition => {
                task_definitions::deregister(store, caller, input, now.time, refuse_repeated)
            }
            Action::RegisterTaskDefinition => task_definitions::register(store, caller, input, now.time),
            Action::ListTaskDefinitions => task_definition_list::list(store, caller, input),
            Action::ListTaskDefinitionFamilies => task_definition_list::list_families(store, input),
            Action::DeleteTaskDefinitions => task_definitions::delete(store, caller, input, now.time),
            Action::ListClusters => clusters::list(self.clusters(caller), caller, input),
            Action::ListServices => services::list(self.clusters(caller), caller, input),
            Action::DescribeServices => services::describe(self.clusters(caller), caller, input),
            Action::ListTasks => tasks::list(self.clusters(caller), caller, input, now.time),
            Action::DescribeTasks => tasks::describe(self.clusters(caller), caller, input, now.time),
            Action::ListServiceDeployments => service_deployments::list(self.clusters(caller), caller, input),
            Action::DescribeServiceDeployments => {
                service_deployments::describe(self.clusters(caller), caller, input)
            }
            Action::DescribeServiceRevisions => {
                service_deployments::describe_revisions(self.clusters(caller), caller, input)
            }
            Action::AssumeRole => security_token::assume_role(
                &self.roles,
                &mut self.credentials,
                caller,
                input,
                now,
                self.call_count,
            ),
            Action::AssumeRoleWithWebIdentity => Ok(security_token::assume_role_with_web_identity(
                &mut self.credentials,
                caller,
                now,
                self.call_count,
            )),
            Action::GetCallerIdentity => Ok(security_token::get_caller_identity(caller)),
            Action::Unknown => Err(Failure::unknown_action(request.service, &request.action_name)),
        }
    }
}
