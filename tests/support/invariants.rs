//! The requests of a run in the order in which they took effect, and the invariants that every run
//! must keep. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::Value;
use testkit::simulated_ecs::{Action, Call, Outcome};

/// Maximum time that a request may be pending, watches included (I6).
pub const MAX_PENDING: Duration = Duration::from_secs(30);

/// A process: its replica, and the number of earlier processes of that replica.
pub type Process = (usize, u32);

/// One request that took effect.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Duration,
    pub by: Process,
    pub operation: Operation,
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// An uncached read of a resource, and when it began. `object` is `None` if the resource does
    /// not exist.
    Read {
        name: String,
        began: Duration,
        object: Option<Value>,
    },
    /// A write of a status, with the response code.
    Wrote {
        name: String,
        status: Value,
        code: u16,
    },
    /// An uncached read of an EcsAccount or a policy, and when it began.
    ReadOther {
        plural: String,
        name: String,
        began: Duration,
        object: Option<Value>,
    },
    /// Any other write: a retirement by its policy, or the status of another kind.
    Changed {
        plural: String,
        name: String,
        code: u16,
    },
    Described {
        arn: String,
        caller: Option<Caller>,
        outcome: Outcome,
    },
    Deregistered(Deregistered),
    /// A list of the ACTIVE revisions of a family, and when the request was sent.
    Listed {
        family: String,
        began: Duration,
        outcome: Outcome,
    },
    /// Any other call to AWS.
    Called(&'static str),
}

impl Operation {
    /// Returns the retirement whose status was written or that was read.
    pub fn retirement(&self) -> Option<&str> {
        match self {
            Self::Read { name, .. } | Self::Wrote { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// The credentials of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    pub account: String,
    pub region: String,
    /// The ARN of the role; `None` for a user.
    pub role: Option<String>,
}

impl Caller {
    /// Returns the credentials of a call. `None` if they are not valid.
    pub fn of(call: &Call) -> Option<Self> {
        let (account, region) = (call.account.clone()?, call.region.clone());
        Some(Self { account, region, role: call.role.clone() })
    }
}

/// A `DeregisterTaskDefinition` call.
#[derive(Clone, Debug)]
pub struct Deregistered {
    pub arn: String,
    /// When the request was sent.
    pub began: Duration,
    /// The credentials of the call. `None` if they are not valid.
    pub caller: Option<Caller>,
    pub outcome: Outcome,
    /// True if the revision was ACTIVE before the call.
    pub changed: bool,
    /// Holder of the lease at the time of the call, if it is known.
    pub lease_holder: Option<String>,
    /// How long the revision had been in use. `None` if it was unused, or if that is not known.
    pub used_for: Option<Duration>,
    /// Number of newer ACTIVE revisions of the family, if it is known.
    pub newer: Option<usize>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3?} {:?} ", self.at, self.by)?;
        match &self.operation {
            Operation::Read { name, object: None, .. } => write!(f, "read {name}: not found"),
            Operation::Read { name, object: Some(object), .. } => {
                let (metadata, status) = (&object["metadata"], &object["status"]);
                write!(f, "read {name}: generation {}, {}", metadata["generation"], status["progress"])
            }
            Operation::Wrote { name, code, .. } => write!(f, "wrote {name}: {code}"),
            Operation::ReadOther { plural, name, object, .. } => {
                let generation = object.as_ref().map(|it| &it["metadata"]["generation"]);
                write!(f, "read {plural} {name}: generation {generation:?}")
            }
            Operation::Changed { plural, name, code } => write!(f, "changed {plural} {name}: {code}"),
            Operation::Described { arn, outcome, .. } => write!(f, "described {arn}: {outcome:?}"),
            Operation::Listed { family, outcome, .. } => write!(f, "listed {family}: {outcome:?}"),
            Operation::Deregistered(call) => write!(f, "{call:?}"),
            Operation::Called(action) => f.write_str(action),
        }
    }
}

/// Returns the revision of an ARN as `family:revision`.
pub fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// Returns the `DeregisterTaskDefinition` calls with their index.
pub fn deregistrations(entries: &[Entry]) -> impl Iterator<Item = (usize, Process, &Deregistered)> {
    entries.iter().enumerate().filter_map(|(index, entry)| match &entry.operation {
        Operation::Deregistered(call) => Some((index, entry.by, call)),
        _ => None,
    })
}

/// Returns the violations of I1, I3 and I4. `interruptions` is the number of calls of a revision
/// that may be repeated, since a process was interrupted.
pub fn violations(entries: &[Entry], interruptions: u32) -> Vec<String> {
    let mut violations = undeclared_deregistrations(entries);
    violations.extend(foreign_calls(entries));
    violations.extend(inactive_before_ecs(entries));
    violations.extend(excess_deregistrations(entries, interruptions));
    violations
}

/// The reads on which a deregistration is based: those that the process began after its last
/// `DescribeTaskDefinition` call for the revision, and that were complete before the
/// deregistration.
pub struct FreshReads<'a> {
    /// The resources that declare the revision, by their latest read, and when that began.
    pub declaring: Vec<(Duration, &'a Value)>,
    entries: &'a [Entry],
    by: Process,
}

impl<'a> FreshReads<'a> {
    pub fn of(entries: &'a [Entry], index: usize, by: Process, arn: &str) -> Self {
        let before = &entries[..index];
        let described = before.iter().rposition(|entry| {
            entry.by == by && matches!(&entry.operation, Operation::Described { arn: it, .. } if it == arn)
        });
        let Some(described) = described else { return Self { declaring: Vec::new(), entries: &[], by } };
        let entries = &before[described..];
        let reads = entries.iter().filter_map(|entry| match &entry.operation {
            Operation::Read { name, began, object } if entry.by == by => {
                Some((*began, name, object.as_ref()))
            }
            _ => None,
        });
        let mut reads: Vec<_> = reads.filter(|(began, ..)| *began >= entries[0].at).collect();
        reads.sort_by_key(|(began, ..)| *began);
        let latest: BTreeMap<&String, (Duration, Option<&Value>)> =
            reads.into_iter().map(|(began, name, object)| (name, (began, object))).collect();
        let objects = latest.into_values().filter_map(|(began, object)| Some((began, object?)));
        let declaring = objects.filter(|(_, object)| declares(object, arn)).collect();
        Self { declaring, entries, by }
    }

