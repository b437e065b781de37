//! The environment of a run: the API server, ECS, and the actual state of both, which the oracle
//! needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use testkit::{
    model_api::{ApiRequest, ApiResponse, ModelApi, Verb},
    simulated_ecs::{
        ACCOUNT, Action, Fault, Outcome, Region, SimulatedEcs, Status, Vanished,
        in_process::{self, Sent},
    },
};

use super::{
    account_users::AssumableRole,
    journal::Journal,
    kinds::{ACCOUNTS, NAMESPACE, NAMESPACES, POLICIES, RETIREMENTS},
    schedule::{Effect, Halt, Schedule, Slot, When},
    time::Time,
    users::{REGION, Users},
};
use crate::support::invariants::{Caller, Deregistered, Entry, Operation, Process, short};

const LEASES: &str = "leases";

pub struct World {
    pub time: Arc<Time>,
    pub api: ModelApi,
    pub ecs: SimulatedEcs,
    pub users: Users,
    pub schedule: Schedule,
    journal: Mutex<Journal>,
    state: Mutex<State>,
}

/// A call to AWS of a process, and when the request was sent.
#[derive(Clone, Copy)]
pub struct AwsCall<'a> {
    pub by: Process,
    pub began: Duration,
    pub action: &'a str,
    pub input: &'a Value,
    pub sent: &'a Sent,
}

#[derive(Default)]
struct State {
    /// Number of requests of each replica, in all its processes.
    requests: BTreeMap<Slot, u64>,
    /// Indices of the halts in the schedule that have been triggered.
    triggered_halts: HashSet<usize>,
    /// Start of the usage of each revision, by the name of the task or service.
    used_since: BTreeMap<String, BTreeMap<String, Duration>>,
    /// The labels of the namespace, and since when it had them.
    labels: Vec<(Duration, Value)>,
}

impl World {
    pub fn new(schedule: Schedule, users: Users) -> Arc<Self> {
        let time = Arc::new(Time::default());
        let (for_api, for_ecs) = (time.clone(), time.clone());
        let api = ModelApi::new(move || for_api.wall());
        let ecs = SimulatedEcs::in_process(move || for_ecs.wall());
        ecs.throttle(1.0);
        let (journal, state) = (Mutex::default(), Mutex::default());
        let world = Self { time, api, ecs, users, schedule, journal, state };
        world.fill();
        Arc::new(world)
    }

    /// Creates the namespace, clusters, revisions and roles.
    fn fill(&self) {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        self.api.make(NAMESPACES, "", &namespace);
        self.label_namespace(&json!({ "team": "platform" }));
        let accounts: BTreeSet<&str> = self.users.families.values().map(|family| family.account).collect();
        for account in accounts {
            let region = self.ecs.region(account, REGION);
            region.cluster("prod");
            // ECS lists a deleted cluster for days.
            region.cluster("gone").vanish(Vanished::NotFound);
        }
        for (name, family) in &self.users.families {
            self.ecs.region(family.account, REGION).register_many(name, family.count);
        }
        for role in &self.users.roles {
            self.create_role(role);
        }
    }

    pub fn create_role(&self, role: &AssumableRole) {
        let created = self.ecs.role(&role.arn).trust(ACCOUNT).external_id(role.external_id.as_deref());
        if let Some(lifetime) = role.session_lifetime {
            created.session_lifetime(lifetime);
        }
    }

    pub fn end_of_faults(&self) -> Timestamp {
        Time::wall_at(self.schedule.end)
    }

    /// Returns the region that has a revision of a family.
    pub fn region_of(&self, revision: &str) -> Region {
        let family = revision.rsplit_once(':').map_or(revision, |(family, _)| family);
        let account = self.users.families.get(family).map_or(ACCOUNT, |family| family.account);
        self.ecs.region(account, REGION)
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
        if let ApiResponse::Whole(code, body) = &response
            && let Some(operation) = self.operation(request, *code, body)
        {
            self.record(by, operation);
            if (request.verb, code) == (Verb::Create, &201) {
                self.check_proposal(body);
            }
        }
        response
    }

