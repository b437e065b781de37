//! The world of a run: the API server and ECS, and the truth about both, which the oracle needs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::Bytes, http::HeaderMap};
use serde_json::{Value, json};
use testkit::{
    model_api::{Answer, Asked, ModelApi, Verb},
    simulated_ecs::{
        ACCESS_KEY, ACCOUNT, Action, Fault, Outcome, Region, Service, SimulatedEcs, Status, Task, Vanished,
        in_process::{self, Sent},
    },
};

use super::{
    journal::{Deregistered, Entry, Journal, Process, What},
    people::{Act, REGION},
    schedule::{Effect, Halt, Schedule, Slot, When},
    time::Time,
};

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
    /// How many requests each replica has made, in all its processes.
    asked: BTreeMap<Slot, u64>,
    /// The halts that have come, by their place in the schedule.
    halted: HashSet<usize>,
    /// Since when each revision has been in use, by whom.
    used: BTreeMap<String, BTreeMap<String, Duration>>,
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
        // ECS lists clusters for days that do not exist any more.
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

    /// Counts a request of a replica.
    pub fn count(&self, slot: Slot) -> u64 {
        let mut state = self.state();
        let asked = state.asked.entry(slot).or_default();
        *asked += 1;
        *asked
    }

    /// What is to happen to a replica at this moment, once. Nothing does once the faults have ended.
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
            *it == slot && is_due(*when) && !self.state().halted.contains(index)
        })?;
        self.state().halted.insert(index);
        Some(*halt)
    }

    fn note(&self, by: Process, what: What) {
        let at = self.time.now();
        self.journal().entries.push(Entry { at, by, what });
    }

    /// Carries out a request to the API server.
    pub fn kubernetes(&self, by: Process, asked: &Asked) -> Answer {
        let answer = self.api.answer(asked);
        if let (Answer::Whole(status, body), Some(name), RETIREMENTS) =
            (&answer, &asked.name, asked.plural.as_str())
        {
            let name = name.clone();
            match asked.verb {
                Verb::Get => {
                    let object = (*status == 200).then(|| body.clone());
                    self.note(by, What::Read { name, object });
                }
                Verb::ApplyStatus => {
                    if *status == 200 {
                        self.check_written(&name, &asked.body["status"]);
                    }
                    self.note(by, What::Wrote { name, code: *status });
                }
                _ => {}
            }
        }
        answer
    }

    /// I3: a status says INACTIVE only if ECS does, of that very ARN.
    fn check_written(&self, name: &str, status: &Value) {
        for row in status["revisions"].as_array().into_iter().flatten() {
            let says = row["status"].as_str().unwrap_or_default();
            if says != "INACTIVE" && row["reason"] != "Retired" {
                continue;
            }
            let arn = row["arn"].as_str().unwrap_or_default();
            let truth = self.west.status(arn.rsplit('/').next().unwrap_or_default());
            if truth != Some(Status::Inactive)
                || self.west.arn(arn.rsplit('/').next().unwrap_or_default()) != arn
            {
                let told = format!("the status of {name} says {says} of {arn}, which is {truth:?}");
                self.journal().broken("I3", &told);
            }
        }
    }

    /// Carries out a call to AWS, which `effect` may have refused.
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
        let answer = self.ecs.answer(sent);
        self.ecs.clear_faults();
        let call = self.ecs.last_call().expect("each call is logged");
        let arn = input["taskDefinition"].as_str().unwrap_or_default();
        let revision = arn.rsplit('/').next().unwrap_or_default().to_owned();
        let lost = matches!(effect, Some(Effect::LoseReply));
        let what = match call.action {
            Action::DescribeTaskDefinition => What::Described {
                truth: format!("{:?} {:?}", self.west.status(&revision), call.outcome),
                revision,
            },
            Action::DeregisterTaskDefinition => What::Deregistered(Deregistered {
                used_for: self.used_for(&revision),
                revision,
                outcome: if lost && call.outcome == Outcome::Ok { Outcome::Dropped } else { call.outcome },
                changed: call.changed,
                holder: self.holder(),
            }),
            other => What::Called(other.name()),
        };
        self.note(by, what);
        answer
    }

    fn used_for(&self, revision: &str) -> Option<Duration> {
        let now = self.time.now();
        let since = self.state().used.get(revision)?.values().min().copied()?;
        Some(now.saturating_sub(since))
    }

    /// Whether somebody uses the revision of a row just now.
    pub fn is_used(&self, row: &Value) -> bool {
        self.used_for(row["revision"].as_str().unwrap_or_default()).is_some()
    }

    /// Who holds the lease just now, whatever anybody believes.
    fn holder(&self) -> Option<String> {
        let lease = self.api.objects(LEASES).into_iter().next()?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Does what a person does.
    pub fn act(&self, act: &Act) {
        let metadata = |name: &str| json!({ "name": name });
        match act {
            Act::Make { name, spec } => {
                let object = json!({
                    "apiVersion": "ecs-retirement.dev/v1alpha1", "kind": "TaskDefinitionRetirement",
                    "metadata": metadata(name), "spec": spec,
                });
                self.api.make(RETIREMENTS, NAMESPACE, &object);
            }
            Act::Edit { name, spec } => self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &Value::Null),
            Act::Request { name, spec } => {
                let annotations = json!({ "ecs-retirement.dev/requestedAt": "now" });
                self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &annotations);
            }
            Act::Delete { name } => self.api.delete(RETIREMENTS, NAMESPACE, name),
            Act::Start { user, revision, is_service } => {
                let cluster = self.west.cluster("prod");
                if *is_service {
                    cluster.put_service(Service::steady(user, revision));
                } else {
                    cluster.put_task(Task::running(user, revision));
                }
                let mut state = self.state();
                state.used.entry(revision.clone()).or_default().insert(user.clone(), self.time.now());
            }
            Act::Stop { user, is_service } => {
                let cluster = self.west.cluster("prod");
                if *is_service {
                    cluster.remove_service(user);
                } else {
                    cluster.remove_task(user);
                }
                for users in self.state().used.values_mut() {
                    users.remove(user);
                }
            }
            Act::Deploy => self.deploy(),
        }
    }

    /// Registers a revision as a deploy does, on the account's own rate.
    fn deploy(&self) {
        let credential =
            format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/ecs/aws4_request");
        let target = "AmazonEC2ContainerServiceV20141113.RegisterTaskDefinition";
        let mut headers = HeaderMap::new();
        headers.insert("authorization", credential.parse().expect("a header"));
        headers.insert("x-amz-target", target.parse().expect("a header"));
        let body = json!({ "family": "deployed", "containerDefinitions": [{ "name": "web" }] }).to_string();
        let answer = self.ecs.answer(&Sent { headers, body: Bytes::from(body) });
        let is_throttled = !matches!(answer, in_process::Answer::Now(received) if received.status == 200);
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
