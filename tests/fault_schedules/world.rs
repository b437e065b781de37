//! The environment of a run: the API server, ECS, and the actual state of both, which the oracle
//! needs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::Bytes, http::HeaderMap};
use serde_json::{Value, json};
use testkit::{
    model_api::{ApiRequest, ApiResponse, ModelApi, Verb},
    simulated_ecs::{
        ACCESS_KEY, ACCOUNT, Action, Fault, Outcome, Region, Service, SimulatedEcs, Task, Vanished,
        in_process::{self, Sent},
    },
};

use super::{
    journal::Journal,
    schedule::{Effect, Halt, Schedule, Slot, When},
    time::Time,
    users::{REGION, UserAction},
};
use crate::support::invariants::{Deregistered, Entry, Operation, Process, short};

pub const NAMESPACE: &str = "platform";
pub const RETIREMENTS: &str = "taskdefinitionretirements";
const LEASES: &str = "leases";

pub struct World {
    pub time: Arc<Time>,
    pub api: ModelApi,
    pub ecs: SimulatedEcs,
    pub west: Region,
    pub schedule: Schedule,
    journal: Mutex<Journal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of requests of each replica, in all its processes.
    requests: BTreeMap<Slot, u64>,
    /// Indices of the halts in the schedule that have been triggered.
    triggered_halts: HashSet<usize>,
    /// Start of the usage of each revision, by the name of the task or service.
    used_since: BTreeMap<String, BTreeMap<String, Duration>>,
}

