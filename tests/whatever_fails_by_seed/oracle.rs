//! The oracle: what a run left behind, held against the invariants, and against the run of the same people without a fault.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use testkit::simulated_ecs::{Action, Outcome};

use super::{
    journal::{Deregistered, Journal, Process, What},
    people::People,
    replica::identity,
    run::Run,
    world::{RETIREMENTS, World},
};

/// No call stays pending longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// For how long a process may go on that was stopped while it acted, or whose call was long on its way.
const MARGIN: Duration = Duration::from_secs(30);

/// How often a resource may be read and written within how long.
const MOST_ASKED: usize = 150;
const HURRY: Duration = Duration::from_secs(5);

/// How old what is known of use may be: a minute, or two scans, each call of which is as late as a schedule makes it.
const OLDEST_SCAN: Duration = Duration::from_mins(3);

/// What a run broke.
pub fn violations(run: &Run, people: &People, calm: &Run) -> Vec<String> {
    let journal = run.world.journal();
    let mut found = journal.violations.clone();
    found.extend(declared_whenever_deregistered(&journal));
    found.extend(led_whenever_deregistered(&run.world, &journal));
    found.extend(unused_whenever_deregistered(&journal));
    found.extend(at_most_once(&journal));
    found.extend(true_to_the_end(&run.world));
    found.extend(patient(&journal));
    if journal.longest_wait > LONGEST_WAIT {
        found.push(format!("I6: a request was pending for {:?}", journal.longest_wait));
    }
    // A run that is not at rest has no end to compare.
    if found.is_empty() {
        found.extend(same_end(run, people, calm));
    }
    found
}

fn deregistrations(journal: &Journal) -> impl Iterator<Item = (usize, Process, &Deregistered)> {
    journal.entries.iter().enumerate().filter_map(|(index, entry)| match &entry.what {
        What::Deregistered(call) => Some((index, entry.by, call)),
        _ => None,
    })
}

/// I1: between its last look at a revision and the call, the process read a resource that declares it.
fn declared_whenever_deregistered(journal: &Journal) -> Vec<String> {
    let is_undeclared = |(index, by, call): &(usize, Process, &Deregistered)| {
        let before = journal.entries[..*index].iter().rev().filter(|entry| entry.by == *by);
        let since_look = before.take_while(
            |entry| !matches!(&entry.what, What::Described { revision, .. } if *revision == call.revision),
        );
        !since_look.into_iter().any(|entry| {
            matches!(&entry.what, What::Read { object: Some(object), .. } if declares(object, &call.revision))
        })
    };
    deregistrations(journal)
        .filter(is_undeclared)
        .map(|(index, by, call)| {
            let at = journal.entries[index].at;
            format!(
                "I1: {by:?} deregistered {} at {at:?}, and had read nothing that declares it",
                call.revision
            )
        })
        .collect()
}

fn declares(object: &Value, revision: &str) -> bool {
    let spec = &object["spec"];
    let held = spec["suspend"] == json!(true)
        || spec["dryRun"] == json!(true)
        || !object["metadata"]["deletionTimestamp"].is_null();
    let mut revisions = spec["revisions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    !held && revisions.any(|it| it.rsplit('/').next() == Some(revision))
}

/// A process deregisters only while the lease is its own, unless it was stopped between its last check and the call.
fn led_whenever_deregistered(world: &World, journal: &Journal) -> Vec<String> {
    let is_another = |(index, by, call): &(usize, Process, &Deregistered)| {
        let at = journal.entries[*index].at;
        world.schedule.replicas > 1
            && call.holder.as_ref() != Some(&identity(*by))
            && !journal.was_paused(by.0, at.saturating_sub(MARGIN), at)
    };
    deregistrations(journal)
        .filter(is_another)
        .map(|(index, by, call)| {
            let at = journal.entries[index].at;
            format!(
                "leader: {by:?} deregistered {} at {at:?} while {:?} held the lease",
                call.revision, call.holder
            )
        })
        .collect()
}

/// What has been in use for longer than any scan is good for is left alone.
fn unused_whenever_deregistered(journal: &Journal) -> Vec<String> {
    let is_used = |(index, _, call): &(usize, Process, &Deregistered)| {
        let from_the_start = call.used_for == Some(journal.entries[*index].at);
        from_the_start || call.used_for.is_some_and(|used| used > OLDEST_SCAN)
    };
    let used = deregistrations(journal).filter(is_used);
    used.map(|(_, by, call)| {
        format!("use: {by:?} deregistered {}, in use for {:?}", call.revision, call.used_for)
    })
    .collect()
}

/// I4: a revision is deregistered once, and once more at the most for each time that a process was cut short.
fn at_most_once(journal: &Journal) -> Vec<String> {
    let mut carried_out: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, _, call) in deregistrations(journal) {
        if matches!(call.outcome, Outcome::Ok | Outcome::Dropped) {
            *carried_out.entry(&call.revision).or_default() += 1;
        }
    }
    let cut_short = journal.crashes + u32::try_from(journal.paused.len()).unwrap_or(u32::MAX);
    let often = carried_out.into_iter().filter(|(_, count)| *count > 1 + cut_short);
    often
        .map(|(revision, count)| {
            format!("I4: {revision} was deregistered {count} times, {cut_short} cut short")
        })
        .collect()
}

