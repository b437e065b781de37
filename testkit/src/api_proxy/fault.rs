//! What may go wrong with a request, or with an event of a watch, and which of them it goes wrong with; pure.

use std::time::Duration;

use super::request::{Request, Verb};

/// Something that goes wrong with the nth request, or the nth event, that matches from when it was planted; once, unless
/// [`Self::times`] says otherwise.
#[derive(Clone, Debug)]
pub struct Fault {
    target: Target,
    nth: u32,
    times: u32,
    pub(super) effect: Effect,
}

#[derive(Clone, Debug)]
enum Target {
    Request(Verb, String),
    Write,
    Event,
}

/// What is done instead of passing a request on and its answer back.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answers with this HTTP status, such as 409, 410, 429, 500, 503 or 504, and passes nothing on.
    Refuse(u16),
    /// Passes nothing on, and never answers.
    Hang,
    /// Passes nothing on, and cuts the connection.
    CutBefore,
    /// Passes it on, and cuts the connection instead of answering.
    CutAfter,
    /// Passes it on, and never answers.
    HoldAnswer,
    /// Answers that much later; an event, and those behind it, come that much later.
    Delay(Duration),
    /// Passes an event on twice.
    Repeat,
    /// Cuts the watch before an event: it comes in the next watch.
    CutWatch,
    /// Cuts the watch before an event, and says that the next one asks for what is gone: it never comes.
    Lose,
}

impl Fault {
    /// Strikes the nth request, from 1, of `verb` to `resource`, such as `taskdefinitionretirements/status`.
    #[must_use]
    pub fn request(verb: Verb, resource: &str, nth: u32, effect: Effect) -> Self {
        Self { target: Target::Request(verb, resource.to_owned()), nth, times: 1, effect }
    }

    /// Strikes the nth request, from 1, that may change something.
    #[must_use]
    pub fn write(nth: u32, effect: Effect) -> Self {
        Self { target: Target::Write, nth, times: 1, effect }
    }

    /// Strikes the nth event of all watches, from 1; bookmarks do not count.
    #[must_use]
    pub fn event(nth: u32, effect: Effect) -> Self {
        Self { target: Target::Event, nth, times: 1, effect }
    }

    /// Strikes that many in a row, from the nth.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// Every fault planted, in that order, each with how many it has met.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planted: Vec<(Fault, u32)>,
    events: u32,
}

impl Faults {
    pub(super) fn plant(&mut self, fault: Fault) {
        self.planted.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.planted.clear();
    }

    pub(super) fn events(&self) -> u32 {
        self.events
    }

    /// What goes wrong with this request, if anything does.
    pub(super) fn strike(&mut self, request: &Request) -> Option<Effect> {
        self.meet(|target| match target {
            Target::Request(verb, resource) => *verb == request.verb && *resource == request.resource,
            Target::Write => request.verb.is_write(),
            Target::Event => false,
        })
    }

    /// What goes wrong with the next event, if anything does.
    pub(super) fn strike_event(&mut self) -> Option<Effect> {
        self.events += 1;
        self.meet(|target| matches!(target, Target::Event))
    }

    fn meet(&mut self, matches: impl Fn(&Target) -> bool) -> Option<Effect> {
        let mut effect = None;
        for (fault, met) in self.planted.iter_mut().filter(|(fault, _)| matches(&fault.target)) {
            *met += 1;
            if (fault.nth..fault.nth + fault.times).contains(met) && effect.is_none() {
                effect = Some(fault.effect.clone());
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_nth_that_matches_and_no_other() {
        let request = |verb, resource: &str| Request {
            verb,
            resource: resource.to_owned(),
            namespace: String::new(),
            name: String::new(),
        };
        let (get, patch) = (request(Verb::Get, "leases"), request(Verb::Patch, "leases"));
        let mut faults = Faults::default();
        faults.plant(Fault::request(Verb::Get, "leases", 2, Effect::Hang));
        faults.plant(Fault::write(1, Effect::CutAfter));
        faults.plant(Fault::event(1, Effect::Repeat).times(2));
        assert!(faults.strike(&get).is_none());
        assert!(faults.strike(&request(Verb::Get, "events")).is_none());
        assert!(matches!(faults.strike(&get), Some(Effect::Hang)));
        assert!(faults.strike(&get).is_none());
        assert!(matches!(faults.strike(&patch), Some(Effect::CutAfter)));
        assert!(faults.strike(&patch).is_none());
        assert!(matches!(faults.strike_event(), Some(Effect::Repeat)));
        assert!(matches!(faults.strike_event(), Some(Effect::Repeat)));
        assert!(faults.strike_event().is_none());
    }
}
