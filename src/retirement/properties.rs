//! Property tests of the invariants of plan and status, for any responses of ECS and any edits by
//! users.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::{collection::vec, prelude::*, sample::subsequence};

use crate::{
    api::{
        InUse, REQUESTED_AT, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementSpec,
        conditions::READY,
    },
    aws::identity::Identity,
    aws::{
        response::{DescribeResult, Description, Failure, FailureKind, Reply, Status},
        usage::{Use, User, Users},
    },
    retirement::{
        account_guard::AccountGuard,
        outcome::{Outcome, RevisionKey},
        plan::{Observed, Step, step},
        requeue::work_is_due,
        resolve::{self, Entry, Target},
        row::recorded_row,
        status::{Findings, Report, summarize},
        validate::{ValidatedSpec, validate},
    },
};

fn identity() -> Identity {
    Identity {
        partition: "aws".to_owned(),
        account: "012345678910".to_owned(),
        region: "us-west-2".to_owned(),
    }
}

fn description(status: Status) -> Description {
    let deregistered_at = status.is_retired().then_some(Timestamp::UNIX_EPOCH);
    Description { status, registered_at: Some(Timestamp::UNIX_EPOCH), deregistered_at }
}

fn any_seen() -> impl Strategy<Value = DescribeResult> {
    let status = prop_oneof![
        3 => Just(Status::Active),
        2 => Just(Status::Inactive),
        1 => Just(Status::DeleteInProgress),
        1 => Just(Status::Other("FROZEN".to_owned())),
    ];
    let kind = prop_oneof![
        Just(FailureKind::Absent),
        Just(FailureKind::Deleted),
        Just(FailureKind::Throttled),
        Just(FailureKind::Unavailable),
        Just(FailureKind::ServerFault),
        Just(FailureKind::AccessDenied),
        Just(FailureKind::Refused),
    ];
    prop_oneof![
        3 => status.prop_map(|status| Ok(description(status))),
        1 => kind.prop_map(|kind| Err(failure(kind))),
    ]
}

/// Returns a failure as ECS returns it.
fn failure(kind: FailureKind) -> Failure {
    let failure = Failure::new(kind, format!("{kind:?}")).during("DescribeTaskDefinition");
    Failure { code: Some(format!("{kind:?}Exception")), ..failure }
}

fn any_use() -> impl Strategy<Value = Option<Use>> {
    let user = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
    let failure = failure(FailureKind::AccessDenied);
    prop_oneof![
        1 => Just(None),
        3 => Just(Some(Use::Unused { at: Some(Timestamp::UNIX_EPOCH), last_used: None })),
        1 => Just(Some(Use::InUse(Users { named: vec![user], more: 0 }))),
        1 => Just(Some(Use::Unknown(failure))),
    ]
}

/// Responses of ECS: to the description, to the deregistration, and to the description after it.
type Responses = (DescribeResult, DescribeResult, DescribeResult);

/// The input of one reconcile: the edits of the user and the responses of AWS.
#[derive(Clone, Debug)]
struct Round {
    declared: Vec<&'static str>,
    suspend: bool,
    dry_run: bool,
    in_use: InUse,
    usage: Option<Use>,
    requested: Option<u8>,
    caller_known: bool,
    responses: BTreeMap<String, Responses>,
}

const ENTRIES: [&str; 6] = [
    "api:1",
    "api:2",
    "arn:aws:ecs:us-west-2:012345678910:task-definition/web:1",
    "arn:aws:ecs:us-west-2:999999999999:task-definition/web:2",
    "arn:aws:ecs:eu-west-1:012345678910:task-definition/web:3",
    "web:latest",
];

fn any_round() -> impl Strategy<Value = Round> {
    let responses = prop::collection::btree_map(
        prop_oneof![Just("api:1"), Just("api:2"), Just("web:1")].prop_map(str::to_owned),
        (any_seen(), any_seen(), any_seen()),
        0..3,
    );
    (
        subsequence(ENTRIES.to_vec(), 1..=ENTRIES.len()),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop_oneof![Just(InUse::Wait), Just(InUse::Retire)],
        any_use(),
        prop::option::weighted(0.3, 0u8..3),
        prop::bool::weighted(0.8),
        responses,
    )
        .prop_map(|(declared, suspend, dry_run, in_use, usage, requested, caller_known, responses)| {
            Round { declared, suspend, dry_run, in_use, usage, requested, caller_known, responses }
        })
}

fn report<'a>(
    spec: &'a ValidatedSpec,
    (account, entries): (Option<&'a str>, &'a [Entry]),
    identity_failure: Option<&'a Failure>,
    outcomes: &'a BTreeMap<RevisionKey, Outcome>,
    scanned_at: Option<Timestamp>,
) -> Report<'a> {
    let (region, position) = (Some("us-west-2"), None);
    let findings =
        Findings { spec, region, account, entries, identity_failure, outcomes, position, scanned_at };
    Report::Valid(findings)
}

