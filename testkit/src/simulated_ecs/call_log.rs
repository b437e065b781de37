//! The log of all calls, in the order in which they took effect. No I/O.

use super::action::Action;
use jiff::Timestamp;
use std::time::Instant;

/// One call and its outcome.
#[derive(Clone, Debug)]
pub struct Call {
    /// Number of the call since the simulation was created, starting with 1. Not reset by
    /// [`clear_log`].
    ///
    /// [`clear_log`]: super::SimulatedEcs::clear_log
    pub sequence: u64,
    /// When the call took effect, for measuring.
    pub at: Instant,
    /// The same time, for display.
    pub time: Timestamp,
    /// The action.
    pub action: Action,
    /// The account in which the caller acts; `None` if its credentials are not valid.
    pub account: Option<String>,
    /// The ARN of the caller; `None` if its credentials are not valid.
    pub caller: Option<String>,
    /// The ARN of the role of the caller; `None` for a user, or if its credentials are not valid.
    pub role: Option<String>,
    /// The ARN of the role that the call asks to assume.
    pub role_to_assume: Option<String>,
    /// The region that the call was signed for; empty without a signature.
    pub region: String,
    /// The access key that signed the call; empty without a signature.
    pub access_key: String,
    /// The task definition as named by the call; several are separated by commas.
    pub task_definition: Option<String>,
    /// The response.
    pub outcome: Outcome,
    /// The request ID of the response.
    pub request_id: String,
    /// True if the call changed anything in the account.
    pub changed: bool,
}

/// The response to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success.
    Ok,
    /// An error with this code; `ServiceUnavailable` for the page of a load balancer.
    Error(String),
    /// The connection was closed after the call was carried out.
    Dropped,
    /// No response.
    Hung,
}

impl Outcome {
    /// Returns the error code of an error response.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        match self {
            Self::Error(code) => Some(code),
            Self::Ok | Self::Dropped | Self::Hung => None,
        }
    }
}
