//! Tests of the plan of a run: no revision that the rule keeps is ever proposed.

use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicySpec},
    retention::{existing::declared_revisions, validate::validate},
};

const GENERATION: i64 = 3;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn revision(family: &str, number: i32) -> Revision {
    Revision::new(family, number).expect("a revision")
}

/// Returns a policy for the families `a*` that keeps `latest` revisions.
fn policy(latest: u32, change: impl FnOnce(&mut TaskDefinitionRetentionPolicySpec)) -> ValidatedPolicy {
    let spec = serde_json::json!({ "families": { "include": ["a*"] }, "keep": { "latest": latest } });
    let mut spec = serde_json::from_value(spec).expect("a spec");
    change(&mut spec);
    validate(&TaskDefinitionRetentionPolicy::new("web", spec)).expect("a valid policy")
}

fn family(name: &str, numbers: &[i32], latest: u32) -> Family {
    let latest = usize::try_from(latest).expect("a count");
    let newest = numbers.iter().rev().take(latest).copied().collect();
    Family { name: name.to_owned(), newest, oldest: numbers.to_vec(), old_until: None }
}

fn run() -> Run {
    Run::new("web", at(1_795_707_012))
}

fn existing(name: &str, revisions: &[&str]) -> Existing {
    let declared = revisions.iter().map(|text| Declared {
        text: (*text).to_owned(),
        revision: text.rsplit_once(':').map(|(family, number)| revision(family, number.parse().expect("it"))),
        is_retired: false,
        registered_at: None,
    });
    Existing {
        name: name.to_owned(),
        uid: name.to_owned(),
        resource_version: "1".to_owned(),
        is_controlled: true,
        is_finished: false,
        is_suspended: true,
        is_dry_run: false,
        keep_latest: Some(2),
        declared: declared.collect(),
        policy_generation: Some(GENERATION.to_string()),
        has_annotations: true,
        other_owners: Vec::new(),
    }
}

fn planned(policy: &ValidatedPolicy, families: &[Family], existing: &[Existing]) -> Plan {
    plan_with(policy, families, existing, &BTreeSet::new(), true)
}

fn plan_with(
    policy: &ValidatedPolicy,
    families: &[Family],
    existing: &[Existing],
    in_use: &BTreeSet<Revision>,
    may_create: bool,
) -> Plan {
    let (run, now, generation) = (run(), Some(at(1_000)), GENERATION);
    plan(&Input { policy, generation, run: &run, families, in_use, existing, now, may_create })
}

fn narrowed(plan: &Plan) -> Vec<String> {
    plan.narrow.iter().map(|it| format!("{}: {}", it.existing.name, it.entries.join(" "))).collect()
}

fn created(plan: &Plan) -> Vec<String> {
    plan.create.iter().flat_map(|(_, revisions)| revisions).map(ToString::to_string).collect()
}

#[test]
fn revisions_below_the_newest_are_proposed_in_chunks_with_the_name_of_the_run() {
    let (policy, numbers) =
        (policy(2, |spec| spec.max_revisions_per_run = 5000), (1..=1_203).collect::<Vec<_>>());
    let plan = planned(&policy, &[family("a", &numbers, 2), family("b", &numbers, 2)], &[]);
    let sizes: Vec<(&str, usize)> =
        plan.create.iter().map(|(name, revisions)| (name.as_str(), revisions.len())).collect();
    let expected =
        [("web-20261126-153012-0", 500), ("web-20261126-153012-1", 500), ("web-20261126-153012-2", 201)];
    assert_eq!(sizes, expected);
    assert_eq!(plan.retirable, 1_201);
    assert_eq!(created(&plan).last().map(String::as_str), Some("a:1201"), "only the included family");
}

#[test]
fn interrupted_run_continues_after_what_it_has_created() {
    let policy = policy(1, |spec| spec.max_revisions_per_run = 4);
    let of_run = existing("web-20261126-153012-0", &["a:1", "a:2"]);
    let plan = planned(&policy, &[family("a", &[1, 2, 3, 4, 5, 6, 7], 1)], &[of_run]);
    assert_eq!(plan.create.len(), 1);
    assert_eq!(plan.create[0].0, "web-20261126-153012-1");
    assert_eq!(created(&plan), ["a:3", "a:4"], "four in all");
    assert_eq!(plan.retirable, 4);
}

