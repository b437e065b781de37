//! Tests of the validation and resolution of specs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{api::TaskDefinitionRetirementSpec, retirement::validate::validate};

static EVERY_ACCOUNT: BTreeSet<String> = BTreeSet::new();

fn guard(recorded: Option<&str>) -> AccountGuard<'_> {
    AccountGuard { declared: None, recorded, account: None, allowed: &EVERY_ACCOUNT }
}

fn identity() -> Identity {
    Identity {
        partition: "aws".to_owned(),
        account: "012345678910".to_owned(),
        region: "us-west-2".to_owned(),
    }
}

fn spec(revisions: &[&str]) -> ValidatedSpec {
    let revisions = revisions.iter().map(|&text| text.to_owned()).collect();
    let spec = TaskDefinitionRetirementSpec { revisions, ..TaskDefinitionRetirementSpec::default() };
    validate(&spec).expect("a valid spec")
}

fn reasons(revisions: &[&str], identity: Option<&Identity>, account: Option<&str>) -> Vec<Option<Reason>> {
    entries(&spec(revisions), identity, &guard(account), None, None, |_| None)
        .iter()
        .map(|entry| match &entry.target {
            Target::Rejected { reason, .. } => Some(*reason),
            Target::Resolved(_) | Target::Unresolved(_) => None,
        })
        .collect()
}

const CPU_WAVE: &str = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1";

#[test]
fn short_form_and_arn_of_a_revision_are_one_entry() {
    let entries = entries(
        &spec(&["cpu-wave:1", CPU_WAVE, "cpu-wave:1"]),
        Some(&identity()),
        &guard(None),
        None,
        None,
        |_| None,
    );
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].key.as_str(), "cpu-wave:1");
    assert!(matches!(&entries[0].target, Target::Resolved(arn) if arn.to_string() == CPU_WAVE));
}

#[test]
fn arn_of_another_account_or_region_is_rejected_with_the_arn_as_key() {
    let foreign = [
        ("arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:1", Reason::WrongAccount),
        ("arn:aws-cn:ecs:us-west-2:012345678910:task-definition/cpu-wave:1", Reason::WrongAccount),
        ("arn:aws:ecs:eu-west-1:012345678910:task-definition/cpu-wave:1", Reason::WrongRegion),
    ];
    for (arn, expected) in foreign {
        let entries =
            entries(&spec(&[arn, "cpu-wave:1"]), Some(&identity()), &guard(None), None, None, |_| None);
        assert_eq!(entries[0].key.as_str(), arn);
        assert!(matches!(&entries[0].target, Target::Rejected { reason, .. } if *reason == expected));
        assert!(matches!(&entries[1].target, Target::Resolved(_)));
    }
}

#[test]
fn entries_are_resolved_only_in_the_recorded_account() {
    let declared = ["cpu-wave:1", CPU_WAVE];
    assert_eq!(
        reasons(&declared, Some(&identity()), Some("999999999999")),
        [Some(Reason::WrongAccount), Some(Reason::WrongAccount)]
    );
    assert_eq!(reasons(&declared, Some(&identity()), Some("012345678910")), [None]);
}

#[test]
fn invalid_entry_does_not_affect_other_entries() {
    assert_eq!(
        reasons(&["cpu-wave", "cpu-wave:1", "cpu-wave:+7"], Some(&identity()), None),
        [Some(Reason::Invalid), None, Some(Reason::Invalid)]
    );
    assert_eq!(reasons(&["cpu-wave", "cpu-wave:1"], None, None), [Some(Reason::Invalid), None]);
}

#[test]
fn region_is_declared_or_the_default_and_never_changes() {
    let recorded = TaskDefinitionRetirementStatus {
        region: Some("eu-west-1".to_owned()),
        ..TaskDefinitionRetirementStatus::default()
    };
    let named = |name: &str| ValidatedSpec { region: Some(name.to_owned()), ..spec(&["api:1"]) };
    assert_eq!(region(&spec(&["api:1"]), None, None), Err(InvalidSpec::NoRegion));
    assert_eq!(
        region(&spec(&["api:1"]), None, Some("Oregon")),
        Err(InvalidSpec::Region("Oregon".to_owned()))
    );
    assert!(matches!(
        region(&named("us-west-2"), Some(&recorded), None),
        Err(InvalidSpec::RegionChanged { .. })
    ));
    assert_eq!(region(&named("eu-west-1"), Some(&recorded), None), Ok("eu-west-1".to_owned()));
    assert_eq!(region(&spec(&["api:1"]), None, Some("us-west-2")), Ok("us-west-2".to_owned()));
}

#[test]
fn row_keeps_its_key_when_the_account_changes() {
    let other_arn = "arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:1";
    let keys = |account| {
        let entries = entries(
            &spec(&["cpu-wave:2", other_arn]),
            Some(&identity()),
            &guard(Some(account)),
            Some("us-west-2"),
            None,
            |_| None,
        );
        entries.into_iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(keys("999999999999"), ["cpu-wave:2", "cpu-wave:1"], "resolved in this account before");
    assert_eq!(keys("012345678910"), ["cpu-wave:2", other_arn]);
    assert_eq!(keys("111111111111"), ["cpu-wave:2", other_arn]);
}

#[test]
fn refused_entries_of_two_regions_are_two_rows() {
    let other_region = "arn:aws:ecs:eu-west-1:012345678910:task-definition/cpu-wave:1";
    let refuse = |_: &str| Some(Refused { reason: Reason::NotAllowed, message: "no".to_owned() });
    let (identity, guard) = (identity(), guard(None));
    let spec = spec(&[CPU_WAVE, other_region]);
    let entries = entries(&spec, Some(&identity), &guard, Some("us-west-2"), None, refuse);
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["cpu-wave:1", other_region]);
}

proptest! {
    #[test]
    fn resolved_arn_belongs_to_the_account_region_and_partition_of_the_identity(text in "[a-z]{1,3}:[1-9]|arn:aws(-cn)?:ecs:(us-west-2|eu-west-1):(012345678910|999999999999):task-definition/[a-z]:[1-9]") {
        let identity = identity();
        for entry in entries(&spec(&[&text]), Some(&identity), &guard(None), None, None, |_| None) {
            if let Target::Resolved(arn) = entry.target {
                prop_assert_eq!(arn.account(), &identity.account);
                prop_assert_eq!(arn.region(), &identity.region);
                prop_assert_eq!(arn.partition(), &identity.partition);
                prop_assert!(text == entry.key.as_str() || text == arn.to_string());
            }
        }
    }
}
