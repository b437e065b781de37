//! One run: the user actions, faults and replicas of a seed, executed step by step until the run
//! converges.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ecs_retirement_controller::aws::permit_queue::Pacing;

use super::{
    convergence::{is_read, is_run, is_work, max_idle_reads, not_converged},
    replica::Running,
    schedule::{Halt, Schedule, Slot, When},
    users::{UserAction, Users},
    world::World,
};

/// Length of a step before and after convergence.
const STEP: Duration = Duration::from_millis(200);
const LONG_STEP: Duration = Duration::from_secs(2);

/// Number of steps after which garbage is collected and, once the faults have ended, proposals are
/// approved.
const USER_PERIOD: u32 = 25;

/// Time within which a run converges after the last fault, in addition to the time that the rates
/// of ECS require.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_mins(1);

/// Time after convergence in which no write and no call may happen.
const IDLE_PERIOD: Duration = Duration::from_mins(5);

/// Maximum number of writes of one policy in that time, with an interval of a minute: the start and
/// the end of each run.
const MAX_IDLE_RUNS: usize = 2 * 6;

/// The result of a run.
pub struct Run {
    pub world: Arc<World>,
    /// Time from the last fault and the last user action to convergence.
    pub convergence: Duration,
}

/// One of the replicas: its process, or the start time of its next process.
struct Replica {
    slot: Slot,
    processes: u32,
    running: Option<Running>,
    starts_at: Duration,
    /// Delay between the end of a process that was requested to stop and the start of the next one.
    handover_delay: Option<Duration>,
}

pub fn pacing(seed: u64) -> Pacing {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x7061_6365);
    Pacing { per_second: [0.5, 2.0, 10.0][rng.usize(..3)], burst: [1, 10][rng.usize(..2)] }
}

#[expect(clippy::too_many_lines, reason = "one schedule, in the order of its steps")]
pub fn run(schedule: Schedule, users: &Users) -> Run {
    let (seed, end, count) = (schedule.seed, schedule.end, schedule.replicas);
    let pacing = pacing(seed);
    // Seeds the jitter of the watch backoff.
    fastrand::seed(seed);
    let world = World::new(schedule, users.clone());
    let mut replicas: Vec<Replica> = (0..count)
        .map(|slot| Replica {
            slot,
            processes: 0,
            running: None,
            starts_at: STEP.mul_f64(f64::from(u8::from(slot > 0))),
            handover_delay: None,
        })
        .collect();
    let mut actions: VecDeque<&(Duration, UserAction)> = users.actions.iter().collect();
    let mut at = Duration::ZERO;
    let mut step = |at: &mut Duration, length: Duration| {
        for replica in &mut replicas {
            replica.step(&world, pacing, *at, *at + length);
        }
        *at += length;
        world.time.set(*at);
    };
    let limit = end + limit(&world, users, pacing);
    let mut steps = 0_u32;
    loop {
        while let Some((_, action)) = actions.pop_front_if(|(due, _)| *due <= at) {
            world.perform(action);
        }
        step(&mut at, STEP);
        steps += 1;
        if !users.policies.is_empty() && steps.is_multiple_of(USER_PERIOD) {
            world.api.collect_garbage();
            if at >= end {
                world.approve_all();
            }
        }
        // A replica that is still paused is a fault that has not ended.
        let is_paused = world.journal().paused.iter().any(|(_, _, until)| at < *until);
        if at >= end && actions.is_empty() && (!is_paused && not_converged(&world).is_empty() || at >= limit)
        {
            break;
        }
    }
    let convergence = at.saturating_sub(end);
    if at >= limit {
        let stuck = not_converged(&world).join("\n");
        let detail = format!("not converged {convergence:?} after the last fault: {stuck}");
        world.journal().record_violation("I2", &detail);
        return Run { world, convergence };
    }
    // Pending events, such as the one of the last write, may still arrive.
    for _ in 0..50 {
        step(&mut at, STEP);
    }
    for family in &users.missing {
        world.region_of(family).register(family);
    }
    let before = world.journal().entries.len();
    let idle_until = at + IDLE_PERIOD;
    while at < idle_until {
        step(&mut at, LONG_STEP);
        world.api.collect_garbage();
    }
    let mut journal = world.journal();
    let runs = journal.entries[before..].iter().filter(|entry| is_run(&entry.operation)).count();
    if runs > users.policies.len() * MAX_IDLE_RUNS {
        journal.record_violation("I2", &format!("converged, but {runs} writes of policies"));
    }
    let reads = journal.entries[before..].iter().filter(|entry| is_read(&entry.operation)).count();
    if reads > max_idle_reads(&world) {
        journal.record_violation("I2", &format!("converged, but {reads} reads from ECS"));
    }
    let late: Vec<String> = journal.entries[before..]
        .iter()
        .filter(|entry| is_work(&world, &entry.operation))
        .map(ToString::to_string)
        .collect();
    if !late.is_empty() {
        journal.record_violation("I2", &format!("converged, but still active: {}", late.join("\n")));
    }
    drop(journal);
    Run { world, convergence }
}

/// Returns the time within which a run must converge after the last fault. It covers the required
/// rate limit tokens at the minimum rate under throttling, and the retry delays.
fn limit(world: &World, users: &Users, pacing: Pacing) -> Duration {
    let revisions: usize = users.families.values().map(|family| family.count + family.registered_later).sum();
    let revisions = u32::try_from(revisions).unwrap_or(u32::MAX);
    let tokens = Duration::from_secs_f64(f64::from(revisions) / pacing.per_second.min(1.0));
    // A rejected call is retried after at most as long as it was rejected. A throttled rate doubles
    // every minute.
    // Each run of a policy may propose three revisions only.
    let runs = Duration::from_mins(1) * if users.policies.is_empty() { 0 } else { 8 };
    runs + CONVERGENCE_TIMEOUT + tokens + world.schedule.end.mul_f64(1.2) + Duration::from_mins(4)
}

impl Replica {
    fn step(&mut self, world: &Arc<World>, pacing: Pacing, at: Duration, until: Duration) {
        if self.running.is_none() && self.starts_at <= at {
            world.time.set(at);
            self.running = Some(Running::start((self.slot, self.processes), world, pacing));
            self.processes += 1;
        }
        let Some(running) = &mut self.running else { return };
        let halt = running.step(world, at, until).or_else(|| world.due(self.slot, When::At(until)));
        match halt {
            Some(Halt::Crash(pause)) => {
                world.journal().crashes += 1;
                self.end(until + pause);
            }
            Some(Halt::Pause(length)) => {
                world.journal().paused.push((self.slot, at, until + length));
                running.pause(until + length);
            }
            Some(Halt::HandOver(pause)) => {
                world.journal().handovers += 1;
                running.request_stop();
                self.handover_delay = Some(pause);
            }
            None => {}
        }
        if let (Some(pause), Some(true)) =
            (self.handover_delay, self.running.as_ref().map(Running::has_ended))
        {
            self.end(until + pause);
        }
    }

    /// Ends the process abruptly: every task is dropped at its current await point.
    fn end(&mut self, starts_at: Duration) {
        self.running = None;
        self.handover_delay = None;
        self.starts_at = starts_at;
    }
}
