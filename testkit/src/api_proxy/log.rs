//! The log of every request that came to the proxy, in that order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::Value;

use super::{fault::Effect, request::Request};

/// One request, and what came of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub at: Instant,
    /// When the answer went out, or the client gave up; `None` while it waits.
    pub ended: Option<Instant>,
    pub request: Request,
    /// Null where there was none, or none in JSON.
    pub body: Value,
    /// What went wrong with it by plan.
    pub effect: Option<Effect>,
    /// The HTTP status that the client got; `None` where it got none, or none yet.
    pub status: Option<u16>,
    /// What the client got; null for a watch.
    pub answer: Value,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Exchange>>>);

/// An exchange under way: dropped, it has ended, whether it was answered or given up.
pub(super) struct Open {
    log: Log,
    index: usize,
}

impl Log {
    pub(super) fn open(&self, request: Request, body: Value, effect: Option<Effect>) -> Open {
        let at = Instant::now();
        let exchange = Exchange { at, ended: None, request, body, effect, status: None, answer: Value::Null };
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(exchange);
        Open { log: self.clone(), index: log.len() - 1 }
    }

    pub(super) fn all(&self) -> Vec<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            change(exchange);
        }
    }
}

impl Open {
    pub(super) fn answered(&self, status: u16, answer: Value) {
        self.log.change(self.index, |exchange| {
            exchange.status = Some(status);
            exchange.answer = answer;
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.log.change(self.index, |exchange| exchange.ended = Some(Instant::now()));
    }
}
