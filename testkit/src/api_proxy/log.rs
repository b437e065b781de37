//! The log of all requests to the proxy, in order of arrival.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::Value;

use super::{fault::Effect, request::Request};

/// One request and its outcome.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub at: Instant,
    /// When the response was sent or the client disconnected; `None` while the request is pending.
    pub ended: Option<Instant>,
    pub request: Request,
    /// The request body; null if it is empty or not JSON.
    pub body: Value,
    /// The injected fault, if any.
    pub effect: Option<Effect>,
    /// The HTTP status of the response; `None` if there was no response, or none yet.
    pub status: Option<u16>,
    /// The response body; null for a watch.
    pub response: Value,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Exchange>>>);

/// A pending exchange. It is recorded as ended when dropped, with or without a response.
pub(super) struct Open {
    log: Log,
    index: usize,
}

impl Log {
    pub(super) fn open(&self, request: Request, body: Value, effect: Option<Effect>) -> Open {
        let at = Instant::now();
        let exchange =
            Exchange { at, ended: None, request, body, effect, status: None, response: Value::Null };
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(exchange);
        Open { log: self.clone(), index: log.len() - 1 }
    }

    pub(super) fn all(&self) -> Vec<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, index: usize, update: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            update(exchange);
        }
    }
}

impl Open {
    pub(super) fn record_response(&self, status: u16, response: Value) {
        self.log.update(self.index, |exchange| {
            exchange.status = Some(status);
            exchange.response = response;
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.log.update(self.index, |exchange| exchange.ended = Some(Instant::now()));
    }
}
