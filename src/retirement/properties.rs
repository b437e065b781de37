//! What holds of plan and status whatever ECS answers and whatever people change: the invariants, as properties.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::{collection::vec, prelude::*, sample::subsequence};

use crate::{
    api::{
        InUse, REQUESTED_AT, Reason, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementSpec,
        conditions::READY,
    },
    aws::identity::Identity,
    aws::{
        response::{Description, Failure, FailureKind, Outcome, Reply, Seen, Status},
        usage::{Use, User, Users},
    },
    retirement::{
        account_guard::AccountGuard,
        plan::{Step, plan},
        requeue::work_is_due,
        resolve::{self, Entry, Target},
        row::recorded_row,
        status::{Caller, Observation, summarize},
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

fn any_seen() -> impl Strategy<Value = Seen> {
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
        1 => kind.prop_map(|kind| Err(Failure::new(kind, format!("{kind:?}")))),
    ]
}

fn any_use() -> impl Strategy<Value = Option<Use>> {
    let user = User::Service { cluster: "prod".to_owned(), name: "web".to_owned() };
    let failure = Failure::new(FailureKind::AccessDenied, "no");
    prop_oneof![
        1 => Just(None),
        3 => Just(Some(Use::Unused { at: Some(Timestamp::UNIX_EPOCH), last_used: None })),
        1 => Just(Some(Use::InUse(Users { named: vec![user], more: 0 }))),
        1 => Just(Some(Use::Unknown(failure))),
    ]
}

/// What ECS answers to a look, to the call, and to the look after it.
type Answers = (Seen, Seen, Seen);

#[derive(Clone, Debug)]
struct Pass {
    declared: Vec<&'static str>,
    suspend: bool,
    dry_run: bool,
    in_use: InUse,
    usage: Option<Use>,
    requested: Option<u8>,
    caller_known: bool,
    answers: BTreeMap<String, Answers>,
}

const ENTRIES: [&str; 6] = [
    "api:1",
    "api:2",
    "arn:aws:ecs:us-west-2:012345678910:task-definition/web:1",
    "arn:aws:ecs:us-west-2:999999999999:task-definition/web:2",
    "arn:aws:ecs:eu-west-1:012345678910:task-definition/web:3",
    "web:latest",
];

fn any_pass() -> impl Strategy<Value = Pass> {
    let answers = prop::collection::btree_map(
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
        answers,
    )
        .prop_map(|(declared, suspend, dry_run, in_use, usage, requested, caller_known, answers)| Pass {
            declared,
            suspend,
            dry_run,
            in_use,
            usage,
            requested,
            caller_known,
            answers,
        })
}

fn valid<'a>(
    (account, entries): (Option<&'a str>, &'a [Entry]),
    caller: Caller<'a>,
    outcomes: &'a BTreeMap<String, Outcome>,
    scanned_at: Option<Timestamp>,
) -> Observation<'a> {
    let (region, place) = ("us-west-2", None);
    Observation::Valid { region, account, entries, caller, outcomes, place, scanned_at }
}