impl World {
    pub fn new(schedule: Schedule, families: &BTreeMap<String, usize>) -> Arc<Self> {
        let time = Arc::new(Time::default());
        let (for_api, for_ecs) = (time.clone(), time.clone());
        let api = ModelApi::new(move || for_api.wall());
        let ecs = SimulatedEcs::in_process(move || for_ecs.wall());
        ecs.throttle(1.0);
        let west = ecs.region(ACCOUNT, REGION);
        west.cluster("prod");
        // ECS lists a deleted cluster for days.
        west.cluster("gone").vanish(Vanished::NotFound);
        for (family, count) in families {
            west.register_many(family, *count);
        }
        let (journal, state) = (Mutex::default(), Mutex::default());
        Arc::new(Self { time, api, ecs, west, schedule, journal, state })
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of a replica and returns its number, from 1.
    pub fn count(&self, slot: Slot) -> u64 {
        let mut state = self.state();
        let count = state.requests.entry(slot).or_default();
        *count += 1;
        *count
    }

    /// Returns the halt that is due for a replica at this moment, each halt once. Returns `None`
    /// after the end of the faults.
    pub fn due(&self, slot: Slot, moment: When) -> Option<Halt> {
        if self.time.now() >= self.schedule.end {
            return None;
        }
        let is_due = |when: When| match (when, moment) {
            (When::At(at), When::At(now)) => at <= now,
            (when, moment) => when == moment,
        };
        let mut halts = self.schedule.halts.iter().enumerate();
        let (index, (_, _, halt)) = halts.find(|(index, (it, when, _))| {
            *it == slot && is_due(*when) && !self.state().triggered_halts.contains(index)
        })?;
        self.state().triggered_halts.insert(index);
        Some(*halt)
    }

    fn record(&self, by: Process, operation: Operation) {
        let at = self.time.now();
        self.journal().entries.push(Entry { at, by, operation });
    }

    /// Carries out a request to the API server.
    pub fn kubernetes(&self, by: Process, request: &ApiRequest) -> ApiResponse {
        let response = self.api.respond(request);
        if let (ApiResponse::Whole(status, body), Some(name), RETIREMENTS) =
            (&response, &request.name, request.plural.as_str())
        {
            let name = name.clone();
            match request.verb {
                Verb::Get => {
                    let object = (*status == 200).then(|| body.clone());
                    self.record(by, Operation::Read { name, began: self.time.now(), object });
                }
                Verb::ApplyStatus => {
                    let written = request.body["status"].clone();
                    self.record(by, Operation::Wrote { name, status: written, code: *status });
                }
                _ => {}
            }
        }
        response
    }

    /// Carries out a call to AWS. `effect` may inject an error.
    pub fn aws(
        &self,
        by: Process,
        action: &str,
        input: &Value,
        sent: &Sent,
        effect: Option<Effect>,
    ) -> in_process::Answer {
        if let Some(fault) = Action::named(action).and_then(|action| fault(Fault::on(action), effect?)) {
            self.ecs.fault(fault);
        }
        let response = self.ecs.answer(sent);
        self.ecs.clear_faults();
        let call = self.ecs.last_call().expect("every call is logged");
        let arn = input["taskDefinition"].as_str().unwrap_or_default().to_owned();
        let reply_is_lost = matches!(effect, Some(Effect::DropReply)) && call.outcome == Outcome::Ok;
        let outcome = if reply_is_lost { Outcome::Dropped } else { call.outcome };
        let operation = match call.action {
            Action::DescribeTaskDefinition => Operation::Described { arn, outcome },
            Action::DeregisterTaskDefinition => Operation::Deregistered(Deregistered {
                used_for: self.used_for(short(&arn)),
                arn,
                outcome,
                changed: call.changed,
                lease_holder: self.lease_holder(),
            }),
            other => Operation::Called(other.name()),
        };
        self.record(by, operation);
        response
    }

    fn used_for(&self, revision: &str) -> Option<Duration> {
        let now = self.time.now();
        let since = self.state().used_since.get(revision)?.values().min().copied()?;
        Some(now.saturating_sub(since))
    }

    /// Returns true if the revision of a row is currently in use.
    pub fn is_used(&self, row: &Value) -> bool {
        self.used_for(row["revision"].as_str().unwrap_or_default()).is_some()
    }

    /// Returns the current holder of the lease according to the API server.
    fn lease_holder(&self) -> Option<String> {
        let lease = self.api.objects(LEASES).into_iter().next()?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Performs a user action.
    pub fn perform(&self, action: &UserAction) {
        let metadata = |name: &str| json!({ "name": name });
        match action {
            UserAction::Create { name, spec } => {
                let object = json!({
                    "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement",
                    "metadata": metadata(name), "spec": spec,
                });
                self.api.make(RETIREMENTS, NAMESPACE, &object);
            }
            UserAction::Edit { name, spec } => {
                self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &Value::Null);
            }
            UserAction::Request { name, spec } => {
                let annotations = json!({ "ecs-retirement.dev/requestedAt": "now" });
                self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &annotations);
            }
            UserAction::Delete { name } => self.api.delete(RETIREMENTS, NAMESPACE, name),
            UserAction::Start { consumer, revision, is_service } => {
                let cluster = self.west.cluster("prod");
                if *is_service {
                    cluster.put_service(Service::steady(consumer, revision));
                } else {
                    cluster.put_task(Task::running(consumer, revision));
                }
                let mut state = self.state();
                state
                    .used_since
                    .entry(revision.clone())
                    .or_default()
                    .insert(consumer.clone(), self.time.now());
            }
            UserAction::Stop { consumer, is_service } => {
                let cluster = self.west.cluster("prod");
                if *is_service {
                    cluster.remove_service(consumer);
                } else {
                    cluster.remove_task(consumer);
                }
                for consumers in self.state().used_since.values_mut() {
                    consumers.remove(consumer);
                }
            }
            UserAction::Deploy => self.deploy(),
        }
    }

    /// Registers a revision, as a deploy does, which consumes the account's request rate.
    fn deploy(&self) {
        let credential =
            format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/ecs/aws4_request");
        let target = "AmazonEC2ContainerServiceV20141113.RegisterTaskDefinition";
        let mut headers = HeaderMap::new();
        headers.insert("authorization", credential.parse().expect("the header value is valid"));
        headers.insert("x-amz-target", target.parse().expect("the header value is valid"));
        let body = json!({ "family": "deployed", "containerDefinitions": [{ "name": "web" }] }).to_string();
        let response = self.ecs.answer(&Sent { headers, body: Bytes::from(body) });
        let is_throttled = !matches!(response, in_process::Answer::Now(received) if received.status == 200);
        let mut journal = self.journal();
        journal.deploys.0 += 1;
        journal.deploys.1 += u64::from(is_throttled);
    }
}

fn fault(target: testkit::simulated_ecs::Target, effect: Effect) -> Option<Fault> {
    match effect {
        Effect::Throttle => Some(target.throttle()),
        Effect::ServerError => Some(target.server_error()),
        Effect::Unavailable => Some(target.unavailable()),
        Effect::AccessDenied => Some(target.access_denied()),
        _ => None,
    }
}
