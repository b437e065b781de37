//! The user actions and deploys of a run, generated from the seed. Their end state does not depend
//! on the speed of the controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use fastrand::Rng;
use serde_json::{Value, json};
use testkit::simulated_ecs::ACCOUNT;

use super::{account_users::AssumableRole, kinds::Kind, policy_users::Policy};

pub const REGION: &str = "us-west-2";

/// An action of a user or of a deploy.
#[derive(Clone, Debug)]
pub enum UserAction {
    Create {
        kind: Kind,
        name: String,
        spec: Value,
    },
    Edit {
        kind: Kind,
        name: String,
        spec: Value,
    },
    /// Requests a reconcile, if the resource exists.
    Request {
        kind: Kind,
        name: String,
    },
    Delete {
        kind: Kind,
        name: String,
    },
    /// Approves the current proposals of a policy.
    Approve {
        policy: String,
    },
    LabelNamespace {
        labels: Value,
    },
    /// Changes whether the controller may assume a role.
    Trust {
        role: String,
        is_trusted: bool,
    },
    /// Revokes the credentials of all sessions of a role.
    RevokeSessions {
        role: String,
    },
    /// Starts a task or a service that uses a revision.
    Start {
        consumer: String,
        revision: String,
        is_service: bool,
    },
    Stop {
        consumer: String,
        revision: String,
        is_service: bool,
    },
    /// Registers a revision of a family that no resource retires.
    Deploy,
    /// Registers a revision of a family.
    Register {
        family: String,
    },
}

/// A family of task definitions.
#[derive(Clone, Debug)]
pub struct Family {
    /// The AWS account that has it.
    pub account: &'static str,
    /// Number of revisions at the start.
    pub count: usize,
    /// Number of revisions that deploys register later.
    pub registered_later: usize,
}

/// All user actions of a run.
#[derive(Clone, Debug, Default)]
pub struct Users {
    pub families: BTreeMap<String, Family>,
    /// Without a policy, policies are not served.
    pub policies: Vec<Policy>,
    /// The roles of the EcsAccounts. Without one, EcsAccounts are not served.
    pub roles: Vec<AssumableRole>,
    pub actions: Vec<(Duration, UserAction)>,
    /// Revisions whose retirement races with a user action.
    pub races: BTreeSet<String>,
    /// Families of which the retirement of every revision races with a user action.
    pub raced_families: BTreeSet<String>,
    /// Families whose next revision is declared, but registered only after the run has converged.
    pub missing: Vec<String>,
}