    /// Returns the reads of an EcsAccount or a policy that began at `since` or later.
    pub fn of_other(
        &self,
        plural: &'static str,
        name: &'a str,
        since: Duration,
    ) -> impl Iterator<Item = &'a Value> {
        let by = self.by;
        self.entries.iter().filter_map(move |entry| match &entry.operation {
            Operation::ReadOther { plural: kind, name: it, began, object } => {
                let is_requested = entry.by == by && kind == plural && it == name && *began >= since;
                object.as_ref().filter(|_| is_requested)
            }
            _ => None,
        })
    }
}

/// I1: the latest read of some resource, by the process that deregisters a revision, declares the
/// revision.
fn undeclared_deregistrations(entries: &[Entry]) -> Vec<String> {
    let is_undeclared = |(index, by, call): &(usize, Process, &Deregistered)| {
        FreshReads::of(entries, *index, *by, &call.arn).declaring.is_empty()
    };
    let undeclared = deregistrations(entries).filter(is_undeclared);
    undeclared
        .map(|(index, by, call)| {
            let at = entries[index].at;
            format!(
                "I1: {} deregistered without a fresh read that declares it, by {by:?} at {at:?}",
                call.arn
            )
        })
        .collect()
}

fn declares(object: &Value, arn: &str) -> bool {
    let spec = &object["spec"];
    let is_on_hold = spec["suspend"] == true
        || spec["dryRun"] == true
        || !object["metadata"]["deletionTimestamp"].is_null();
    let mut revisions = spec["revisions"].as_array().into_iter().flatten();
    !is_on_hold && revisions.any(|it| it == arn || it == short(arn))
}

/// I1: no call names a revision of another account or region than those of its credentials.
fn foreign_calls(entries: &[Entry]) -> Vec<String> {
    let named = entries.iter().filter_map(|entry| match &entry.operation {
        Operation::Described { arn, caller, .. }
        | Operation::Deregistered(Deregistered { arn, caller, .. }) => Some((arn, caller.as_ref()?)),
        _ => None,
    });
    let is_foreign = |(arn, caller): &(&String, &Caller)| {
        let Caller { account, region, .. } = caller;
        !arn.starts_with(&format!("arn:aws:ecs:{region}:{account}:task-definition/"))
    };
    let foreign = named.filter(is_foreign);
    foreign.map(|(arn, _)| format!("I1: {arn} called, but belongs to another account or region")).collect()
}

