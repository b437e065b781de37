//! Faults of requests and watch events, and which of them they apply to. No I/O.

use std::time::Duration;

use super::request::{Request, Verb};

/// A fault of the nth matching request or event after the injection. Applies once unless
/// [`Self::times`] is called.
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

/// What happens to a request or event instead of forwarding it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Responds with this HTTP status, such as 409, 410, 429, 500, 503 or 504, without forwarding.
    Refuse(u16),
    /// Neither forwards nor responds.
    Hang,
    /// Closes the connection without forwarding.
    DropRequest,
    /// Forwards the request, then closes the connection instead of responding.
    DropReply,
    /// Forwards the request and never responds.
    HangReply,
    /// Delays the response, or an event and those after it.
    Delay(Duration),
    /// Forwards an event twice.
    Repeat,
    /// Closes the watch before an event. The next watch receives the event.
    CutWatch,
    /// Closes the watch before an event, and rejects the next watch with 410 Gone. The event is
    /// lost.
    DropEvent,
}

impl Fault {
    /// Applies to the nth request, counted from 1, of `verb` to `resource`, such as
    /// `taskdefinitionretirements/status`.
    #[must_use]
    pub fn request(verb: Verb, resource: &str, nth: u32, effect: Effect) -> Self {
        Self { target: Target::Request(verb, resource.to_owned()), nth, times: 1, effect }
    }

    /// Applies to the nth request, counted from 1, that may change an object.
    #[must_use]
    pub fn write(nth: u32, effect: Effect) -> Self {
        Self { target: Target::Write, nth, times: 1, effect }
    }

    /// Applies to the nth event of all watches of a namespace, counted from 1 without bookmarks.
    #[must_use]
    pub fn event(nth: u32, effect: Effect) -> Self {
        Self { target: Target::Event, nth, times: 1, effect }
    }

    /// Applies to that many matches in a row, starting with the nth.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// All injected faults in order of injection, each with its number of matches.
#[derive(Debug, Default)]
pub(super) struct Faults {
    injected: Vec<(Fault, u32)>,
    events: u32,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.injected.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.injected.clear();
    }

    pub(super) fn events(&self) -> u32 {
        self.events
    }

    /// Returns the effect of the first fault that applies to this request, if any.
    pub(super) fn request_effect(&mut self, request: &Request) -> Option<Effect> {
        self.count_match(|target| match target {
            Target::Request(verb, resource) => *verb == request.verb && *resource == request.resource,
            Target::Write => request.verb.is_write(),
            Target::Event => false,
        })
    }

    /// Returns the effect of the first fault that applies to the next event, if any.
    pub(super) fn next_event_effect(&mut self) -> Option<Effect> {
        self.events += 1;
        self.count_match(|target| matches!(target, Target::Event))
    }

    fn count_match(&mut self, matches: impl Fn(&Target) -> bool) -> Option<Effect> {
        let mut effect = None;
        for (fault, matches_so_far) in self.injected.iter_mut().filter(|(fault, _)| matches(&fault.target)) {
            *matches_so_far += 1;
            if (fault.nth..fault.nth + fault.times).contains(matches_so_far) && effect.is_none() {
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
    fn fault_applies_only_to_the_nth_match() {
        let request = |verb, resource: &str| Request {
            verb,
            resource: resource.to_owned(),
            namespace: String::new(),
            name: String::new(),
        };
        let (get, patch) = (request(Verb::Get, "leases"), request(Verb::Patch, "leases"));
        let mut faults = Faults::default();
        faults.inject(Fault::request(Verb::Get, "leases", 2, Effect::Hang));
        faults.inject(Fault::write(1, Effect::DropReply));
        faults.inject(Fault::event(1, Effect::Repeat).times(2));
        assert!(faults.request_effect(&get).is_none());
        assert!(faults.request_effect(&request(Verb::Get, "events")).is_none());
        assert!(matches!(faults.request_effect(&get), Some(Effect::Hang)));
        assert!(faults.request_effect(&get).is_none());
        assert!(matches!(faults.request_effect(&patch), Some(Effect::DropReply)));
        assert!(faults.request_effect(&patch).is_none());
        assert!(matches!(faults.next_event_effect(), Some(Effect::Repeat)));
        assert!(matches!(faults.next_event_effect(), Some(Effect::Repeat)));
        assert!(faults.next_event_effect().is_none());
    }
}
