//! Faults of calls, and which calls they apply to. No I/O.

use super::{
    action::Action,
    caller::{Caller, account_of},
    reply::Failure,
    request::Request,
};
use std::time::Duration;

/// A fault of some calls of an action.
///
/// Created by [`Fault::on`] and injected with [`SimulatedEcs::fault`](super::SimulatedEcs::fault).
/// If several faults match a call, the one injected first applies.
#[derive(Clone, Debug)]
pub struct Fault {
    target: Target,
    effect: Effect,
}

/// The calls that a fault applies to. The last method of the chain sets the effect.
#[derive(Clone, Debug)]
#[must_use = "the fault needs an effect"]
pub struct Target {
    action: Action,
    account: Option<String>,
    region: Option<String>,
    role: Option<String>,
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

/// An error response; the call is not carried out.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Throttled,
    Server,
    Page(u16),
    AccessDenied,
    Error { code: String, message: String },
}

impl Fault {
    /// Matches every call of the action, unless the methods of [`Target`] restrict it.
    pub fn on(action: Action) -> Target {
        Target { action, account: None, region: None, role: None, revision: None, calls: Calls::Always }
    }
}

/// The properties of a call that a fault can be restricted by.
pub(super) struct Subject<'a> {
    action: Action,
    account: &'a str,
    region: &'a str,
    role: Option<String>,
    task_definitions: Vec<&'a str>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(request: &'a Request, caller: &'a Caller) -> Self {
        let role_to_assume = request.role_to_assume();
        Self {
            action: request.action,
            account: role_to_assume.and_then(account_of).unwrap_or(&caller.account),
            region: &caller.region,
            role: role_to_assume.map(str::to_owned).or_else(|| caller.role()),
            task_definitions: request.task_definitions(),
        }
    }
}

impl Target {
    /// Matches only calls of callers that act in this account. For a call that assumes a role, the
    /// account is the one in the ARN of that role.
    pub fn account(self, account: impl Into<String>) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// Matches only calls that are signed for this region.
    pub fn region(self, region: impl Into<String>) -> Self {
        Self { region: Some(region.into()), ..self }
    }

    /// Matches only calls of sessions of the role of this ARN. For a call that assumes a role, the
    /// role is the one to assume.
    pub fn role(self, arn: impl Into<String>) -> Self {
        Self { role: Some(arn.into()), ..self }
    }

    /// Matches only calls that name this `family:revision`, in short or as an ARN.
    pub fn revision(self, revision: impl Into<String>) -> Self {
        Self { revision: Some(revision.into()), ..self }
    }

    /// Matches only the nth matching call after the injection, counted from 1.
    pub fn nth(self, nth: u32) -> Self {
        Self { calls: Calls::Nth(nth), ..self }
    }

    /// Matches only that many calls. A call to which another fault applies does not count.
    pub fn times(self, times: u32) -> Self {
        Self { calls: Calls::Times(times), ..self }
    }

    /// Responds with a throttling error.
    #[must_use]
    pub fn throttle(self) -> Fault {
        self.refuse(Refusal::Throttled)
    }

    /// Responds with the internal error of the service, status 500.
    #[must_use]
    pub fn server_error(self) -> Fault {
        self.refuse(Refusal::Server)
    }

    /// Responds as a load balancer does: status 503 and an HTML page.
    #[must_use]
    pub fn unavailable(self) -> Fault {
        self.page(503)
    }

    /// Responds with this HTTP status and an HTML page, as a proxy or a firewall does.
    #[must_use]
    pub fn page(self, status: u16) -> Fault {
        self.refuse(Refusal::Page(status))
    }

    /// Responds as IAM does if no policy allows the call.
    #[must_use]
    pub fn access_denied(self) -> Fault {
        self.refuse(Refusal::AccessDenied)
    }

    /// Responds with an error of this code and message, status 400.
    #[must_use]
    pub fn error(self, code: impl Into<String>, message: impl Into<String>) -> Fault {
        self.refuse(Refusal::Error { code: code.into(), message: message.into() })
    }

    /// Neither carries out the call nor responds.
    #[must_use]
    pub fn hang(self) -> Fault {
        self.with(Effect::Hang)
    }