#[test]
fn kept_used_declared_and_young_revisions_are_not_proposed() {
    let policy = policy(1, |spec| {
        spec.keep.revisions = vec!["a:2".to_owned()];
        spec.keep.younger_than = Some("1h".to_owned());
    });
    let family = Family { old_until: Some(6), ..family("a", &[1, 2, 3, 4, 5, 6, 7, 8], 1) };
    let in_use = BTreeSet::from([revision("a", 3)]);
    let declared = existing("web-1", &["a:4"]);
    let plan = plan_with(&policy, &[family], &[declared], &in_use, true);
    assert_eq!(created(&plan), ["a:1", "a:5", "a:6"]);
    assert_eq!((plan.retirable, plan.in_use), (3, 1));
    let waiting = plan_with(&policy, &[], &[], &in_use, false);
    assert_eq!(waiting.create, []);
}

#[test]
fn unfinished_retirement_is_narrowed_to_what_is_not_kept_now() {
    let policy = policy(2, |spec| spec.keep.revisions = vec!["a:1".to_owned()]);
    let families = [family("a", &[1, 2, 3, 4, 5], 2)];
    let mut wide = existing("web-1", &["a:1", "a:2", "a:4", "b:1"]);
    wide.declared[2].is_retired = true;
    let plan = planned(&policy, &families, &[wide]);
    assert_eq!(narrowed(&plan), ["web-1: a:2 a:4"], "a retired one stays");
    let empty = existing("web-2", &["a:4", "b:1"]);
    assert_eq!(planned(&policy, &families, std::slice::from_ref(&empty)).delete, [empty]);
    let same = existing("web-3", &["a:2"]);
    assert_eq!(planned(&policy, &families, std::slice::from_ref(&same)).narrow, [], "nothing changes");
    let older = Existing { policy_generation: Some("2".to_owned()), ..same };
    let plan = planned(&policy, &families, std::slice::from_ref(&older));
    assert_eq!(narrowed(&plan), ["web-3: a:2"]);
    assert!(plan.narrow[0].is_judged, "the generation is recorded");
}

#[test]
fn raised_number_of_kept_revisions_is_written_into_unfinished_retirements() {
    let families = [family("a", &[1, 2, 3, 4, 5], 3)];
    let of = |keep_latest, latest| {
        let existing = Existing { keep_latest, ..existing("web-1", &["a:1"]) };
        let plan = planned(&policy(latest, |_| {}), &families, &[existing]);
        plan.narrow.first().map(|it| it.keep_latest)
    };
    assert_eq!((of(Some(2), 3), of(None, 3)), (Some(3), Some(3)));
    assert_eq!((of(Some(3), 3), of(Some(4), 3)), (None, None), "it never becomes lower");
}

#[test]
fn retirement_with_an_entry_of_an_unread_family_is_not_confirmed() {
    let policy = policy(2, |_| {});
    let before = Existing { policy_generation: Some("2".to_owned()), ..existing("web-1", &["a:1", "ab:1"]) };
    let (read, unread) = (family("a", &[1, 2, 3], 2), family("ab", &[1, 2, 3], 2));
    let plan = planned(&policy, &[read.clone(), unread], std::slice::from_ref(&before));
    assert!(plan.narrow[0].is_judged);
    let plan = planned(&policy, std::slice::from_ref(&read), std::slice::from_ref(&before));
    assert_eq!(plan.narrow, [], "it waits until its families can be read");
    let lower = Existing { keep_latest: Some(1), ..before };
    let plan = planned(&policy, &[read], &[lower]);
    assert_eq!(plan.narrow.first().map(|it| (it.keep_latest, it.is_judged)), Some((2, false)));
}

#[test]
fn age_of_a_declared_revision_is_known_by_its_number_its_time_or_its_generation() {
    let policy = policy(1, |spec| spec.keep.younger_than = Some("100s".to_owned()));
    let families = [Family { old_until: Some(2), ..family("a", &[1, 2, 3, 4, 5, 6], 1) }];
    let mut it = existing("web-1", &["a:2", "a:3", "a:4", "a:5"]);
    it.declared[1].registered_at = Some(at(900));
    it.declared[2].registered_at = Some(at(901));
    let stays =
        |it: &Existing| planned(&policy, &families, std::slice::from_ref(it)).narrow[0].entries.clone();
    assert_eq!(stays(&it), ["a:2", "a:3", "a:5"]);
    it.policy_generation = Some("2".to_owned());
    assert_eq!(stays(&it), ["a:2", "a:3"], "it may be too young for the changed policy");
}