/// I6: whatever fails, a process does not ask for the same again and again without a pause.
fn patient(journal: &Journal) -> Option<String> {
    let mut asked: BTreeMap<(Process, &str), Vec<Duration>> = BTreeMap::new();
    for entry in &journal.entries {
        if let What::Wrote { name, .. } | What::Read { name, .. } = &entry.what {
            asked.entry((entry.by, name)).or_default().push(entry.at);
        }
    }
    let hurried =
        |times: &&Vec<Duration>| times.windows(MOST_ASKED).any(|it| it[MOST_ASKED - 1] < it[0] + HURRY);
    let ((by, name), _) = asked.iter().find(|(_, times)| hurried(times))?;
    Some(format!("I6: {by:?} read and wrote {name} {MOST_ASKED} times within {HURRY:?}"))
}

/// How often a revision was deregistered that was not ACTIVE any more.
pub fn repeats(journal: &Journal) -> usize {
    deregistrations(journal)
        .filter(|(_, _, call)| !call.changed && matches!(call.outcome, Outcome::Ok | Outcome::Dropped))
        .count()
}

/// The times and the request ids in the statuses are those of ECS.
fn true_to_the_end(world: &World) -> Vec<String> {
    let calls = world.ecs.calls_of(Action::DeregisterTaskDefinition);
    let mut found = Vec::new();
    for object in world.api.objects(RETIREMENTS) {
        for row in object["status"]["revisions"].as_array().into_iter().flatten() {
            let (revision, name) =
                (row["revision"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
            let known = (!revision.contains('/')).then(|| world.west.describe(revision)).flatten();
            let told = row["deregisteredAt"].as_str().and_then(|text| text.parse().ok());
            let truth = known.and_then(|known| known.deregistered_at);
            let second = |time: k8s_openapi::jiff::Timestamp| time.as_second();
            if told.is_some() && told.map(second) != truth.map(second) {
                found.push(format!(
                    "true: {name} says {revision} was deregistered at {told:?}, and ECS {truth:?}"
                ));
            }
            let Some(request_id) = row["requestId"].as_str() else { continue };
            let is_its_call = |call: &testkit::simulated_ecs::Call| {
                call.request_id == request_id
                    && call
                        .task_definition
                        .as_deref()
                        .is_some_and(|arn| arn.ends_with(&format!("/{revision}")))
            };
            if !calls.iter().any(is_its_call) {
                found.push(format!("true: {name} has {request_id} for {revision}, of no such call"));
            }
        }
    }
    found
}

/// I5: the end is that of the run without a fault, times and request ids apart.
fn same_end(run: &Run, people: &People, calm: &Run) -> Vec<String> {
    let (ended, expected) = (end(&run.world, people), end(&calm.world, people));
    let keys = ended.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = keys.into_iter().filter(|key| ended.get(*key) != expected.get(*key));
    differing
        .map(|key| format!("I5: {key} ended as {:?}\n  instead of {:?}", ended.get(key), expected.get(key)))
        .collect()
}

/// What is to be the same: every resource and every revision.
fn end(world: &World, people: &People) -> BTreeMap<String, String> {
    let resources = world.api.objects(RETIREMENTS).into_iter().map(|mut object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let generation = object["metadata"]["generation"].clone();
        forget_times(&mut object["status"]);
        (name, format!("{generation} {} {}", object["spec"], object["status"]))
    });
    let revisions = people
        .families
        .iter()
        .flat_map(|(family, count)| (1..=count + 1).map(move |number| format!("{family}:{number}")));
    let revisions = revisions.filter(|revision| !people.races.contains(revision)).map(|revision| {
        let status = format!("{:?}", world.west.status(&revision));
        (revision, status)
    });
    resources.chain(revisions).collect()
}

/// Removes from a message that the list of revisions was refused: the row is final then, and says so.
fn forget_refused_list(message: &mut String) {
    let Some(begin) = message.find("; ecs:ListTaskDefinitions") else { return };
    let length = message[begin..].find(')').unwrap_or(message.len() - begin);
    message.replace_range(begin..begin + length, "");
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in [
                "lastTransitionTime",
                "registeredAt",
                "deregisteredAt",
                "requestId",
                "unusedSince",
                "lastUsageScan",
            ] {
                fields.remove(field);
            }
            fields.values_mut().for_each(forget_times);
            if let Some(Value::String(message)) = fields.get_mut("message") {
                forget_refused_list(message);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}
