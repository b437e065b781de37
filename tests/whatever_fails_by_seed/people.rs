//! What people and deploys do in a run: made from the seed, and such that what comes of it does not hang on how fast the controller is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use fastrand::Rng;
use serde_json::{Value, json};

pub const REGION: &str = "us-west-2";

/// One thing that somebody does.
#[derive(Clone, Debug)]
pub enum Act {
    Make {
        name: String,
        spec: Value,
    },
    Edit {
        name: String,
        spec: Value,
    },
    /// Asks for a look now.
    Request {
        name: String,
        spec: Value,
    },
    Delete {
        name: String,
    },
    /// Starts a task, or a service, of a revision.
    Start {
        user: String,
        revision: String,
        is_service: bool,
    },
    Stop {
        user: String,
        is_service: bool,
    },
    /// Registers a revision of a family that nobody retires.
    Deploy,
}

/// All that people do in a run.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// How many revisions of each family there are.
    pub families: BTreeMap<String, usize>,
    pub acts: Vec<(Duration, Act)>,
    /// Revisions of which it depends on who is faster whether they are retired.
    pub races: BTreeSet<String>,
    /// Families whose next revision is declared, and registered only once all has come to rest.
    pub missing: Vec<String>,
}

impl People {
    pub fn of(seed: u64, end: Duration) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x7065_6f70_6c65);
        let mut people = Self::default();
        for number in 0..rng.usize(2..=7) {
            people.resource(&mut rng, &format!("r{number}"), end);
        }
        for _ in 0..rng.usize(0..20) {
            let at = moment(&mut rng, end);
            people.acts.push((at, Act::Deploy));
        }
        people.acts.sort_by_key(|(at, _)| *at);
        people
    }

    /// The names of `count` new revisions.
    fn register(&mut self, family: &str, count: usize) -> Vec<String> {
        let before = self.families.entry(family.to_owned()).or_default();
        let names = (*before + 1..=*before + count).map(|number| format!("{family}:{number}")).collect();
        *before += count;
        names
    }

    fn make(&mut self, at: Duration, name: &str, spec: &Value) {
        self.acts.push((at, Act::Make { name: name.to_owned(), spec: spec.clone() }));
    }

    fn edit(&mut self, at: Duration, name: &str, spec: &Value) {
        self.acts.push((at, Act::Edit { name: name.to_owned(), spec: spec.clone() }));
    }

    fn use_from_the_start_until(
        &mut self,
        until: Option<Duration>,
        user: &str,
        revision: &str,
        is_service: bool,
    ) {
        let (user, revision) = (user.to_owned(), revision.to_owned());
        self.acts.push((Duration::ZERO, Act::Start { user: user.clone(), revision, is_service }));
        if let Some(until) = until {
            self.acts.push((until, Act::Stop { user, is_service }));
        }
    }

    fn resource(&mut self, rng: &mut Rng, name: &str, end: Duration) {
        let family = format!("f-{name}");
        let in_use = if rng.bool() { "Wait" } else { "Retire" };
        let count = rng.usize(1..=4);
        match rng.u8(..12) {
            0 => {
                let all = self.register(&family, rng.usize(12..=25));
                let [at] = moments(rng, end.mul_f64(0.5));
                self.make(at, name, &json!({ "revisions": all, "inUse": in_use }));
            }
            1 => self.waiting(rng, name, &family, end),
            2 => self.shared(rng, name, &family, in_use, end),
            3 => {
                let mut all = self.register(&family, count);
                all.push(format!("{family}:{}", count + 1));
                self.missing.push(family.clone());
                let at = moment(rng, end);
                self.make(at, name, &json!({ "revisions": all, "inUse": in_use }));
            }
            4 => {
                // Suspended from the start, and released or not.
                let all = self.register(&family, count);
                let [made, released] = moments(rng, end);
                let spec = |suspend| json!({ "revisions": all, "inUse": in_use, "suspend": suspend });
                self.make(made, name, &spec(true));
                if rng.bool() {
                    self.edit(released, name, &spec(false));
                }
            }
            5 => {
                // Suspended midway, and released.
                let all = self.register(&family, count + 4);
                let [made, suspended, released] = moments(rng, end);
                let spec = |suspend| json!({ "revisions": all, "inUse": in_use, "suspend": suspend });
                self.make(made, name, &spec(false));
                self.edit(suspended, name, &spec(true));
                self.edit(released, name, &spec(false));
            }
            6 => {
                // Entries removed midway.
                let all = self.register(&family, count + 4);
                let [made, removed] = moments(rng, end);
                self.races.extend(all[..3].iter().cloned());
                self.make(made, name, &json!({ "revisions": all, "inUse": in_use }));
                self.edit(removed, name, &json!({ "revisions": all[3..], "inUse": in_use }));
            }
            7 => {
                // Deleted, and made again under the same name with other revisions.
                let (first, second) = (self.register(&family, count + 2), self.register(&family, count));
                let [made, deleted, again] = moments(rng, end);
                self.races.extend(first.iter().cloned());
                self.make(made, name, &json!({ "revisions": first, "inUse": in_use }));
                self.acts.push((deleted, Act::Delete { name: name.to_owned() }));
                self.make(again, name, &json!({ "revisions": second, "inUse": in_use }));
            }
            8 => {
                let mut all = self.register(&family, count);
                all.push(format!("arn:aws:ecs:{REGION}:999999999999:task-definition/other:1"));
                let at = moment(rng, end);
                self.make(at, name, &json!({ "revisions": all, "region": REGION, "inUse": in_use }));
            }
            9 => {
                let all = self.register(&family, count);
                let [made, dry] = moments(rng, end);
                let spec = |dry_run| json!({ "revisions": all, "inUse": in_use, "dryRun": dry_run });
                self.make(made, name, &spec(true));
                if rng.bool() {
                    self.edit(dry, name, &spec(false));
                }
            }
            10 => {
                let all = self.register(&family, count);
                let [made, requested] = moments(rng, end);
                let spec = json!({ "revisions": all, "inUse": in_use });
                self.make(made, name, &spec);
                self.acts.push((requested, Act::Request { name: name.to_owned(), spec }));
            }
            _ => {
                let all = self.register(&family, count);
                let at = moment(rng, end);
                self.make(at, name, &json!({ "revisions": all, "inUse": "Wait", "unusedFor": "20s" }));
            }
        }
    }

    /// Some of the revisions are in use from the start, for a while or for good.
    fn waiting(&mut self, rng: &mut Rng, name: &str, family: &str, end: Duration) {
        let all = self.register(family, 4);
        let [made] = moments(rng, end.mul_f64(0.5));
        for revision in &all[..3] {
            let until = (rng.u8(..4) > 0).then(|| moment(rng, end));
            let user = revision.replace(':', "-");
            self.use_from_the_start_until(until, &user, revision, rng.bool());
        }
        let spec = if rng.bool() {
            json!({ "revisions": all, "inUse": "Wait" })
        } else {
            json!({ "revisions": all, "inUse": "Wait", "unusedFor": "20s" })
        };
        self.make(made, name, &spec);
    }

    /// Two resources declare the same revisions.
    fn shared(&mut self, rng: &mut Rng, name: &str, family: &str, in_use: &str, end: Duration) {
        let all = self.register(family, 5);
        let arn = |revision: &String| format!("arn:aws:ecs:{REGION}:012345678910:task-definition/{revision}");
        let [first, second] = moments(rng, end);
        let second = if rng.bool() { first } else { second };
        let arns: Vec<String> = all.iter().map(arn).collect();
        self.make(first, name, &json!({ "revisions": all, "inUse": in_use }));
        self.make(second, &format!("{name}-too"), &json!({ "revisions": arns, "inUse": in_use }));
    }
}

fn moment(rng: &mut Rng, end: Duration) -> Duration {
    end.mul_f64(rng.f64())
}

/// A time for each of so many acts on one thing, one after another.
fn moments<const N: usize>(rng: &mut Rng, end: Duration) -> [Duration; N] {
    let mut moments = [(); N].map(|()| moment(rng, end));
    moments.sort();
    moments
}

impl fmt::Display for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, act) in self.acts.iter().filter(|(_, act)| !matches!(act, Act::Deploy)) {
            match act {
                Act::Make { name, spec } => writeln!(f, "  {at:?} make {name} {spec}")?,
                Act::Edit { name, spec } => writeln!(f, "  {at:?} edit {name} {spec}")?,
                other => writeln!(f, "  {at:?} {other:?}")?,
            }
        }
        Ok(())
    }
}