/// Applies the edits to the resource and simulates one reconcile. Records which ARNs ECS reported
/// as INACTIVE, and which were deregistered.
#[expect(clippy::too_many_lines, reason = "one round, in the order of its steps")]
fn run(
    resource: &mut TaskDefinitionRetirement,
    round: &Round,
    inactive: &mut Vec<String>,
    deregistered: &mut Vec<String>,
) {
    let spec = TaskDefinitionRetirementSpec {
        revisions: round.declared.iter().map(|&text| text.to_owned()).collect(),
        suspend: round.suspend,
        dry_run: round.dry_run,
        in_use: round.in_use,
        ..Default::default()
    };
    if resource.spec != spec {
        resource.spec = spec;
        resource.metadata.generation = resource.metadata.generation.map(|generation| generation + 1);
    }
    if let Some(requested) = round.requested {
        resource.annotations_mut().insert(REQUESTED_AT.to_owned(), requested.to_string());
    }
    let identity = identity();
    let unknown = Failure::new(FailureKind::Unavailable, "no response");
    let failure = (!round.caller_known).then_some(&unknown);
    let spec = validate(&resource.spec).expect("a valid spec");
    let allowed = BTreeSet::new();
    let known = round.caller_known.then_some(&identity);
    let guard = AccountGuard { declared: None, recorded: None, account: None, allowed: &allowed };
    let entries = resolve::entries(&spec, known, &guard, None, None, |_| None);
    let account = guard.account(known);
    let rows = resource.status.clone().unwrap_or_default().revisions;
    let mut outcomes = BTreeMap::new();
    for entry in &entries {
        let (Target::Resolved(arn), Some((seen, response, after))) =
            (&entry.target, round.responses.get(entry.key.as_str()))
        else {
            continue;
        };
        let mut note = |seen: &DescribeResult| {
            if seen.as_ref().is_ok_and(|it| it.status == Status::Inactive) {
                inactive.push(arn.to_string());
            }
        };
        note(seen);
        let recorded = recorded_row(entry, &rows);
        let usage = round.usage.clone();
        let observed = Observed { arn: arn.clone(), description: Some(seen.clone()), usage, newer: None };
        let outcome = match step(&spec, recorded, observed, Some(Timestamp::UNIX_EPOCH)) {
            Step::Report(seen) => Outcome::Described(seen),
            Step::Wait { before, usage } => Outcome::MustWait { before, usage },
            Step::NeedUsage | Step::NeedNewer | Step::Resume | Step::Keep { .. } => continue,
            Step::Deregister { before, deregistration } => {
                deregistered.push(deregistration.arn().to_string());
                note(response);
                note(after);
                let reply = Reply { response: response.clone(), request_id: Some("request".to_owned()) };
                let after = reply.needs_description().then(|| after.clone());
                Outcome::Deregistered { before, reply, after }
            }
        };
        outcomes.insert(entry.key.clone(), outcome);
    }
    let resolved = (account, entries.as_slice());
    let observed = report(&spec, resolved, failure, &outcomes, Some(Timestamp::UNIX_EPOCH));
    resource.status = Some(summarize(resource, observed, Timestamp::UNIX_EPOCH));

    let (now, none) = (Timestamp::from_second(60).expect("a time"), BTreeMap::new());
    assert_eq!(
        Some(summarize(resource, report(&spec, resolved, failure, &none, None), now)),
        resource.status,
        "the status stays the same if nothing is observed"
    );
}

proptest! {
    #[test]
    fn status_reports_what_ecs_returned_for_the_declared_revisions(rounds in vec(any_round(), 1..8)) {
        let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
        resource.metadata.generation = Some(1);
        let (mut inactive, mut deregistered) = (Vec::new(), Vec::new());
        let mut retired: Vec<RevisionStatus> = Vec::new();
        for round in &rounds {
            let before = deregistered.len();
            run(&mut resource, round, &mut inactive, &mut deregistered);
            let status = resource.status.clone().expect("a status");

            for arn in &deregistered[before..] {
                prop_assert!(!round.suspend && !round.dry_run);
                let is_unused = matches!(round.usage, Some(Use::Unused { .. }));
                prop_assert!(is_unused || round.in_use == InUse::Retire);
                let short = arn.rsplit('/').next();
                prop_assert!(round.declared.iter().any(|&it| it == arn || Some(it) == short));
                let is_repeated = retired.iter().any(|row| row.arn.as_ref() == Some(arn));
                prop_assert!(!is_repeated, "{arn} is deregistered again");
            }
            for row in &status.revisions {
                if row.status.as_deref() == Some("INACTIVE") {
                    prop_assert!(row.arn.as_ref().is_some_and(|arn| inactive.contains(arn)), "{row:?}");
                }
                if let Some(before) = retired.iter().find(|it| it.revision == row.revision) {
                    prop_assert!(row.reason.is_retired(), "{before:?} became {row:?}");
                    prop_assert_eq!(&row.request_id, &before.request_id);
                }
            }
            retired = status.revisions.iter().filter(|row| row.reason.is_retired()).cloned().collect();

            prop_assert_eq!(status.revisions.len(), round.declared.len());
            let sum = status.retired + status.waiting + status.rejected;
            prop_assert_eq!(usize::try_from(sum).expect("a count"), status.revisions.len());
            prop_assert_eq!(&status.progress, &format!("{}/{}", retired.len(), status.revisions.len()));
            let is_ready = status.conditions[0].status == "True";
            prop_assert_eq!(&status.conditions[0].type_, READY);
            prop_assert_eq!(is_ready, retired.len() == status.revisions.len());
            prop_assert!(!is_ready || status.conditions.len() == 1);
            prop_assert!(status.waiting == 0 || round.suspend || round.dry_run || work_is_due(&resource));
        }
    }
}
