//! Code of a test that runs before a call is carried out. No I/O; the caller runs it.

use super::action::Action;
use std::pin::Pin;

/// Code to await before a call.
pub(super) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All hooks that have not run yet, in the order in which they were added.
#[derive(Default)]
pub(super) struct Hooks(Vec<Pending>);

struct Pending {
    action: Action,
    calls_left: u32,
    hook: Hook,
}

impl Hooks {
    pub(super) fn add(&mut self, action: Action, nth: u32, hook: Hook) {
        self.0.push(Pending { action, calls_left: nth, hook });
    }

    /// Counts a call, and removes and returns the hooks that are due before it.
    pub(super) fn take_due(&mut self, action: Action) -> Vec<Hook> {
        for pending in &mut self.0 {
            if pending.action == action {
                pending.calls_left = pending.calls_left.saturating_sub(1);
            }
        }
        self.0
            .extract_if(.., |pending| pending.action == action && pending.calls_left == 0)
            .map(|pending| pending.hook)
            .collect()
    }
}
