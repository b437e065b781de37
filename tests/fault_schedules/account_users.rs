//! Users of EcsAccounts: administrators who change what is allowed, and retirements that name an
//! EcsAccount.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    users::{REGION, UserAction, Users, random_time, random_times},
};

/// The AWS accounts in which roles are assumed.
pub(super) const MEMBERS: [&str; 2] = ["111122223333", "222233334444"];

/// An IAM role that the controller assumes.
#[derive(Clone, Debug)]
pub struct AssumableRole {
    pub arn: String,
    pub external_id: Option<String>,
    /// The lifetime of its sessions. `None` for an hour.
    pub session_lifetime: Option<Duration>,
}

/// An EcsAccount with all its families.
struct Account {
    name: String,
    /// The AWS account.
    id: &'static str,
    spec: Value,
}

impl Users {
    /// Adds EcsAccounts with their retirements. Some are of the same AWS account.
    pub(super) fn add_accounts(&mut self, rng: &mut Rng, end: Duration) {
        let is_same = rng.bool();
        let accounts: Vec<Account> = (0..rng.usize(1..=2))
            .map(|index| self.account(rng, index, MEMBERS[if is_same { 0 } else { index }]))
            .collect();
        for account in &accounts {
            self.life_of_account(rng, account, end);
            for number in 0..rng.usize(1..=3) {
                let name = format!("{}-r{number}", account.name);
                self.resource_of_account(rng, account, &name, end);
            }
        }
        if let [first, second] = accounts.as_slice()
            && is_same
        {
            self.shared_by_accounts(rng, first, second, end);
        }
    }

    fn account(&mut self, rng: &mut Rng, index: usize, aws_account: &'static str) -> Account {
        let arn = format!("arn:aws:iam::{aws_account}:role/retire-{index}");
        let external_id = rng.bool().then(|| format!("tenant-{index}"));
        // Credentials are replaced five minutes before they expire.
        let lifetimes = [None, Some(Duration::from_secs(330)), Some(Duration::from_mins(7))];
        let session_lifetime = lifetimes[rng.usize(..3)];
        let namespaces = if rng.bool() {
            json!({ "names": ["platform"] })
        } else {
            json!({ "selector": { "matchLabels": { "team": "platform" } } })
        };
        let mut spec = json!({
            "controllerName": "ecs-retirement-controller",
            "accountId": aws_account,
            "region": REGION,
            "assumeRole": { "roleArn": arn },
            "allowedNamespaces": namespaces,
            "families": { "allow": ["f-*", "p-*"] },
            "requireUnused": rng.u8(..4) == 0,
            "suspend": false,
        });
        if let Some(external_id) = &external_id {
            spec["assumeRole"]["externalId"] = json!(external_id);
        }
        self.roles.push(AssumableRole { arn, external_id, session_lifetime });
        Account { name: format!("a{index}"), id: aws_account, spec }
    }

    /// Creates an EcsAccount, and changes what it allows. The final state does not depend on when
    /// the controller notices a change, unless the change is permanent.
    fn life_of_account(&mut self, rng: &mut Rng, account: &Account, end: Duration) {
        let Account { name, spec, .. } = account;
        let [first, second] = random_times(rng, end);
        let created = if rng.u8(..4) == 0 { first.mul_f64(0.5) } else { Duration::ZERO };
        let create =
            |at| (at, UserAction::Create { kind: Kind::Account, name: name.clone(), spec: spec.clone() });
        let edit = |at, field: &str, value: Value| {
            let mut spec = spec.clone();
            spec[field] = value;
            (at, UserAction::Edit { kind: Kind::Account, name: name.clone(), spec })
        };
        self.actions.push(create(created));
        let role = spec["assumeRole"]["roleArn"].as_str().unwrap_or_default().to_owned();
        let changes = match rng.u8(..10) {
            0 => vec![
                edit(first, "families", json!({ "allow": ["other-*"] })),
                edit(second, "families", spec["families"].clone()),
            ],
            1 => {
                // Permanently narrowed: the family of the first retirement is denied.
                self.raced_families.insert(format!("f-{name}-r0"));
                let denied = json!({ "allow": ["f-*", "p-*"], "deny": [format!("f-{name}-r0")] });
                vec![edit(first, "families", denied)]
            }
            2 => vec![edit(first, "suspend", json!(true)), edit(second, "suspend", json!(false))],
            3 => {
                let delete = UserAction::Delete { kind: Kind::Account, name: name.clone() };
                vec![(first, delete), create(second)]
            }
            4 => vec![
                edit(first, "allowedNamespaces", json!({ "names": ["other"] })),
                edit(second, "allowedNamespaces", spec["allowedNamespaces"].clone()),
            ],
            5 => {
                let label = |team: &str| UserAction::LabelNamespace { labels: json!({ "team": team }) };
                vec![(first, label("other")), (second, label("platform"))]
            }
            6 => {
                let trust = |is_trusted| UserAction::Trust { role: role.clone(), is_trusted };
                vec![(first, trust(false)), (second, trust(true))]
            }
            7 => vec![(first, UserAction::RevokeSessions { role })],
            _ => Vec::new(),
        };
        self.actions.extend(changes);
    }

    fn resource_of_account(&mut self, rng: &mut Rng, account: &Account, name: &str, end: Duration) {
        let family = format!("f-{name}");
        let count = [rng.usize(1..=4), 12][usize::from(rng.u8(..4) == 0)];
        let all = self.register(account.id, &family, count);
        let in_use = if rng.bool() { "Wait" } else { "Retire" };
        let mut spec = json!({ "revisions": all, "inUse": in_use, "accountRef": { "name": account.name } });
        let [created, changed] = random_times(rng, end);
        match rng.u8(..8) {
            0 => {
                // Suspended midway, and resumed.
                self.create(created, name, &spec);
                let (suspended, resumed) = (changed, (changed + end) / 2);
                spec["suspend"] = json!(true);
                self.edit(suspended, name, &spec);
                spec["suspend"] = json!(false);
                self.edit(resumed, name, &spec);
            }
            1 => {
                spec["region"] = json!("eu-west-1");
                self.create(created, name, &spec);
            }
            2 => {
                spec["accountRef"]["name"] = json!("missing");
                self.create(created, name, &spec);
            }
            3 => {
                let consumer = all[0].replace(':', "-");
                let until = rng.bool().then_some(changed);
                self.use_from_start_until(until, &consumer, &all[0], rng.bool());
                spec["inUse"] = json!("Wait");
                self.create(created, name, &spec);
            }
            4 => {
                spec["accountId"] = json!(account.id);
                self.create(Duration::ZERO, name, &spec);
            }
            _ => self.create(created, name, &spec),
        }
    }

    /// Two retirements declare the same revisions, each with its EcsAccount of the same AWS
    /// account.
    fn shared_by_accounts(&mut self, rng: &mut Rng, first: &Account, second: &Account, end: Duration) {
        let all = self.register(first.id, "f-both", 4);
        for account in [first, second] {
            let at = random_time(rng, end);
            let spec = json!({ "revisions": all, "inUse": "Wait", "accountRef": { "name": account.name } });
            self.create(at, &format!("both-{}", account.name), &spec);
        }
    }
}
