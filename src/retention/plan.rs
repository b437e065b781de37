//! Plan of a run: which retirements are created, narrowed, deleted and finished. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    retention::{
        existing::{Declared, Existing},
        validate::ValidatedPolicy,
    },
    task_definition::Revision,
};

/// Maximum number of revisions in one proposed retirement.
pub const MAX_PER_RETIREMENT: usize = 500;

/// The name of a run, from the time of its start: `20261126-153012`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Run {
    policy: String,
    started: Timestamp,
}

impl Run {
    #[must_use]
    pub fn new(policy: &str, started: Timestamp) -> Self {
        Self { policy: policy.to_owned(), started }
    }

    fn prefix(&self) -> String {
        format!("{}-{}-", self.policy, self.started.strftime("%Y%m%d-%H%M%S"))
    }

    /// Returns the number of a retirement of this run, or `None` if it is of another run.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        name.strip_prefix(&self.prefix())?.parse().ok()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix().trim_end_matches('-'))
    }
}

/// What was read of one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Family {
    pub name: String,
    /// The newest ACTIVE revisions, newest first: `keep.latest` of them, or all if there are fewer.
    pub newest: Vec<i32>,
    /// The oldest ACTIVE revisions that were read, oldest first.
    pub oldest: Vec<i32>,
    /// With `keep.youngerThan`: the highest number that is known to be old enough. `None` if none
    /// is.
    pub old_until: Option<i32>,
}

/// The state on which a plan is based.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub policy: &'a ValidatedPolicy,
    /// The generation of the policy.
    pub generation: i64,
    pub run: &'a Run,
    pub families: &'a [Family],
    /// The revisions of the families that are in use, or whose usage is unknown.
    pub in_use: &'a BTreeSet<Revision>,
    pub existing: &'a [Existing],
    /// The earliest possible time by AWS's clock; `None` while it is unknown.
    pub now: Option<Timestamp>,
    /// False if a retirement must not be created, because another awaits approval.
    pub may_create: bool,
}

/// A retirement to narrow.
#[derive(Clone, Debug, PartialEq)]
pub struct Narrowed {
    pub existing: Existing,
    /// The entries that stay.
    pub entries: Vec<String>,
    /// The new `spec.keepLatest`. It never becomes lower.
    pub keep_latest: u32,
    /// False if the family of an entry was not read, such as one that the EcsAccount refuses. Then
    /// the generation of the policy is not recorded, and the retirement waits.
    pub is_judged: bool,
}

/// The changes that a run makes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The retirements to create: the name, and the revisions.
    pub create: Vec<(String, Vec<Revision>)>,
    pub narrow: Vec<Narrowed>,
    pub delete: Vec<Existing>,
    /// Number of revisions that are not kept, unused and not declared yet.
    pub retirable: usize,
    /// Number of revisions that would be retirable, but are in use.
    pub in_use: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { create, narrow, delete, .. } = self;
        let revisions: usize = create.iter().map(|(_, revisions)| revisions.len()).sum();
        write!(
            f,
            "create {} with {revisions} revisions, narrow {}, delete {}",
            create.len(),
            narrow.len(),
            delete.len()
        )
    }
}

/// Returns the plan of a run.
///
/// A revision is proposed only if its number is below all of the newest `keep.latest` of its
/// family, it is known to be old enough, it is unused, and nothing keeps or declares it.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut declared = BTreeSet::new();
    let families: BTreeMap<&str, &Family> =
        input.families.iter().map(|family| (family.name.as_str(), family)).collect();
    plan.delete.extend(input.existing.iter().filter(|it| it.is_controlled && it.is_dry_run).cloned());
    for existing in input.existing.iter().filter(|it| it.is_unfinished()) {
        let stays: Vec<&Declared> =
            existing.declared.iter().filter(|it| stays(input, &families, existing, it)).collect();
        declared.extend(stays.iter().filter_map(|it| it.revision.clone()));
        if stays.is_empty() {
            plan.delete.push(existing.clone());
        } else {
            plan.narrow.extend(narrow(input, &families, existing, &stays));
        }
    }
    let mut proposed = Vec::new();
    for family in input.families.iter().filter(|family| input.policy.includes(&family.name)) {
        for revision in candidates(input.policy, family).filter(|it| !declared.contains(it)) {
            if input.in_use.contains(&revision) {
                plan.in_use += 1;
            } else {
                proposed.push(revision);
            }
        }
    }
    plan.retirable = proposed.len();
    if input.may_create {
        plan.create = create(input, proposed);
    }
    trim_history(input, &mut plan);
    plan
}

/// Returns the revisions of a family that the rule does not keep, oldest first.
pub fn candidates<'a>(
    policy: &'a ValidatedPolicy,
    family: &'a Family,
) -> impl Iterator<Item = Revision> + 'a {
    let revision = |number: &i32| Revision::new(&family.name, *number);
    family.oldest.iter().filter(|number| is_candidate(policy, family, **number)).filter_map(revision)
}

