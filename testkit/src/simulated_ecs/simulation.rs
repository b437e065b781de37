//! The state of the simulation, and the one way through it that every call takes.

use super::{
    action::Action,
    call_log::{Call, Outcome},
    caller::Caller,
    clusters::{self, Clusters},
    fault::{Effect, Faults},
    hooks::Hooks,
    reply::{Answer, Done, Failure, Reply},
    request::Request,
    security_token, service_deployments, services,
    store::TaskDefinitions,
    task_definition_list, task_definitions, tasks,
    throttling::Throttling,
};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// All state, shared between the server and the handles of a test.
pub(super) struct Simulation {
    state: Mutex<State>,
    /// Changes whenever the log grows.
    pub(super) calls_logged: watch::Sender<u64>,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) accounts: HashMap<String, String>,
    pub(super) regions: HashMap<Caller, TaskDefinitions>,
    pub(super) clusters: HashMap<Caller, Clusters>,
    pub(super) throttling: Option<Throttling>,
    pub(super) refuse_repeated_deregistration: bool,
    pub(super) faults: Faults,
    pub(super) hooks: Hooks,
    pub(super) hook_panicked: bool,
    pub(super) log: Vec<Call>,
    calls_taken: u64,
}

/// How an answer gets to the caller, or does not.
pub(super) enum Delivery {
    Now(Reply),
    Late(Duration, Reply),
    CutConnection,
    Never,
}

/// One reading of both clocks.
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
        Self { state: Mutex::default(), calls_logged: watch::Sender::new(0), clock: Box::new(clock) }
    }

    pub(super) fn now(&self) -> Moment {
        (self.clock)()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Takes a call all the way, hooks included, up to the delivery of its answer.
    pub(super) async fn take_call(self: Arc<Self>, request: Request) -> Delivery {
        let hooks = {
            let mut state = self.lock();
            match state.authenticate(&request) {
                Ok(_) => state.hooks.due(request.action),
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

    /// Takes a call up to the delivery of its answer, hooks left out.
    pub(super) fn carry_out(&self, request: &Request) -> Delivery {
        let delivery = {
            let mut state = self.lock();
            // Read under the lock, so that the times in the log rise with its order.
            let now = self.now();
            state.carry_out(request, now)
        };
        self.calls_logged.send_modify(|calls| *calls += 1);
        delivery
    }
}

impl State {
    pub(super) fn task_definitions(&mut self, caller: &Caller) -> &mut TaskDefinitions {
        self.regions.entry(caller.clone()).or_default()
    }

    pub(super) fn clusters(&mut self, caller: &Caller) -> &mut Clusters {
        self.clusters.entry(caller.clone()).or_default()
    }

    /// Everything but the waiting: under one lock, so that calls take effect one by one.
    fn carry_out(&mut self, request: &Request, now: Moment) -> Delivery {
        let named = request.task_definitions();
        let caller = self.authenticate(request);
        let account = caller.as_ref().ok().map(|caller| caller.account.clone());
        let (effect, answer) = match caller {
            Err(failure) => (None, Err(failure)),
            Ok(caller) => {
                let effect = self.faults.strike(request.action, &named);
                let answer = match &effect {
                    Some(Effect::Refuse(refusal)) => Err(refusal.failure(request, &caller)),
                    Some(Effect::Hang) => Ok(Done::nothing()),
                    Some(Effect::DropReply | Effect::Delay(_)) | None => self.perform(request, &caller, now),
                };
                (effect, answer)
            }
        };
        let changed = matches!(&answer, Ok(done) if done.changed);
        let result = match &answer {
            Ok(_) => Outcome::Ok,
            Err(failure) => Outcome::Error(failure.code.clone()),
        };
        self.calls_taken += 1;
        let request_id = format!("00000000-0000-4000-8000-{:012x}", self.calls_taken);
        let reply = Reply::new(request, request_id.clone(), answer);
        let (outcome, delivery) = match effect {
            None | Some(Effect::Refuse(_)) => (result, Delivery::Now(reply)),
            Some(Effect::Delay(delay)) => (result, Delivery::Late(delay, reply)),
            Some(Effect::DropReply) => (Outcome::Dropped, Delivery::CutConnection),
            Some(Effect::Hang) => (Outcome::Hung, Delivery::Never),
        };
        let (access_key, region) = request
            .scope
            .as_ref()
            .map(|scope| (scope.access_key.clone(), scope.region.clone()))
            .unwrap_or_default();
        self.log.push(Call {
            sequence: self.calls_taken,
            at: now.at,
            time: now.time,
            action: request.action,
            account,
            region,
            access_key,
            task_definition: (!named.is_empty()).then(|| named.join(",")),
            outcome,
            request_id,
            changed,
        });
        delivery
    }

    fn authenticate(&self, request: &Request) -> Result<Caller, Failure> {
        let service = request.service;
        if let Some(caller) = request.web_identity() {
            return Ok(caller);
        }
        let Some(scope) = &request.scope else {
            return Err(Failure::unsigned(service));
        };
        if scope.service != service.name() {
            return Err(Failure::signed_for_another_service(service));
        }
        match self.accounts.get(&scope.access_key) {
            Some(account) => Ok(Caller { account: account.clone(), region: scope.region.clone() }),
            None => Err(Failure::unknown_access_key(service)),
        }
    }

    fn perform(&mut self, request: &Request, caller: &Caller, now: Moment) -> Answer {
        if let (Some(throttling), Some(bucket)) = (&mut self.throttling, request.action.bucket())
            && !throttling.take(caller, bucket, now.at)
        {
            return Err(Failure::throttled(request.service));
        }
        let Some(input) = &request.input else {
            let message = "the body is no JSON object";
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
            Action::DeleteTaskDefinitions => task_definitions::delete(store, caller, input, now.time),
            Action::ListClusters => clusters::list(self.clusters(caller), caller, input),
            Action::ListServices => services::list(self.clusters(caller), caller, input),
            Action::DescribeServices => services::describe(self.clusters(caller), caller, input),
            Action::ListTasks => tasks::list(self.clusters(caller), caller, input),
            Action::DescribeTasks => tasks::describe(self.clusters(caller), caller, input),
            Action::ListServiceDeployments => service_deployments::list(self.clusters(caller), caller, input),
            Action::DescribeServiceDeployments => {
                service_deployments::describe(self.clusters(caller), caller, input)
            }
            Action::DescribeServiceRevisions => {
                service_deployments::describe_revisions(self.clusters(caller), caller, input)
            }
            Action::AssumeRoleWithWebIdentity => {
                let access_key = format!("ASIASIMULATED{:07}", self.calls_taken);
                self.accounts.insert(access_key.clone(), caller.account.clone());
                Ok(security_token::assume_role_with_web_identity(caller, &access_key, now.time))
            }
            Action::GetCallerIdentity => Ok(security_token::get_caller_identity(caller)),
            Action::Unknown => Err(Failure::unknown_action(request.service, &request.action_name)),
        }
    }
}