/// I3: a status reports INACTIVE only after ECS has reported it for that very ARN.
fn inactive_before_ecs(entries: &[Entry]) -> Vec<String> {
    let is_reported = |arn: &str, before: &[Entry]| {
        let done = deregistrations(before).find(|(_, _, call)| call.changed && call.arn == arn);
        done.is_some_and(|(done, ..)| {
            before[done..].iter().any(|entry| match &entry.operation {
                Operation::Described { arn: it, outcome, .. }
                | Operation::Deregistered(Deregistered { arn: it, outcome, .. }) => {
                    it == arn && *outcome == Outcome::Ok
                }
                _ => false,
            })
        })
    };
    let mut violations = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Operation::Wrote { name, status, .. } = &entry.operation else { continue };
        for row in status["revisions"].as_array().into_iter().flatten() {
            let arn = row["arn"].as_str().unwrap_or_default();
            let is_retired = row["status"] == "INACTIVE" || row["reason"] == "Retired";
            if is_retired && !is_reported(arn, &entries[..index]) {
                violations.push(format!("I3: {name} reports {arn} as INACTIVE before ECS does"));
            }
        }
    }
    violations
}

/// I4: a revision is deregistered once, plus at most once for each interruption of a process.
fn excess_deregistrations(entries: &[Entry], interruptions: u32) -> Vec<String> {
    let mut carried_out: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, _, call) in deregistrations(entries) {
        if matches!(call.outcome, Outcome::Ok | Outcome::Dropped) {
            *carried_out.entry(&call.arn).or_default() += 1;
        }
    }
    let excess = carried_out.into_iter().filter(|(_, count)| *count > 1 + interruptions);
    excess
        .map(|(arn, count)| format!("I4: {arn} deregistered {count} times, {interruptions} interruptions"))
        .collect()
}

/// What an EcsAccount allows: its AWS account, one region, and the families.
pub struct Allowed<'a> {
    pub account: &'a str,
    pub region: &'a str,
    pub families: &'a [&'a str],
}

/// I8: returns the calls to ECS in an account or region, or for a family, that no EcsAccount
/// allows. Usage scans and lists name no task definition.
pub fn calls_that_are_not_allowed(calls: &[Call], allowed: &[Allowed<'_>]) -> Vec<String> {
    let is_allowed = |call: &&Call| {
        let named = call.task_definition.as_deref();
        let family = named.map(|it| short(it).rsplit_once(':').map_or(short(it), |(family, _)| family));
        allowed.iter().any(|it| {
            call.account.as_deref() == Some(it.account)
                && call.region == it.region
                && family.is_none_or(|family| it.families.contains(&family))
                && named.is_none_or(|named| !named.contains('/') || named.contains(it.account))
        })
    };
    let refused = calls.iter().filter(|call| call.action.is_ecs() && !is_allowed(call));
    refused.map(|call| format!("I8: {call:?}")).collect()
}

/// Maximum age of the list on which a deregistration with `spec.keepLatest` is based (I7), with the
/// time that the deregistration takes to arrive.
const MAX_LIST_AGE: Duration = Duration::from_secs(15 + 1);

/// I7: returns the deregistrations without a recent list of ACTIVE revisions, or of one of the
/// newest `keep_latest`. `calls` are of one family, and `active` are its ACTIVE revisions after
/// them: only the controller deregisters any.
pub fn deregistrations_of_kept(calls: &[Call], keep_latest: usize, active: &[i32]) -> Vec<String> {
    let is_justified = |(index, call): &(usize, &Call)| {
        let number = call.task_definition.as_deref().and_then(|it| it.rsplit(':').next()?.parse().ok());
        let has_newer =
            number.is_some_and(|number: i32| active.iter().filter(|it| **it > number).count() >= keep_latest);
        let mut lists = calls[..*index].iter().filter(|it| it.action == Action::ListTaskDefinitions);
        has_newer && lists.any(|it| it.outcome == Outcome::Ok && call.at - it.at <= MAX_LIST_AGE)
    };
    let all = calls.iter().enumerate().filter(|(_, it)| it.action == Action::DeregisterTaskDefinition);
    all.filter(|it| !is_justified(it)).map(|(_, call)| format!("I7: {call:?}")).collect()
}
