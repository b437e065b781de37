//! What may go wrong with a call, and which calls it goes wrong with; pure.

use super::{action::Action, caller::Caller, reply::Failure, request::Request};
use std::time::Duration;

/// Something that goes wrong with some calls of an action.
///
/// Made by [`Fault::on`]; planted with
/// [`SimulatedEcs::fault`](super::SimulatedEcs::fault). When several faults meet one call, the one
/// planted first strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    target: Target,
    effect: Effect,
}

/// The calls a fault strikes; its last word says what happens to them.
#[derive(Clone, Debug)]
#[must_use = "say what the fault does to the calls"]
pub struct Target {
    action: Action,
    revision: Option<String>,
    calls: Calls,
}

#[derive(Clone, Debug)]
enum Calls {
    Always,
    Nth(u32),
    Times(u32),
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    Refuse(Refusal),
    Hang,
    DropReply,
    Delay(Duration),
}

/// An error that the call is answered with instead of being carried out.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Throttled,
    Server,
    Page(u16),
    AccessDenied,
    Error { code: String, message: String },
}

impl Fault {
    /// Strikes every call of the action, unless the methods of [`Target`] narrow that down.
    pub fn on(action: Action) -> Target {
        Target { action, revision: None, calls: Calls::Always }
    }
}

impl Target {
    /// Only the calls that name this `family:revision`, in short or as an ARN.
    pub fn revision(self, revision: impl Into<String>) -> Self {
        Self { revision: Some(revision.into()), ..self }
    }

    /// Only one call: the nth that matches, from 1, counted since the fault was planted.
    pub fn nth(self, nth: u32) -> Self {
        Self { calls: Calls::Nth(nth), ..self }
    }

    /// Only the next calls, that many; a call that another fault strikes does not count.
    pub fn times(self, times: u32) -> Self {
        Self { calls: Calls::Times(times), ..self }
    }

    /// Answers that the rate is exceeded.
    #[must_use]
    pub fn throttle(self) -> Fault {
        self.refuse(Refusal::Throttled)
    }

    /// Answers with the service's own internal error, status 500.
    #[must_use]
    pub fn server_error(self) -> Fault {
        self.refuse(Refusal::Server)
    }

    /// Answers as a load balancer does: status 503 and a page of HTML.
    #[must_use]
    pub fn unavailable(self) -> Fault {
        self.page(503)
    }

    /// Answers with this HTTP status and a page of HTML, as a proxy or a firewall does.
    #[must_use]
    pub fn page(self, status: u16) -> Fault {
        self.refuse(Refusal::Page(status))
    }

    /// Answers as IAM does when no policy allows the call.
    #[must_use]
    pub fn access_denied(self) -> Fault {
        self.refuse(Refusal::AccessDenied)
    }

    /// Answers with an error of this code and message, status 400.
    #[must_use]
    pub fn error(self, code: impl Into<String>, message: impl Into<String>) -> Fault {
        self.refuse(Refusal::Error { code: code.into(), message: message.into() })
    }

    /// Neither carries the call out nor ever answers it.
    #[must_use]
    pub fn hang(self) -> Fault {
        self.with(Effect::Hang)
    }

    /// Carries the call out, then cuts the connection instead of answering.
    #[must_use]
    pub fn drop_reply(self) -> Fault {
        self.with(Effect::DropReply)
    }

    /// Carries the call out at once, and answers that much later.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Fault {
        self.with(Effect::Delay(delay))
    }

    fn refuse(self, refusal: Refusal) -> Fault {
        self.with(Effect::Refuse(refusal))
    }

    fn with(self, effect: Effect) -> Fault {
        Fault { target: self, effect }
    }

    fn matches(&self, action: Action, task_definitions: &[&str]) -> bool {
        self.action == action
            && self.revision.as_ref().is_none_or(|revision| {
                task_definitions.iter().any(|named| named.rsplit('/').next() == Some(revision))
            })
    }
}

/// Every fault planted, in that order.
#[derive(Default)]
pub(super) struct Faults(Vec<Planted>);

struct Planted {
    fault: Fault,
    met: u32,
    struck: u32,
}

impl Faults {
    pub(super) fn plant(&mut self, fault: Fault) {
        self.0.push(Planted { fault, met: 0, struck: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What goes wrong with this call, if anything does.
    pub(super) fn strike(&mut self, action: Action, task_definitions: &[&str]) -> Option<Effect> {
        let mut effect = None;
        let met = self.0.iter_mut().filter(|planted| planted.fault.target.matches(action, task_definitions));
        for planted in met {
            planted.met += 1;
            if effect.is_none() && planted.is_due() {
                planted.struck += 1;
                effect = Some(planted.fault.effect.clone());
            }
        }
        effect
    }
}

impl Planted {
    fn is_due(&self) -> bool {
        match self.fault.target.calls {
            Calls::Always => true,
            Calls::Nth(nth) => self.met == nth,
            Calls::Times(times) => self.struck < times,
        }
    }
}

impl Refusal {
    /// The error in the words of that service.
    pub(super) fn failure(&self, request: &Request, caller: &Caller) -> Failure {
        match self {
            Self::Throttled => Failure::throttled(request.service),
            Self::Server => Failure::server(request.service),
            Self::Page(status) => Failure::page((*status).try_into().expect("an HTTP status")),
            Self::AccessDenied => Failure::access_denied(request, caller),
            Self::Error { code, message } => Failure::new(code, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEREGISTER: Action = Action::DeregisterTaskDefinition;

    /// Which of five calls, made for these revisions in turn, the faults strike.
    fn struck(faults: impl IntoIterator<Item = Fault>, revisions: [&str; 5]) -> [bool; 5] {
        let mut planted = Faults::default();
        faults.into_iter().for_each(|fault| planted.plant(fault));
        revisions.map(|revision| planted.strike(DEREGISTER, &[revision]).is_some())
    }

    #[test]
    fn a_fault_strikes_every_call_the_nth_or_the_next_few() {
        let same = ["cpu-wave:1"; 5];
        let on = || Fault::on(DEREGISTER);
        assert_eq!(struck([on().hang()], same), [true; 5]);
        assert_eq!(struck([on().nth(3).hang()], same), [false, false, true, false, false]);
        assert_eq!(struck([on().times(2).hang()], same), [true, true, false, false, false]);
        assert_eq!(struck([Fault::on(Action::ListTaskDefinitions).hang()], same), [false; 5]);
    }

    #[test]
    fn a_fault_for_a_revision_knows_it_in_short_and_as_an_arn() {
        let revisions = [
            "cpu-wave:1",
            "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1",
            "cpu-wave:11",
            "arn:aws:ecs:us-west-2:012345678910:task-definition/other-cpu-wave:1",
            "cpu-wave",
        ];
        let fault = Fault::on(DEREGISTER).revision("cpu-wave:1").hang();
        assert_eq!(struck([fault], revisions), [true, true, false, false, false]);
    }

    #[test]
    fn faults_for_the_next_calls_come_one_after_another() {
        let faults = [1, 2].map(|times| Fault::on(DEREGISTER).times(times).hang());
        assert_eq!(struck(faults, ["cpu-wave:1"; 5]), [true, true, true, false, false]);
    }
}
