//! The faults of a run, all generated from the seed before the run begins.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use fastrand::Rng;

/// Index of one of the two replicas.
pub type Slot = usize;

/// A fault of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The request is delayed.
    Delay(Duration),
    /// The request is carried out, and the response is delayed.
    DelayReply(Duration),
    /// The request is carried out, and the connection is cut before the response.
    DropReply,
    /// The connection is cut before the request is carried out.
    DropRequest,
    /// The request gets no response.
    Hang,
    /// The API server responds with this status.
    Refuse(u16),
    /// ECS throttles the call.
    Throttle,
    ServerError,
    Unavailable,
    AccessDenied,
    /// The watch is cut after this many events. Pending events are lost.
    CutWatch(u32),
    /// Each event of the watch is delayed.
    DelayEvents(Duration),
    /// Each event of the watch is delivered twice.
    RepeatEvents,
    /// The watch fails because its resource version has expired.
    ExpireWatch,
}

/// The requests that a fault applies to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Kubernetes,
    Watches,
    Aws,
    /// Calls to AWS that assume a role.
    AssumeRole,
}

/// A time window in which requests may fail.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: Duration,
    pub until: Duration,
    pub target: Target,
    /// The affected replica. `None`: both replicas.
    pub slot: Option<Slot>,
    pub effect: Effect,
    /// Percentage of affected requests.
    pub percent: u64,
}

/// An interruption of a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Halt {
    /// The process ends abruptly, and a new one starts after this time.
    Crash(Duration),
    /// The process is paused for this time.
    Pause(Duration),
    /// The process is requested to stop, and a new one starts this long after it has ended.
    HandOver(Duration),
}

/// The moment of a halt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    At(Duration),
    /// Before the nth request of the replica is carried out.
    Before(u64),
    /// After the nth request of the replica is carried out.
    After(u64),
}

/// All faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    pub seed: u64,
    pub replicas: usize,
    pub windows: Vec<Window>,
    pub halts: Vec<(Slot, When, Halt)>,
    /// End of the faults.
    pub end: Duration,
}

fn seconds(rng: &mut Rng, from: f64, until: f64) -> Duration {
    Duration::from_secs_f64(((from + rng.f64() * (until - from)) * 1000.0).round() / 1000.0)
}

impl Schedule {
    /// Returns a schedule without faults that ends at the same time as `other`.
    pub fn without_faults(other: &Self) -> Self {
        Self { seed: other.seed, replicas: 1, end: other.end, ..Self::default() }
    }

    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let replicas = if rng.u8(..10) < 7 { 2 } else { 1 };
        let end = seconds(&mut rng, 20.0, 90.0);
        let windows = (0..rng.usize(1..=8)).map(|_| window(&mut rng, None, replicas, end)).collect();
        let halts = (0..rng.usize(0..=3)).map(|_| halt(&mut rng, replicas, end)).collect();
        Self { seed, replicas, windows, halts, end }
    }

    /// Adds faults of calls that assume a role.
    pub fn with_role_faults(mut self) -> Self {
        let mut rng = Rng::with_seed(self.seed ^ 0x726f_6c65);
        for _ in 0..rng.usize(0..=2) {
            let window = window(&mut rng, Some(Target::AssumeRole), self.replicas, self.end);
            self.windows.push(window);
        }
        self
    }

    /// Returns the window whose fault applies to the nth request of that name, with its index. The
    /// result depends only on the seed and the arguments, not on other requests.
    pub fn fault_for(
        &self,
        target: Target,
        slot: Slot,
        now: Duration,
        request: (&str, u64),
    ) -> Option<(usize, Window)> {
        let is_active = |window: &Window| {
            let is_aws = window.target == Target::Aws && target == Target::AssumeRole;
            (window.target == target || is_aws)
                && window.slot.is_none_or(|it| it == slot)
                && (window.from..window.until).contains(&now)
        };
        let is_hit = |(index, window): &(usize, Window)| {
            let mut hasher = DefaultHasher::new();
            (self.seed, index, slot, request).hash(&mut hasher);
            hasher.finish() % 100 < window.percent
        };
        let active = self.windows.iter().copied().enumerate().filter(|(_, window)| is_active(window));
        active.into_iter().find(is_hit)
    }
}

fn window(rng: &mut Rng, target: Option<Target>, replicas: usize, end: Duration) -> Window {
    let target = target.unwrap_or_else(|| match rng.u8(..10) {
        0..4 => Target::Kubernetes,
        4..6 => Target::Watches,
        _ => Target::Aws,
    });
    let slow = seconds(rng, 0.05, 12.0);
    let effect = match target {
        Target::Kubernetes => match rng.u8(..10) {
            0 => Effect::Delay(slow),
            1 => Effect::DelayReply(slow),
            2 | 3 => Effect::DropReply,
            4 => Effect::DropRequest,
            5 => Effect::Hang,
            _ => Effect::Refuse([409, 429, 500, 503, 410][rng.usize(..5)]),
        },
        Target::Watches => match rng.u8(..5) {
            0 => Effect::CutWatch(rng.u32(..4)),
            1 | 2 => Effect::DelayEvents(slow),
            3 => Effect::RepeatEvents,
            _ => Effect::ExpireWatch,
        },
        Target::Aws | Target::AssumeRole => match rng.u8(..10) {
            0 => Effect::Delay(slow),
            1 => Effect::DelayReply(slow),
            2 | 3 => Effect::DropReply,
            4 => Effect::DropRequest,
            5 => Effect::Hang,
            6 => Effect::Throttle,
            7 => Effect::ServerError,
            8 => Effect::Unavailable,
            _ => Effect::AccessDenied,
        },
    };
    let from = seconds(rng, 0.0, end.as_secs_f64());
    let until = end.min(from + seconds(rng, 1.0, 40.0));
    // A window that affects all Kubernetes requests of one replica disconnects the replica.
    let replica = (replicas > 1 && rng.bool()).then(|| rng.usize(..replicas));
    let percent = [10, 30, 60, 100][rng.usize(..4)];
    Window { from, until, target, slot: replica, effect, percent }
}

fn halt(rng: &mut Rng, replicas: usize, end: Duration) -> (Slot, When, Halt) {
    let when = match rng.u8(..5) {
        0 => When::At(seconds(rng, 1.0, end.as_secs_f64())),
        1 | 2 => When::Before(rng.u64(2..200)),
        _ => When::After(rng.u64(2..200)),
    };
    let halt = match rng.u8(..6) {
        0..3 => Halt::Crash(seconds(rng, 0.1, 20.0)),
        3..5 => Halt::Pause(seconds(rng, 0.5, 40.0)),
        _ => Halt::HandOver(seconds(rng, 0.1, 5.0)),
    };
    (rng.usize(..replicas), when, halt)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} replicas, faults until {:?}", self.seed, self.replicas, self.end)?;
        for Window { from, until, target, slot, effect, percent } in &self.windows {
            let affected = slot.map_or("all replicas".to_owned(), |slot| format!("replica {slot}"));
            writeln!(f, "  {from:?}..{until:?} {percent} % of {target:?} of {affected}: {effect:?}")?;
        }
        for (slot, when, halt) in &self.halts {
            writeln!(f, "  replica {slot} {when:?}: {halt:?}")?;
        }
        Ok(())
    }
}