    /// Returns the operation that is recorded for a request. `None` if it does not matter.
    fn operation(&self, request: &ApiRequest, code: u16, body: &Value) -> Option<Operation> {
        let (name, plural) = (request.name.clone().unwrap_or_default(), request.plural.clone());
        let (object, began) = ((code == 200).then(|| body.clone()), self.time.now());
        match (request.verb, request.plural.as_str()) {
            (Verb::Get, RETIREMENTS) => Some(Operation::Read { name, began, object }),
            (Verb::Get, ACCOUNTS | POLICIES) => Some(Operation::ReadOther { plural, name, began, object }),
            (Verb::ApplyStatus, RETIREMENTS) => {
                let status = request.body["status"].clone();
                Some(Operation::Wrote { name, status, code })
            }
            (Verb::Create, RETIREMENTS) => {
                let name = request.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                Some(Operation::Changed { plural, name, code })
            }
            (Verb::JsonPatch | Verb::Delete, RETIREMENTS) | (Verb::ApplyStatus, ACCOUNTS | POLICIES) => {
                Some(Operation::Changed { plural, name, code })
            }
            _ => None,
        }
    }

    /// Carries out a call to AWS. `effect` may inject an error.
    pub fn aws(&self, call: &AwsCall<'_>, effect: Option<Effect>) -> in_process::Answer {
        let AwsCall { by, began, action, input, sent } = *call;
        if let Some(fault) = Action::named(action).and_then(|action| fault(Fault::on(action), effect?)) {
            self.ecs.fault(fault);
        }
        let response = self.ecs.answer(sent);
        self.ecs.clear_faults();
        let call = self.ecs.last_call().expect("every call is logged");
        let arn = input["taskDefinition"].as_str().unwrap_or_default().to_owned();
        let caller = Caller::of(&call);
        let reply_is_lost = matches!(effect, Some(Effect::DropReply)) && call.outcome == Outcome::Ok;
        let outcome = if reply_is_lost { Outcome::Dropped } else { call.outcome };
        let operation = match call.action {
            Action::DescribeTaskDefinition => Operation::Described { arn, caller, outcome },
            Action::DeregisterTaskDefinition => Operation::Deregistered(Deregistered {
                used_for: self.used_for(short(&arn)),
                newer: Some(self.newer_active(short(&arn))),
                arn,
                began,
                caller,
                outcome,
                changed: call.changed,
                lease_holder: self.lease_holder(),
            }),
            Action::ListTaskDefinitions => {
                let family = input["familyPrefix"].as_str().unwrap_or_default().to_owned();
                Operation::Listed { family, began, outcome }
            }
            other => Operation::Called(other.name()),
        };
        self.record(by, operation);
        response
    }

    /// Returns the number of ACTIVE revisions of the family that are newer.
    pub fn newer_active(&self, revision: &str) -> usize {
        let region = self.region_of(revision);
        let Some((family, number)) = revision.rsplit_once(':') else { return 0 };
        let number: usize = number.parse().unwrap_or(usize::MAX - 1);
        let newer = (number + 1..).map_while(|number| region.status(&format!("{family}:{number}")));
        newer.filter(|status| *status == Status::Active).count()
    }

    pub fn start_use(&self, consumer: &str, revision: &str) {
        let now = self.time.now();
        let mut state = self.state();
        state.used_since.entry(revision.to_owned()).or_default().insert(consumer.to_owned(), now);
    }

    pub fn end_use(&self, consumer: &str) {
        for consumers in self.state().used_since.values_mut() {
            consumers.remove(consumer);
        }
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

    /// Returns the labels that the namespace had at some time in a period.
    pub fn labels_between(&self, from: Duration, until: Duration) -> Vec<Value> {
        let state = self.state();
        let first = state.labels.partition_point(|(since, _)| *since <= from).saturating_sub(1);
        let labels = state.labels[first..].iter().take_while(|(since, _)| *since <= until);
        labels.map(|(_, labels)| labels.clone()).collect()
    }

    pub fn label_namespace(&self, labels: &Value) {
        self.api.label(NAMESPACES, "", NAMESPACE, labels);
        self.state().labels.push((self.time.now(), labels.clone()));
    }

    /// Returns the current holder of the lease according to the API server.
    fn lease_holder(&self) -> Option<String> {
        let lease = self.api.objects(LEASES).into_iter().next()?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
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
