//! Code of a test that runs in the middle of a call; pure, the caller runs it.

use super::action::Action;
use std::pin::Pin;

/// A piece of the test, to be awaited before the call it waits for.
pub(super) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Every hook that has not run yet, in the order planted.
#[derive(Default)]
pub(super) struct Hooks(Vec<Planted>);

struct Planted {
    action: Action,
    calls_left: u32,
    hook: Hook,
}

impl Hooks {
    pub(super) fn plant(&mut self, action: Action, nth: u32, hook: Hook) {
        self.0.push(Planted { action, calls_left: nth, hook });
    }

    /// Counts a call, and hands over the hooks that have waited for it.
    pub(super) fn due(&mut self, action: Action) -> Vec<Hook> {
        for planted in &mut self.0 {
            if planted.action == action {
                planted.calls_left = planted.calls_left.saturating_sub(1);
            }
        }
        self.0
            .extract_if(.., |planted| planted.action == action && planted.calls_left == 0)
            .map(|planted| planted.hook)
            .collect()
    }
}