#[test]
fn finished_retirements_are_records_and_the_oldest_are_deleted() {
    let policy = policy(1, |spec| spec.history_limit = Some(1));
    let finished = |name| Existing { is_finished: true, is_controlled: false, ..existing(name, &["a:1"]) };
    let plan = planned(&policy, &[], &[finished("web-1"), finished("web-3"), finished("web-2")]);
    let deleted: Vec<&str> = plan.delete.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(deleted, ["web-2", "web-1"]);
    let dry = Existing { is_dry_run: true, ..existing("web-5", &["a:1"]) };
    assert_eq!(planned(&policy, &[], std::slice::from_ref(&dry)).delete, [dry], "each run replaces it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn newest_revisions_are_never_declared_and_nothing_is_declared_twice(
        latest in 1u32..4,
        numbers in prop::collection::btree_set(1i32..12, 0..8),
        read in 0usize..8,
        old_until in prop::option::of(0i32..12),
        limits_age: bool,
        kept in prop::option::of(1i32..12),
        used in prop::option::of(1i32..12),
        declared in prop::collection::btree_set(1i32..12, 0..4),
        current: bool,
        max in 1u32..6,
        may_create: bool,
    ) {
        let policy = policy(latest, |spec| {
            spec.max_revisions_per_run = max;
            spec.keep.younger_than = limits_age.then(|| "1h".to_owned());
            spec.keep.revisions = kept.iter().map(|number| format!("a:{number}")).collect();
        });
        let numbers: Vec<i32> = numbers.into_iter().collect();
        let mut family = Family { old_until, ..family("a", &numbers, latest) };
        family.oldest.truncate(read);
        let in_use: BTreeSet<Revision> = used.iter().map(|number| revision("a", *number)).collect();
        let texts: Vec<String> = declared.iter().map(|number| format!("a:{number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut before = existing("web-1", &texts);
        before.policy_generation = Some(if current { GENERATION } else { 1 }.to_string());
        let existing: Vec<Existing> = Some(before).filter(|it| !it.declared.is_empty()).into_iter().collect();
        let plan = plan_with(&policy, &[family.clone()], &existing, &in_use, may_create);

        let created: Vec<&Revision> = plan.create.iter().flat_map(|(_, revisions)| revisions).collect();
        let newest: Vec<i32> = numbers.iter().rev().take(usize::try_from(latest).expect("a count")).copied().collect();
        let stays: Vec<i32> = match (plan.narrow.first(), plan.delete.is_empty()) {
            (Some(narrowed), _) => narrowed.entries.iter().filter_map(|it| it.split_once(':')?.1.parse().ok()).collect(),
            (None, true) => declared.iter().copied().collect(),
            (None, false) => Vec::new(),
        };
        for number in created.iter().map(|it| it.number()).chain(stays.iter().copied()) {
            prop_assert!(!newest.contains(&number), "{number} is one of the newest {newest:?}");
            prop_assert!(Some(number) != kept);
        }
        for created in &created {
            prop_assert!(may_create && numbers.contains(&created.number()) && !in_use.contains(*created));
            prop_assert!(!limits_age || old_until.is_some_and(|old| created.number() <= old));
            prop_assert!(!stays.contains(&created.number()), "declared twice");
        }
        let unique: BTreeSet<&Revision> = created.iter().copied().collect();
        prop_assert_eq!(unique.len(), created.len());
        prop_assert!(created.len() <= usize::try_from(max).expect("a count"));
        let _ = declared_revisions(&existing);
    }
}

#[test]
fn time_of_a_run_is_in_its_name() {
    assert_eq!(run().to_string(), "web-20261126-153012");
    assert_eq!(run().number("web-20261126-153012-7"), Some(7));
    for other in
        ["web-20261126-153013-7", "web-20261126-153012", "web-20261126-153012-x", "b-20261126-153012-7"]
    {
        assert_eq!(run().number(other), None, "{other}");
    }
    let later = Run::new("web", at(1_795_707_012) + SignedDuration::from_secs(1));
    assert!(later.to_string() > run().to_string(), "names sort by time");
}
