//! Access to an account by the test: no calls, no log.

use super::{call_log::Call, region::Region, simulation::Simulation};
use std::{fmt, sync::Arc};

/// One account. Cheap to clone, for use in hooks.
#[derive(Clone)]
pub struct Account {
    simulation: Arc<Simulation>,
    id: String,
}

impl Account {
    pub(super) fn new(simulation: Arc<Simulation>, id: &str) -> Self {
        Self { simulation, id: id.to_owned() }
    }

    /// Returns a region of the account, to modify and inspect without calls.
    #[must_use]
    pub fn region(&self, region: &str) -> Region {
        Region::new(Arc::clone(&self.simulation), &self.id, region)
    }

    /// Returns the logged calls to ECS by callers of the account, in any region.
    #[must_use]
    pub fn ecs_calls(&self) -> Vec<Call> {
        let state = self.simulation.lock();
        let is_in_account = |call: &&Call| call.action.is_ecs() && call.account.as_ref() == Some(&self.id);
        state.log.iter().filter(is_in_account).cloned().collect()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Account").field(&self.id).finish()
    }
}
