//! I7: what a policy proposes: nothing twice, nothing that it keeps, and nothing while an earlier
//! proposal awaits approval.

use k8s_openapi::jiff::SignedDuration;
use serde_json::Value;

use super::{
    kept::{controlling_policy, keeps},
    kinds::{POLICIES, RETIREMENTS},
    world::World,
};

/// `spec.keep.youngerThan` of every policy that has it.
pub const YOUNG: SignedDuration = SignedDuration::from_secs(30);

impl World {
    /// Checks a retirement that a policy has just created.
    pub fn check_proposal(&self, retirement: &Value) {
        let Some(owner) = controlling_policy(retirement) else { return };
        let policies = self.api.objects(POLICIES);
        let policy = policies.iter().find(|it| it["metadata"]["uid"] == owner["uid"]);
        let mut violations = self.proposed_again(retirement, &owner["uid"]);
        violations.extend(policy.and_then(|policy| self.proposed_too_early(retirement, policy)));
        violations
            .extend(policy.into_iter().flat_map(|policy| self.proposed_although_kept(retirement, policy)));
        let mut journal = self.journal();
        for violation in &violations {
            journal.record_violation("I7", violation);
        }
    }

    /// Returns the revisions that another retirement of the policy declares.
    fn proposed_again(&self, retirement: &Value, policy_uid: &Value) -> Vec<String> {
        let others = self.retirements_of(policy_uid);
        let others = others.iter().filter(|it| it["metadata"]["uid"] != retirement["metadata"]["uid"]);
        let declared: Vec<(&Value, &Value)> =
            others.flat_map(|it| declared(it).map(|revision| (revision, &it["metadata"]["name"]))).collect();
        let name = &retirement["metadata"]["name"];
        let again = declared.iter().filter(|(it, _)| declared_in(retirement, it));
        again.map(|(it, other)| format!("{name} declares {it} again, which {other} declares")).collect()
    }

    /// Returns the revisions that the policy keeps, unless it has changed meanwhile.
    fn proposed_although_kept(&self, retirement: &Value, policy: &Value) -> Vec<String> {
        let generation = &retirement["metadata"]["annotations"]["ecs-retirement.dev/policy-generation"];
        let current = policy["metadata"]["generation"].as_i64().map(|it| it.to_string());
        if generation.as_str() != current.as_deref() {
            return Vec::new();
        }
        let name = &retirement["metadata"]["name"];
        let revisions = declared(retirement).filter_map(Value::as_str);
        let is_young = |it: &&str| {
            let registered = self.region_of(it).describe(it).map(|record| record.registered_at);
            !policy["spec"]["keep"]["youngerThan"].is_null()
                && registered.is_some_and(|at| self.time.wall().duration_since(at) < YOUNG)
        };
        let kept = revisions.filter(|it| keeps(policy, it, self.newer_active(it)) || is_young(it));
        kept.map(|it| format!("{name} declares {it}, which its policy keeps")).collect()
    }

    /// Returns a violation if a retirement of an earlier run awaits approval. A requested run
    /// proposes nevertheless.
    fn proposed_too_early(&self, retirement: &Value, policy: &Value) -> Option<String> {
        if policy["metadata"]["annotations"]["ecs-retirement.dev/requestedAt"].is_string() {
            return None;
        }
        let run = |it: &Value| Some(it["metadata"]["name"].as_str()?.rsplit_once('-')?.0.to_owned());
        let others = self.retirements_of(&policy["metadata"]["uid"]);
        let awaiting =
            others.iter().find(|it| it["spec"]["suspend"] == true && run(it) != run(retirement))?;
        let names = (&retirement["metadata"]["name"], &awaiting["metadata"]["name"]);
        Some(format!("{} is proposed while {} awaits approval", names.0, names.1))
    }

    /// Returns the retirements of a policy, and its records.
    pub fn retirements_of(&self, policy_uid: &Value) -> Vec<Value> {
        let is_of = |it: &Value| {
            it["metadata"]["labels"]["ecs-retirement.dev/policy-uid"] == *policy_uid
                || controlling_policy(it).is_some_and(|owner| owner["uid"] == *policy_uid)
        };
        self.api.objects(RETIREMENTS).into_iter().filter(is_of).collect()
    }
}

fn declared(retirement: &Value) -> impl Iterator<Item = &Value> {
    retirement["spec"]["revisions"].as_array().into_iter().flatten()
}

fn declared_in(retirement: &Value, revision: &Value) -> bool {
    declared(retirement).any(|it| it == revision)
}
