//! Users of retention policies: deploys in the families of a policy, approvals, and changes of the
//! policy.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use testkit::simulated_ecs::ACCOUNT;

use super::{
    account_users::MEMBERS,
    kinds::Kind,
    proposals::YOUNG,
    users::{UserAction, Users, random_time, random_times},
};

/// A retention policy.
#[derive(Clone, Debug)]
pub struct Policy {
    pub name: String,
    /// True if its proposals are approved sooner or later, or need no approval.
    pub is_approved: bool,
    /// True if its final state depends on when the controller notices a change.
    pub is_raced: bool,
}

impl Users {
    /// Adds policies. Some name the first EcsAccount.
    pub(super) fn add_policies(&mut self, rng: &mut Rng, end: Duration) {
        for index in 0..rng.usize(1..=2) {
            let has_account = !self.roles.is_empty() && rng.bool();
            let aws_account = if has_account { MEMBERS[0] } else { ACCOUNT };
            let families: Vec<String> =
                ["a", "b"].iter().take(rng.usize(1..=2)).map(|it| format!("p-{index}-{it}")).collect();
            for family in &families {
                self.family_of_policy(rng, aws_account, family, end);
            }
            let mut spec = spec(rng, index);
            if has_account {
                spec["accountRef"] = json!({ "name": "a0" });
            }
            self.life_of_policy(rng, &format!("p{index}"), &spec, end);
        }
    }

    /// Registers the revisions of a family, of which one may be in use, and deploys more later.
    fn family_of_policy(&mut self, rng: &mut Rng, aws_account: &'static str, family: &str, end: Duration) {
        let all = self.register(aws_account, family, rng.usize(3..=8));
        for _ in 0..rng.usize(0..=4) {
            let at = random_time(rng, end);
            self.actions.push((at, UserAction::Register { family: family.to_owned() }));
            if let Some(known) = self.families.get_mut(family) {
                known.registered_later += 1;
            }
        }
        if rng.bool() {
            let revision = &all[rng.usize(..all.len())];
            let until = rng.bool().then(|| random_time(rng, end));
            self.use_from_start_until(until, &revision.replace(':', "-"), revision, rng.bool());
        }
    }

    fn life_of_policy(&mut self, rng: &mut Rng, name: &str, spec: &Value, end: Duration) {
        let [created, first, second] = random_times(rng, end);
        let (kind, name) = (Kind::Policy, name.to_owned());
        let create =
            |at, spec: &Value| (at, UserAction::Create { kind, name: name.clone(), spec: spec.clone() });
        let edit = |at, change: &dyn Fn(&mut Value)| {
            let mut spec = spec.clone();
            change(&mut spec);
            (at, UserAction::Edit { kind, name: name.clone(), spec })
        };
        let latest = spec["keep"]["latest"].as_u64().unwrap_or_default();
        let delete = |at| (at, UserAction::Delete { kind, name: name.clone() });
        let created = created.mul_f64(0.3);
        self.actions.push(create(created, spec));
        let (is_raced, changes) = match rng.u8(..10) {
            // An unfinished retirement still keeps as many as before.
            0 => (true, vec![edit(first, &|spec| spec["keep"]["latest"] = json!(1))]),
            1 => (true, vec![edit(first, &|spec| spec["keep"]["latest"] = json!(latest + 2))]),
            2 => {
                let suspend = |is_suspended| move |spec: &mut Value| spec["suspend"] = json!(is_suspended);
                (false, vec![edit(first, &suspend(true)), edit(second, &suspend(false))])
            }
            3 => (true, vec![edit(first, &|spec| spec["suspend"] = json!(true))]),
            4 => (true, vec![delete(first)]),
            5 => (false, vec![delete(first), create(second, spec)]),
            6 => {
                let keep =
                    |spec: &mut Value| spec["keep"]["revisions"] = json!([format!("p-{}-a:2", &name[1..])]);
                (true, vec![edit(first, &keep)])
            }
            7 => {
                // Changed without effect: retirements wait until the next run confirms them.
                let changes = (400..404).map(|maximum| {
                    let at = created + end.saturating_sub(created).mul_f64(rng.f64() / 2.0);
                    edit(at, &|spec| spec["maxRevisionsPerRun"] = json!(maximum))
                });
                (false, changes.collect())
            }
            _ => (false, Vec::new()),
        };
        self.actions.extend(changes);
        let is_approved = spec["approval"] == "Automatic" || rng.u8(..4) > 0;
        if is_approved {
            let approve = |at| (at, UserAction::Approve { policy: name.clone() });
            self.actions.extend([random_time(rng, end), random_time(rng, end)].map(approve));
        }
        if rng.u8(..3) == 0 {
            self.actions.push((random_time(rng, end), UserAction::Request { kind, name: name.clone() }));
        }
        if is_raced {
            let families = ["a", "b"].map(|it| format!("p-{}-{it}", &name[1..]));
            self.raced_families.extend(families);
        }
        self.policies.push(Policy { name, is_approved, is_raced });
    }
}

fn spec(rng: &mut Rng, index: usize) -> Value {
    let mut spec = json!({
        "families": { "include": [format!("p-{index}-*")] },
        "keep": { "latest": rng.usize(1..=3) },
        "interval": "1m",
        "approval": if rng.bool() { "Manual" } else { "Automatic" },
        "maxRevisionsPerRun": if rng.u8(..4) == 0 { 3 } else { 500 },
        "suspend": false,
        "retirement": {},
    });
    match rng.u8(..4) {
        0 => spec["keep"]["revisions"] = json!([format!("p-{index}-a:1")]),
        1 => spec["retirement"]["unusedFor"] = json!("20s"),
        2 => spec["keep"]["youngerThan"] = json!(format!("{}s", YOUNG.as_secs())),
        _ => {}
    }
    spec
}