/// Changes the resource as its author would, runs one pass as the shell does, and notes which ARNs ECS
/// called INACTIVE, and which it was asked to deregister.
fn run(
    resource: &mut TaskDefinitionRetirement,
    pass: &Pass,
    inactive: &mut Vec<String>,
    asked: &mut Vec<String>,
) {
    let spec = TaskDefinitionRetirementSpec {
        revisions: pass.declared.iter().map(|&text| text.to_owned()).collect(),
        suspend: pass.suspend,
        dry_run: pass.dry_run,
        in_use: pass.in_use,
        ..Default::default()
    };
    if resource.spec != spec {
        resource.spec = spec;
        resource.metadata.generation = resource.metadata.generation.map(|generation| generation + 1);
    }
    if let Some(requested) = pass.requested {
        resource.annotations_mut().insert(REQUESTED_AT.to_owned(), requested.to_string());
    }
    let identity = identity();
    let unknown = Failure::new(FailureKind::Unavailable, "no answer");
    let caller = if pass.caller_known { Caller::Known(&identity) } else { Caller::Unknown(&unknown) };
    let allowed = BTreeSet::new();
    let known = pass.caller_known.then_some(&identity);
    let guard = AccountGuard { declared: None, recorded: None, allowed: &allowed };
    let entries = resolve::entries(&resource.spec, known, &guard);
    let account = guard.account(known);
    let rows = resource.status.clone().unwrap_or_default().revisions;
    let mut outcomes = BTreeMap::new();
    for entry in &entries {
        let (Target::Resolved(arn), Some((seen, answer, after))) =
            (&entry.target, pass.answers.get(&entry.revision))
        else {
            continue;
        };
        let mut note = |seen: &Seen| {
            if seen.as_ref().is_ok_and(|it| it.status == Status::Inactive) {
                inactive.push(arn.to_string());
            }
        };
        note(seen);
        let recorded = recorded_row(entry, &rows);
        let usage = pass.usage.clone();
        let step =
            plan(&resource.spec, arn, recorded, seen.clone(), usage.as_ref(), Some(Timestamp::UNIX_EPOCH));
        let outcome = match step {
            Step::Report(seen) => Outcome::Described(seen),
            Step::Wait { before, usage } => Outcome::MustWait { before: Some(before), usage },
            Step::NeedUsage => continue,
            Step::Deregister { before, deregistration } => {
                asked.push(deregistration.arn().to_string());
                note(answer);
                note(after);
                let reply = Reply { answer: answer.clone(), request_id: Some("request".to_owned()) };
                let after = reply.is_due_for_ecs().then(|| after.clone());
                Outcome::Deregistered { before, reply, after }
            }
        };
        outcomes.insert(entry.revision.clone(), outcome);
    }
    let finding = valid((account, &entries), caller, &outcomes, Some(Timestamp::UNIX_EPOCH));
    resource.status = Some(summarize(resource, finding, Timestamp::UNIX_EPOCH));

    let (now, none) = (Timestamp::from_second(60).expect("a time"), BTreeMap::new());
    let finding = valid((account, &entries), caller, &none, None);
    assert_eq!(Some(summarize(resource, finding, now)), resource.status, "nothing learned, nothing changed");
}

proptest! {
    #[test]
    fn whatever_happens_the_status_tells_what_ecs_said_of_what_is_declared(passes in vec(any_pass(), 1..8)) {
        let mut resource = TaskDefinitionRetirement::new("api", TaskDefinitionRetirementSpec::default());
        resource.metadata.generation = Some(1);
        let (mut inactive, mut asked) = (Vec::new(), Vec::new());
        let mut retired: Vec<RevisionStatus> = Vec::new();
        for pass in &passes {
            let before = asked.len();
            run(&mut resource, pass, &mut inactive, &mut asked);
            let status = resource.status.clone().expect("a status");

            for arn in &asked[before..] {
                prop_assert!(!pass.suspend && !pass.dry_run);
                let is_unused = matches!(pass.usage, Some(Use::Unused { .. }));
                prop_assert!(is_unused || pass.in_use == InUse::Retire);
                let short = arn.rsplit('/').next();
                prop_assert!(pass.declared.iter().any(|&it| it == arn || Some(it) == short));
                prop_assert!(!retired.iter().any(|row| row.arn.as_ref() == Some(arn)), "{arn} again");
            }
            for row in &status.revisions {
                if row.status.as_deref() == Some("INACTIVE") {
                    prop_assert!(row.arn.as_ref().is_some_and(|arn| inactive.contains(arn)), "{row:?}");
                }
                if let Some(before) = retired.iter().find(|it| it.revision == row.revision) {
                    let stays = [Reason::Retired, Reason::Deleting, Reason::Deleted].contains(&row.reason);
                    prop_assert!(stays, "{before:?} became {row:?}");
                    prop_assert_eq!(&row.request_id, &before.request_id);
                }
            }
            retired = status.revisions.iter().filter(|row| {
                matches!(row.reason, Reason::Retired | Reason::Deleting | Reason::Deleted)
            }).cloned().collect();

            prop_assert_eq!(status.revisions.len(), pass.declared.len());
            let sum = status.retired + status.waiting + status.rejected;
            prop_assert_eq!(usize::try_from(sum).expect("a count"), status.revisions.len());
            prop_assert_eq!(&status.progress, &format!("{}/{}", retired.len(), status.revisions.len()));
            let is_ready = status.conditions[0].status == "True";
            prop_assert_eq!(&status.conditions[0].type_, READY);
            prop_assert_eq!(is_ready, retired.len() == status.revisions.len());
            prop_assert!(!is_ready || status.conditions.len() == 1);
            prop_assert!(status.waiting == 0 || pass.suspend || pass.dry_run || work_is_due(&resource));
        }
    }
}