fn is_candidate(policy: &ValidatedPolicy, family: &Family, number: i32) -> bool {
    let latest = usize::try_from(policy.latest).unwrap_or(usize::MAX);
    // With fewer ACTIVE revisions than are kept, all are kept.
    let is_below_newest = family.newest.len() >= latest && family.newest.iter().all(|it| number < *it);
    let is_old = policy.younger_than.is_none() || family.old_until.is_some_and(|old| number <= old);
    let is_kept = Revision::new(&family.name, number).is_none_or(|it| policy.kept_revisions.contains(&it));
    is_below_newest && is_old && !is_kept
}

/// Returns true if an entry of an unfinished retirement stays: it is retired, or the rule does not
/// keep it now.
fn stays(
    input: &Input<'_>,
    families: &BTreeMap<&str, &Family>,
    existing: &Existing,
    declared: &Declared,
) -> bool {
    let (policy, Some(revision)) = (input.policy, &declared.revision) else { return true };
    if declared.is_retired {
        return true;
    }
    if !policy.includes(revision.family()) || policy.kept_revisions.contains(revision) {
        return false;
    }
    let family = families.get(revision.family());
    // Without an ACTIVE revision in the family, this one is not ACTIVE either.
    let is_newest = family.is_some_and(|family| family.newest.iter().any(|it| revision.number() >= *it));
    !is_newest && is_old(input, family.copied(), existing, declared)
}

/// Returns how a retirement is narrowed to the entries that stay; `None` if it is so already.
fn narrow(
    input: &Input<'_>,
    families: &BTreeMap<&str, &Family>,
    existing: &Existing,
    stays: &[&Declared],
) -> Option<Narrowed> {
    let is_read = |revision: &Revision| families.contains_key(revision.family());
    let is_judged = stays.iter().all(|it| it.is_retired || it.revision.as_ref().is_none_or(is_read));
    let is_current = existing.policy_generation.as_deref() == Some(&input.generation.to_string());
    let latest = input.policy.latest;
    let keep_latest = existing.keep_latest.map_or(latest, |before| before.max(latest));
    let is_changed = stays.len() < existing.declared.len() || existing.keep_latest != Some(keep_latest);
    let entries = || stays.iter().map(|it| it.text.clone()).collect();
    (is_changed || is_judged && !is_current).then(|| Narrowed {
        existing: existing.clone(),
        entries: entries(),
        keep_latest,
        is_judged,
    })
}

/// Returns true if a declared revision is old enough. If its age is unknown, it is old if it was
/// when the present generation of the policy chose it.
fn is_old(input: &Input<'_>, family: Option<&Family>, existing: &Existing, declared: &Declared) -> bool {
    let Some(younger_than) = input.policy.younger_than else { return true };
    let number = declared.revision.as_ref().map(Revision::number);
    if family.and_then(|family| family.old_until).zip(number).is_some_and(|(old, number)| number <= old) {
        return true;
    }
    match (declared.registered_at, input.now) {
        (Some(registered_at), Some(now)) => now.duration_since(registered_at) >= younger_than,
        _ => existing.policy_generation.as_deref() == Some(&input.generation.to_string()),
    }
}

/// Returns the retirements to create. A run that was interrupted continues after those that it has
/// created.
fn create(input: &Input<'_>, proposed: Vec<Revision>) -> Vec<(String, Vec<Revision>)> {
    let of_run = |it: &&Existing| !it.is_dry_run && input.run.number(&it.name).is_some();
    let created: Vec<&Existing> = input.existing.iter().filter(of_run).collect();
    let created_revisions: usize = created.iter().map(|it| it.declared.len()).sum();
    let numbers = input.existing.iter().filter_map(|it| input.run.number(&it.name));
    let next = numbers.max().map_or(0, |number| number + 1);
    let left = input.policy.max_revisions.saturating_sub(created_revisions);
    let proposed: Vec<Revision> = proposed.into_iter().take(left).collect();
    let chunks = proposed.chunks(MAX_PER_RETIREMENT).enumerate();
    chunks.map(|(index, chunk)| (format!("{}{}", input.run.prefix(), next + index), chunk.to_vec())).collect()
}

/// Deletes the oldest records beyond the history limit. A name of a policy sorts by time.
fn trim_history(input: &Input<'_>, plan: &mut Plan) {
    let Some(limit) = input.policy.history_limit else { return };
    let mut records: Vec<&Existing> =
        input.existing.iter().filter(|it| !it.is_controlled && it.is_finished).collect();
    records.sort_by_key(|record| {
        let (run, number) = record.name.rsplit_once('-').unwrap_or((&record.name, ""));
        std::cmp::Reverse((run.to_owned(), number.parse::<usize>().ok()))
    });
    plan.delete.extend(records.into_iter().skip(limit).cloned());
}

#[cfg(test)]
mod tests;
