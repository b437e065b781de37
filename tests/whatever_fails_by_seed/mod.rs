//! Whatever fails: random schedules of faults, people and deploys, and no promise broken. A seed makes a schedule, and the same one each time.
//!
//! The real replicas run in process, over a model of the API server and the simulated ECS; their clocks are paused and move in
//! turns, so that minutes take milliseconds. `SEEDS=50000` runs that many, `SEED=7` runs one and prints its journal.

mod journal;
mod link;
mod oracle;
mod people;
mod replica;
mod run;
mod schedule;
mod time;
mod world;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::{people::People, schedule::Schedule};

/// How many schedules run where nobody says: few, since `make chaos` tries many, and faster.
const SEEDS: u64 = 50;

/// What all runs came to.
#[derive(Default)]
struct Total {
    schedules: u64,
    struck: BTreeMap<String, u64>,
    events: u64,
    crashes: u64,
    pauses: u64,
    handovers: u64,
    deregistered: u64,
    repeats: u64,
    deploys: u64,
    longest_rest: Duration,
    virtual_time: Duration,
    failures: Vec<String>,
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs the schedule of one seed.
fn try_seed(seed: u64, total: &Mutex<Total>, is_alone: bool) {
    let schedule = Schedule::of(seed);
    let people = People::of(seed, schedule.end);
    let story = format!("{schedule}{people}");
    if is_alone {
        println!("{story}");
    }
    let calm = run::run(Schedule::calm(&schedule), &people);
    let run = run::run(schedule, &people);
    let mut found = oracle::violations(&run, &people, &calm);
    found.extend(calm.world.journal().violations.iter().map(|it| format!("without a fault: {it}")));
    let journal = run.world.journal();
    if is_alone {
        journal.entries.iter().for_each(|entry| println!("{entry}"));
    }
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    total.schedules += 1;
    for (kind, count) in &journal.struck {
        *total.struck.entry(kind.clone()).or_default() += count;
    }
    total.events += journal.events;
    total.crashes += u64::from(journal.crashes);
    total.pauses += journal.paused.len() as u64;
    total.handovers += u64::from(journal.handovers);
    total.repeats += oracle::repeats(&journal) as u64;
    total.deregistered +=
        run.world.ecs.calls_of(testkit::simulated_ecs::Action::DeregisterTaskDefinition).len() as u64;
    total.deploys += journal.deploys.0;
    total.longest_rest = total.longest_rest.max(run.rest);
    total.virtual_time += run.world.time.now();
    if !found.is_empty() {
        let failure = format!("SEED={seed}\n{story}{}", found.join("\n"));
        // At once, since a night is long.
        eprintln!("{failure}\n");
        total.failures.push(failure);
    }
}

#[test]
fn whatever_fails_by_seed_no_promise_is_broken() {
    let (only, seeds) = (number("SEED"), number("SEEDS").unwrap_or(SEEDS));
    let (first, end) = only.map_or((0, seeds), |seed| (seed, seed + 1));
    let (next, total, began) = (AtomicU64::new(first), Mutex::new(Total::default()), Instant::now());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| try_seed(seed, &total, only.is_some())));
            if outcome.is_err() {
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.failures.push(format!("SEED={seed}\n{}: the run panicked", Schedule::of(seed)));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", report(&total, began.elapsed()));
    let failures = &total.failures;
    assert!(
        failures.is_empty(),
        "{} of {} schedules broke a promise; each replays by its seed, and the last was\n{}",
        failures.len(),
        total.schedules,
        failures.last().map_or("", String::as_str)
    );
}

fn report(total: &Total, took: Duration) -> String {
    let mut text = format!(
        "{} schedules in {:.0} s ({:.1} days of virtual time): {} crashes, {} pauses, {} handovers, {} watch events, {} deploys, \
         {} Deregisters of which {} repeated one; at rest {:.0} s after the last fault at the latest",
        total.schedules,
        took.as_secs_f64(),
        total.virtual_time.as_secs_f64() / 86_400.0,
        total.crashes,
        total.pauses,
        total.handovers,
        total.events,
        total.deploys,
        total.deregistered,
        total.repeats,
        total.longest_rest.as_secs_f64(),
    );
    for (kind, count) in &total.struck {
        let _ = write!(text, "\n  {kind}: {count}");
    }
    text
}