impl Users {
    pub fn of(seed: u64, end: Duration) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x7065_6f70_6c65);
        let mut users = Self::default();
        for number in 0..rng.usize(2..=7) {
            users.resource(&mut rng, &format!("r{number}"), end);
        }
        for _ in 0..rng.usize(0..20) {
            let at = random_time(&mut rng, end);
            users.actions.push((at, UserAction::Deploy));
        }
        if rng.u8(..5) == 0 {
            users.add_accounts(&mut rng, end);
        }
        if rng.u8(..8) == 0 {
            users.add_policies(&mut rng, end);
        }
        users.actions.sort_by_key(|(at, _)| *at);
        users
    }

    /// Returns true if an administrator revokes the sessions of a role.
    pub fn revokes_sessions(&self) -> bool {
        self.actions.iter().any(|(_, action)| matches!(action, UserAction::RevokeSessions { .. }))
    }

    /// Returns true if a user action decides whether a revision is retired.
    pub fn races(&self, revision: &str) -> bool {
        let family = revision.rsplit_once(':').map_or(revision, |(family, _)| family);
        self.races.contains(revision) || self.raced_families.contains(family)
    }

    /// Adds `count` revisions to a family and returns their names.
    pub(super) fn register(&mut self, account: &'static str, family: &str, count: usize) -> Vec<String> {
        let known = self.families.entry(family.to_owned()).or_insert(Family {
            account,
            count: 0,
            registered_later: 0,
        });
        let numbers = known.count + 1..=known.count + count;
        known.count += count;
        numbers.map(|number| format!("{family}:{number}")).collect()
    }

    pub(super) fn create(&mut self, at: Duration, name: &str, spec: &Value) {
        let (kind, name, spec) = (Kind::Retirement, name.to_owned(), spec.clone());
        self.actions.push((at, UserAction::Create { kind, name, spec }));
    }

    pub(super) fn edit(&mut self, at: Duration, name: &str, spec: &Value) {
        let (kind, name, spec) = (Kind::Retirement, name.to_owned(), spec.clone());
        self.actions.push((at, UserAction::Edit { kind, name, spec }));
    }

    pub(super) fn use_from_start_until(
        &mut self,
        until: Option<Duration>,
        consumer: &str,
        revision: &str,
        is_service: bool,
    ) {
        let (consumer, revision) = (consumer.to_owned(), revision.to_owned());
        if let Some(until) = until {
            let (consumer, revision) = (consumer.clone(), revision.clone());
            self.actions.push((until, UserAction::Stop { consumer, revision, is_service }));
        }
        self.actions.push((Duration::ZERO, UserAction::Start { consumer, revision, is_service }));
    }

    #[expect(clippy::too_many_lines, reason = "one life of a resource")]
    fn resource(&mut self, rng: &mut Rng, name: &str, end: Duration) {
        let family = format!("f-{name}");
        let in_use = if rng.bool() { "Wait" } else { "Retire" };
        let count = rng.usize(1..=4);
        match rng.u8(..13) {
            0 => {
                let all = self.register(ACCOUNT, &family, rng.usize(12..=25));
                let [at] = random_times(rng, end.mul_f64(0.5));
                self.create(at, name, &json!({ "revisions": all, "inUse": in_use }));
            }
            1 => self.waiting(rng, name, &family, end),
            2 => self.shared(rng, name, &family, in_use, end),
            3 => {
                let mut all = self.register(ACCOUNT, &family, count);
                all.push(format!("{family}:{}", count + 1));
                self.missing.push(family.clone());
                let at = random_time(rng, end);
                self.create(at, name, &json!({ "revisions": all, "inUse": in_use }));
            }
            4 => {
                // Created suspended, and resumed or not.
                let all = self.register(ACCOUNT, &family, count);
                let [created, resumed] = random_times(rng, end);
                let spec = |suspend| json!({ "revisions": all, "inUse": in_use, "suspend": suspend });
                self.create(created, name, &spec(true));
                if rng.bool() {
                    self.edit(resumed, name, &spec(false));
                }
            }
            5 => {
                // Suspended midway, and resumed.
                let all = self.register(ACCOUNT, &family, count + 4);
                let [created, suspended, resumed] = random_times(rng, end);
                let spec = |suspend| json!({ "revisions": all, "inUse": in_use, "suspend": suspend });
                self.create(created, name, &spec(false));
                self.edit(suspended, name, &spec(true));
                self.edit(resumed, name, &spec(false));
            }
            6 => {
                // Entries removed midway.
                let all = self.register(ACCOUNT, &family, count + 4);
                let [created, removed] = random_times(rng, end);
                self.races.extend(all[..3].iter().cloned());
                self.create(created, name, &json!({ "revisions": all, "inUse": in_use }));
                self.edit(removed, name, &json!({ "revisions": all[3..], "inUse": in_use }));
            }
            7 => {
                // Deleted, and recreated with the same name and other revisions.
                let (first, second) =
                    (self.register(ACCOUNT, &family, count + 2), self.register(ACCOUNT, &family, count));
                let [created, deleted, recreated] = random_times(rng, end);
                self.races.extend(first.iter().cloned());
                self.create(created, name, &json!({ "revisions": first, "inUse": in_use }));
                self.actions
                    .push((deleted, UserAction::Delete { kind: Kind::Retirement, name: name.to_owned() }));
                self.create(recreated, name, &json!({ "revisions": second, "inUse": in_use }));
            }
            8 => {
                let mut all = self.register(ACCOUNT, &family, count);
                all.push(format!("arn:aws:ecs:{REGION}:999999999999:task-definition/other:1"));
                let at = random_time(rng, end);
                self.create(at, name, &json!({ "revisions": all, "region": REGION, "inUse": in_use }));
            }
            9 => {
                let all = self.register(ACCOUNT, &family, count);
                let [created, dry] = random_times(rng, end);
                let spec = |dry_run| json!({ "revisions": all, "inUse": in_use, "dryRun": dry_run });
                self.create(created, name, &spec(true));
                if rng.bool() {
                    self.edit(dry, name, &spec(false));
                }
            }
            10 => {
                let all = self.register(ACCOUNT, &family, count);
                let [created, requested] = random_times(rng, end);
                let spec = json!({ "revisions": all, "inUse": in_use });
                self.create(created, name, &spec);
                self.actions
                    .push((requested, UserAction::Request { kind: Kind::Retirement, name: name.to_owned() }));
            }
            11 => {
                // The newest two are kept.
                let all = self.register(ACCOUNT, &family, count + 2);
                let at = random_time(rng, end);
                self.create(at, name, &json!({ "revisions": all, "inUse": in_use, "keepLatest": 2 }));
            }
            _ => {
                let all = self.register(ACCOUNT, &family, count);
                let at = random_time(rng, end);
                self.create(at, name, &json!({ "revisions": all, "inUse": "Wait", "unusedFor": "20s" }));
            }
        }
    }

    /// Some of the revisions are in use from the start, temporarily or permanently.
    fn waiting(&mut self, rng: &mut Rng, name: &str, family: &str, end: Duration) {
        let all = self.register(ACCOUNT, family, 4);
        let [created] = random_times(rng, end.mul_f64(0.5));
        for revision in &all[..3] {
            let until = (rng.u8(..4) > 0).then(|| random_time(rng, end));
            let consumer = revision.replace(':', "-");
            self.use_from_start_until(until, &consumer, revision, rng.bool());
        }
        let spec = if rng.bool() {
            json!({ "revisions": all, "inUse": "Wait" })
        } else {
            json!({ "revisions": all, "inUse": "Wait", "unusedFor": "20s" })
        };
        self.create(created, name, &spec);
    }

    /// Two resources declare the same revisions.
    fn shared(&mut self, rng: &mut Rng, name: &str, family: &str, in_use: &str, end: Duration) {
        let all = self.register(ACCOUNT, family, 5);
        let arn = |revision: &String| format!("arn:aws:ecs:{REGION}:012345678910:task-definition/{revision}");
        let [first, second] = random_times(rng, end);
        let second = if rng.bool() { first } else { second };
        let arns: Vec<String> = all.iter().map(arn).collect();
        self.create(first, name, &json!({ "revisions": all, "inUse": in_use }));
        self.create(second, &format!("{name}-too"), &json!({ "revisions": arns, "inUse": in_use }));
    }
}

/// Returns a random time before `end`.
pub(super) fn random_time(rng: &mut Rng, end: Duration) -> Duration {
    end.mul_f64(rng.f64())
}

/// Returns `N` random times in ascending order, for actions on one resource.
pub(super) fn random_times<const N: usize>(rng: &mut Rng, end: Duration) -> [Duration; N] {
    let mut times = [(); N].map(|()| random_time(rng, end));
    times.sort();
    times
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, action) in self.actions.iter().filter(|(_, action)| !matches!(action, UserAction::Deploy)) {
            match action {
                UserAction::Create { name, spec, .. } => writeln!(f, "  {at:?} create {name} {spec}")?,
                UserAction::Edit { name, spec, .. } => writeln!(f, "  {at:?} edit {name} {spec}")?,
                other => writeln!(f, "  {at:?} {other:?}")?,
            }
        }
        Ok(())
    }
}