    /// Carries out the call, then closes the connection instead of responding.
    #[must_use]
    pub fn drop_reply(self) -> Fault {
        self.with(Effect::DropReply)
    }

    /// Carries out the call immediately and delays the response.
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

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let names = |revision: &String| {
            subject.task_definitions.iter().any(|named| named.rsplit('/').next() == Some(revision))
        };
        self.action == subject.action
            && self.account.as_ref().is_none_or(|account| account == subject.account)
            && self.region.as_ref().is_none_or(|region| region == subject.region)
            && (self.role.is_none() || self.role == subject.role)
            && self.revision.as_ref().is_none_or(names)
    }
}

/// All injected faults in order of injection.
#[derive(Default)]
pub(super) struct Faults(Vec<Injected>);

struct Injected {
    fault: Fault,
    matched: u32,
    applied: u32,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.0.push(Injected { fault, matched: 0, applied: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the effect of the first fault that applies to this call, if any.
    pub(super) fn effect_of(&mut self, subject: &Subject<'_>) -> Option<Effect> {
        let mut effect = None;
        let matching = self.0.iter_mut().filter(|injected| injected.fault.target.matches(subject));
        for injected in matching {
            injected.matched += 1;
            if effect.is_none() && injected.is_due() {
                injected.applied += 1;
                effect = Some(injected.fault.effect.clone());
            }
        }
        effect
    }
}

impl Injected {
    fn is_due(&self) -> bool {
        match self.fault.target.calls {
            Calls::Always => true,
            Calls::Nth(nth) => self.matched == nth,
            Calls::Times(times) => self.applied < times,
        }
    }
}

impl Refusal {
    /// Returns the error in the format of the service.
    pub(super) fn failure(&self, request: &Request, caller: &Caller) -> Failure {
        match self {
            Self::Throttled => Failure::throttled(request.service),
            Self::Server => Failure::server(request.service),
            Self::Page(status) => Failure::page((*status).try_into().expect("the status is valid")),
            Self::AccessDenied => Failure::access_denied(request, caller),
            Self::Error { code, message } => Failure::new(code, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEREGISTER: Action = Action::DeregisterTaskDefinition;

    /// Returns to which of five calls, made for these revisions in this order, a fault applies.
    fn applied_to(faults: impl IntoIterator<Item = Fault>, revisions: [&str; 5]) -> [bool; 5] {
        let mut injected = Faults::default();
        faults.into_iter().for_each(|fault| injected.inject(fault));
        revisions.map(|revision| {
            let subject = Subject {
                action: DEREGISTER,
                account: "012345678910",
                region: "us-west-2",
                role: None,
                task_definitions: vec![revision],
            };
            injected.effect_of(&subject).is_some()
        })
    }

    #[test]
    fn fault_applies_to_every_call_the_nth_or_the_next_few() {
        let same = ["cpu-wave:1"; 5];
        let on = || Fault::on(DEREGISTER);
        assert_eq!(applied_to([on().hang()], same), [true; 5]);
        assert_eq!(applied_to([on().nth(3).hang()], same), [false, false, true, false, false]);
        assert_eq!(applied_to([on().times(2).hang()], same), [true, true, false, false, false]);
        assert_eq!(applied_to([Fault::on(Action::ListTaskDefinitions).hang()], same), [false; 5]);
    }

    #[test]
    fn fault_of_a_revision_matches_the_short_form_and_the_arn() {
        let revisions = [
            "cpu-wave:1",
            "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1",
            "cpu-wave:11",
            "arn:aws:ecs:us-west-2:012345678910:task-definition/other-cpu-wave:1",
            "cpu-wave",
        ];
        let fault = Fault::on(DEREGISTER).revision("cpu-wave:1").hang();
        assert_eq!(applied_to([fault], revisions), [true, true, false, false, false]);
    }

    #[test]
    fn faults_with_times_apply_one_after_another() {
        let faults = [1, 2].map(|times| Fault::on(DEREGISTER).times(times).hang());
        assert_eq!(applied_to(faults, ["cpu-wave:1"; 5]), [true, true, true, false, false]);
    }
}
