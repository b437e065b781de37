//! Randomized fault schedules: each seed determines faults, user actions and deploys, and the
//! oracle checks the invariants of the run.
//!
//! The real replicas run in process, with a model of the API server and the simulated ECS. Their
//! clocks are paused and advance in steps, so that minutes take milliseconds. `SEEDS=50000` runs
//! that many schedules, `SEED=7` runs one and prints its journal.

mod account_users;
mod actions;
mod allowed;
mod buckets;
mod convergence;
mod journal;
mod kinds;
mod link;
mod kept;
mod oracle;
mod policy_users;
mod proposals;
mod users;
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

use self::{schedule::Schedule, users::Users};

/// Default number of schedules. It is small, since `make chaos` runs many more in an optimized
/// build.
const DEFAULT_SEEDS: u64 = 50;

/// Totals of all runs.
#[derive(Default)]
struct Total {
    schedules: u64,
    injected: BTreeMap<String, u64>,
    events: u64,
    crashes: u64,
    pauses: u64,
    handovers: u64,
    deregistered: u64,
    repeats: u64,
    deploys: u64,
    longest_convergence: Duration,
    virtual_time: Duration,
    failures: Vec<String>,
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("invalid {variable}={text}: expected a number")))
}

/// Runs the schedule of one seed and adds the result to `total`.
fn check_seed(seed: u64, total: &Mutex<Total>, is_single: bool) {
    let mut schedule = Schedule::of(seed);
    let users = Users::of(seed, schedule.end);
    if !users.roles.is_empty() {
        schedule = schedule.with_role_faults();
    }
    let scenario = format!("{schedule}{users}");
    if is_single {
        println!("{scenario}");
    }
    let baseline = run::run(Schedule::without_faults(&schedule), &users);
    let run = run::run(schedule, &users);
    let mut violations = oracle::violations(&run, &users, &baseline);
    violations.extend(baseline.world.journal().violations.iter().map(|it| format!("without faults: {it}")));
    let journal = run.world.journal();
    if is_single {
        journal.entries.iter().for_each(|entry| println!("{entry}"));
    }
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    total.schedules += 1;
    for (kind, count) in &journal.injected {
        *total.injected.entry(kind.clone()).or_default() += count;
    }
    total.events += journal.events;
    total.crashes += u64::from(journal.crashes);
    total.pauses += journal.paused.len() as u64;
    total.handovers += u64::from(journal.handovers);
    total.repeats += oracle::repeats(&journal) as u64;
    total.deregistered +=
        run.world.ecs.calls_of(testkit::simulated_ecs::Action::DeregisterTaskDefinition).len() as u64;
    total.deploys += journal.deploys.0;
    total.longest_convergence = total.longest_convergence.max(run.convergence);
    total.virtual_time += run.world.time.now();
    if !violations.is_empty() {
        let failure = format!("SEED={seed}\n{scenario}{}", violations.join("\n"));
        // Printed immediately, since all seeds together may take hours.
        eprintln!("{failure}\n");
        total.failures.push(failure);
    }
}

#[test]
fn invariants_hold_for_every_seed() {
    let (only, seeds) = (number("SEED"), number("SEEDS").unwrap_or(DEFAULT_SEEDS));
    let (first, end) = only.map_or((0, seeds), |seed| (seed, seed + 1));
    let (next, total, start) = (AtomicU64::new(first), Mutex::new(Total::default()), Instant::now());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| check_seed(seed, &total, only.is_some())));
            if outcome.is_err() {
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.failures.push(format!("SEED={seed}\n{}: the run panicked", Schedule::of(seed)));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // The default run shares the machine with tests that measure time.
    let threads = if number("SEEDS").is_some() { cores } else { (cores / 2).max(1) };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", report(&total, start.elapsed()));
    let failures = &total.failures;
    assert!(
        failures.is_empty(),
        "{} of {} schedules violated an invariant; replay each one with its SEED; the last one:\n{}",
        failures.len(),
        total.schedules,
        failures.last().map_or("", String::as_str)
    );
}

fn report(total: &Total, elapsed: Duration) -> String {
    let mut text = format!(
        "{} schedules in {:.0} s ({:.1} days of virtual time): {} crashes, {} pauses, {} handovers, \
         {} watch events, {} deploys, {} deregistrations, {} of them repeated; \
         converged at most {:.0} s after the last fault",
        total.schedules,
        elapsed.as_secs_f64(),
        total.virtual_time.as_secs_f64() / 86_400.0,
        total.crashes,
        total.pauses,
        total.handovers,
        total.events,
        total.deploys,
        total.deregistered,
        total.repeats,
        total.longest_convergence.as_secs_f64(),
    );
    for (kind, count) in &total.injected {
        let _ = write!(text, "\n  {kind}: {count}");
    }
    text
}
