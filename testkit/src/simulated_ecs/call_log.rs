//! The log of every call, in the order in which the calls took effect; pure.

use super::action::Action;
use jiff::Timestamp;
use std::time::Instant;

/// One call that came in, and what came of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counts from 1 over the life of the simulation, [`clear_log`] notwithstanding.
    ///
    /// [`clear_log`]: super::SimulatedEcs::clear_log
    pub sequence: u64,
    /// When the call took effect, to measure by.
    pub at: Instant,
    /// The same moment, to read.
    pub time: Timestamp,
    /// What was called.
    pub action: Action,
    /// The account of the access key; `None` when no account has it.
    pub account: Option<String>,
    /// The region the call was signed for; empty without a signature.
    pub region: String,
    /// The access key the call was signed with; empty without a signature.
    pub access_key: String,
    /// The task definition as the call named it; several are joined by commas.
    pub task_definition: Option<String>,
    /// What the caller got.
    pub outcome: Outcome,
    /// The id on the reply.
    pub request_id: String,
    /// Whether the call changed anything in the account.
    pub changed: bool,
}

/// What a caller got for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A successful reply.
    Ok,
    /// This error code; `ServiceUnavailable` for the page of a load balancer.
    Error(String),
    /// A cut connection, after the call was carried out.
    Dropped,
    /// Nothing, ever.
    Hung,
}

impl Outcome {
    /// The error code, if the call was answered with one.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        match self {
            Self::Error(code) => Some(code),
            Self::Ok | Self::Dropped | Self::Hung => None,
        }
    }
}
