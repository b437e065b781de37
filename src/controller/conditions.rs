//! The conditions of a status. No I/O.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    api::{
        AwsError,
        conditions::{READY, RECONCILING, STALLED},
    },
    aws::response::Failure,
    text::cut,
};

/// How long a resource is reconciling before it is stalled for a reason that often disappears
/// automatically. A new role or policy takes effect within this time.
pub const GRACE: SignedDuration = SignedDuration::from_mins(2);

/// Maximum length of the message of a condition, in bytes.
pub const MESSAGE_BYTES: usize = 1024;

/// Whether the declared state of a resource is reached, and if not, what has to happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    Ready,
    /// Retried automatically.
    Reconciling,
    /// Retried automatically, and stalled once it has lasted for [`GRACE`].
    Denied,
    /// Manual intervention is required.
    Stalled,
}

/// What the conditions of a resource report.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    pub state: State,
    pub reason: &'a str,
    pub message: &'a str,
    /// The AWS error that `message` reports.
    pub error: Option<&'a AwsError>,
}

/// The conditions that a status has recorded, and what new ones are stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    pub conditions: &'a [Condition],
    pub generation: Option<i64>,
    pub now: Timestamp,
}

impl Recorded<'_> {
    /// Returns a condition. Its transition time is that of the recorded one while the status stays.
    #[must_use]
    pub fn condition(&self, type_: &str, is_true: bool, reason: &str, message: &str) -> Condition {
        let status = if is_true { "True" } else { "False" };
        let unchanged = self.conditions.iter().find(|it| it.type_ == type_ && it.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: self.generation,
            last_transition_time: unchanged.map_or(Time(self.now), |it| it.last_transition_time.clone()),
        }
    }

    /// Returns the conditions Ready, Reconciling and Stalled. `error` is the recorded AWS error.
    #[must_use]
    pub fn conditions(&self, reported: &Reported<'_>, error: Option<&AwsError>) -> Vec<Condition> {
        let Reported { state, reason, .. } = *reported;
        let mut message = self.first_message(reported, error);
        cut(&mut message, MESSAGE_BYTES);
        let of_reason: Vec<Condition> =
            self.conditions.iter().filter(|it| it.reason == reason).cloned().collect();
        let since =
            |type_: &str| of_reason.iter().find(|it| it.type_ == type_).map(|it| it.last_transition_time.0);
        let is_past_grace = || {
            let reconciling = since(RECONCILING);
            since(STALLED).is_some() || reconciling.is_some_and(|it| self.now.duration_since(it) >= GRACE)
        };
        let mut conditions = vec![self.condition(READY, state == State::Ready, reason, &message)];
        match state {
            State::Ready => {}
            State::Denied | State::Stalled if state == State::Stalled || is_past_grace() => {
                conditions.push(self.condition(STALLED, true, reason, &message));
            }
            // Its time is that since when this reason holds.
            _ => {
                let recorded = Recorded { conditions: &of_reason, ..*self };
                conditions.push(recorded.condition(RECONCILING, true, reason, &message));
            }
        }
        conditions
    }

    /// Returns the recorded message of the condition Ready if it reports the same AWS error for the
    /// same spec and reason, otherwise the new one. The text of AWS may contain a session name, a
    /// time or an encoded blob that differs on every attempt.
    fn first_message(&self, reported: &Reported<'_>, error: Option<&AwsError>) -> String {
        let is_same = |it: &&Condition| {
            it.type_ == READY && it.reason == reported.reason && it.observed_generation == self.generation
        };
        let first = self.conditions.iter().find(is_same);
        let first = first.filter(|_| error.is_some() && reported.error == error);
        first.map_or(reported.message, |it| &it.message).to_owned()
    }
}

/// Returns the AWS error that a failure reports; `None` if AWS returned no error code.
#[must_use]
pub fn aws_error(failure: &Failure) -> Option<AwsError> {
    Some(AwsError { operation: failure.operation?.to_owned(), code: failure.code.clone()? })
}
