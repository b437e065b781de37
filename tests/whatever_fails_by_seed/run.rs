//! One run: the people, the faults and the replicas of a seed, turn by turn until all has come to rest.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ecs_retirement_controller::ecs::pacer::Pacing;
use serde_json::Value;

use super::{
    journal::What,
    people::{Act, People},
    replica::Running,
    schedule::{Halt, Schedule, Slot, When},
    world::{RETIREMENTS, World},
};

/// How long a turn is while something happens, and once all is at rest.
const TURN: Duration = Duration::from_millis(200);
const LONG_TURN: Duration = Duration::from_secs(2);

/// How long all may take to come to rest once nothing goes wrong any more, beside what the rates of ECS take.
const REST: Duration = Duration::from_mins(1);

/// How long nothing may be written or called once all is at rest.
const QUIET: Duration = Duration::from_mins(5);

/// What a run came to.
pub struct Run {
    pub world: Arc<World>,
    /// How long after the last fault and the last act all had come to rest.
    pub rest: Duration,
}

/// One of the replicas: its process, or when it has the next one.
struct Replica {
    slot: Slot,
    processes: u32,
    running: Option<Running>,
    starts_at: Duration,
    /// How long after it has ended, as it was told, the next one starts.
    hands_over: Option<Duration>,
}

pub fn pacing(seed: u64) -> Pacing {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x7061_6365);
    Pacing { per_second: [0.5, 2.0, 10.0][rng.usize(..3)], burst: [1, 10][rng.usize(..2)] }
}

pub fn run(schedule: Schedule, people: &People) -> Run {
    let (seed, end, count) = (schedule.seed, schedule.end, schedule.replicas);
    let pacing = pacing(seed);
    // The backoff of the watches draws from here.
    fastrand::seed(seed);
    let world = World::new(schedule, &people.families);
    let mut replicas: Vec<Replica> = (0..count)
        .map(|slot| Replica {
            slot,
            processes: 0,
            running: None,
            starts_at: TURN.mul_f64(f64::from(u8::from(slot > 0))),
            hands_over: None,
        })
        .collect();
    let mut acts: VecDeque<&(Duration, Act)> = people.acts.iter().collect();
    let mut at = Duration::ZERO;
    let mut turn = |at: &mut Duration, length: Duration| {
        for replica in &mut replicas {
            replica.turn(&world, pacing, *at, *at + length);
        }
        *at += length;
        world.time.set(*at);
    };
    let limit = end + limit(&world, people, pacing);
    loop {
        while let Some((_, act)) = acts.pop_front_if(|(due, _)| *due <= at) {
            world.act(act);
        }
        turn(&mut at, TURN);
        // A replica that is still paused is a fault that has not ended.
        let is_paused = world.journal().paused.iter().any(|(_, _, until)| at < *until);
        if at >= end && acts.is_empty() && (is_at_rest(&world) && !is_paused || at >= limit) {
            break;
        }
    }
    let rest = at.saturating_sub(end);
    if at >= limit {
        let objects = world.api.objects(RETIREMENTS);
        let stuck = objects
            .iter()
            .filter(|object| !has_come_to_rest(object))
            .map(|object| format!("{} {}", object["metadata"]["name"], object["status"]));
        let stuck: Vec<String> = stuck.collect();
        world
            .journal()
            .broken("I2", &format!("not at rest {rest:?} after the last fault: {}", stuck.join("\n")));
        return Run { world, rest };
    }
    // What is on its way may still arrive: a last event, an echo of the last write.
    for _ in 0..50 {
        turn(&mut at, TURN);
    }
    for family in &people.missing {
        world.west.register(family);
    }
    let before = world.journal().entries.len();
    let quiet_until = at + QUIET;
    while at < quiet_until {
        turn(&mut at, LONG_TURN);
    }
    let mut journal = world.journal();
    let late: Vec<String> = journal.entries[before..]
        .iter()
        .filter(|entry| is_work(&world, &entry.what))
        .map(ToString::to_string)
        .collect();
    if !late.is_empty() {
        journal.broken("I2", &format!("at rest, and yet: {}", late.join("\n")));
    }
    drop(journal);
    Run { world, rest }
}

/// The tokens that are needed, at the least rate that throttling leaves, and what waits for others.
fn limit(world: &World, people: &People, pacing: Pacing) -> Duration {
    let revisions: usize = people.families.values().sum();
    let revisions = u32::try_from(revisions).unwrap_or(u32::MAX);
    let tokens = Duration::from_secs_f64(f64::from(revisions) / pacing.per_second.min(1.0));
    // What ECS refused is tried again after as long as it was refused; a throttled rate doubles each minute.
    REST + tokens + world.schedule.end.mul_f64(1.2) + Duration::from_mins(4)
}

/// Whether an entry is more than looking whether there is work. What is in use for good is scanned for good.
fn is_work(world: &World, what: &What) -> bool {
    match what {
        What::Wrote { .. } | What::Deregistered(_) => true,
        What::Described { .. } | What::Called(_) => !is_waited(world),
        What::Read { .. } => false,
    }
}

fn is_waited(world: &World) -> bool {
    world.api.objects(RETIREMENTS).iter().any(|object| rows(object).any(|row| row["reason"] == "InUse"))
}

fn rows(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["revisions"].as_array().into_iter().flatten()
}

fn is_at_rest(world: &World) -> bool {
    world.api.objects(RETIREMENTS).iter().all(|object| {
        has_come_to_rest(object) && rows(object).all(|row| row["reason"] != "InUse" || world.is_used(row))
    })
}

/// Whether its status speaks of its spec, and nothing is to come by itself.
fn has_come_to_rest(object: &Value) -> bool {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    let is_settled = |row: &Value| {
        let reason = row["reason"].as_str().unwrap_or_default();
        let waits = ["Pending", "CoolingDown", "Throttled", "Unavailable", "AccessDenied", "Refused"];
        // A retired row has a message until it has ECS's own time, or ECS denies it.
        !waits.contains(&reason) && (reason != "Retired" || row["message"].is_null())
    };
    status["observedGeneration"] == metadata["generation"]
        && status["lastHandledReconcileAt"] == metadata["annotations"]["ecs-retirement.dev/requestedAt"]
        && rows(object).next().is_some()
        && rows(object).all(is_settled)
}

impl Replica {
    fn turn(&mut self, world: &Arc<World>, pacing: Pacing, at: Duration, until: Duration) {
        if self.running.is_none() && self.starts_at <= at {
            world.time.set(at);
            self.running = Some(Running::start((self.slot, self.processes), world, pacing));
            self.processes += 1;
        }
        let Some(running) = &mut self.running else { return };
        let halt = running.turn(world, at, until).or_else(|| world.due(self.slot, When::At(until)));
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
                running.tell_to_stop();
                self.hands_over = Some(pause);
            }
            None => {}
        }
        if let (Some(pause), Some(true)) = (self.hands_over, self.running.as_ref().map(Running::has_ended)) {
            self.end(until + pause);
        }
    }

    /// Ends its process wherever it is: every task of it, at whichever await it stands.
    fn end(&mut self, starts_at: Duration) {
        self.running = None;
        self.hands_over = None;
        self.starts_at = starts_at;
    }
}
