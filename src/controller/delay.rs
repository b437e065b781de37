//! Requeue delays that all kinds share. No I/O.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::controller::Error;

/// Requeue delay after a failed Kubernetes call.
const ERROR_DELAY: Duration = Duration::from_secs(5);

/// Requeue delay after a conflict. Short, but not zero: otherwise two clients that both write the
/// resource could conflict continuously.
const CONFLICT_DELAY: Duration = Duration::from_millis(200);

/// Requeue delay after a panic. Long, as a bug is rarely fixed without a change.
const PANIC_DELAY: Duration = Duration::from_mins(1);

/// Returns the requeue delay after a failed Kubernetes call. Only that call is repeated: responses
/// of AWS are kept in memory.
#[must_use]
pub fn after_error(error: &Error, uid: &str) -> Duration {
    match error {
        // The resource was changed by another client meanwhile.
        Error::PatchStatus(kube::Error::Api(status)) if status.is_conflict() => jitter(CONFLICT_DELAY, uid),
        Error::ReadResource(_) | Error::PatchStatus(_) => jitter(ERROR_DELAY, uid),
    }
}

/// Returns the requeue delay after a panic.
#[must_use]
pub fn after_panic(uid: &str) -> Duration {
    jitter(PANIC_DELAY, uid)
}

/// Adds jitter of up to a fifth, always the same for one resource.
#[must_use]
pub fn jitter(delay: Duration, uid: &str) -> Duration {
    let fifth = u32::try_from(hash(uid) % 200).unwrap_or_default();
    delay + delay * fifth / 1000
}

/// Returns a hash of `value`.
pub(crate) fn hash(value: impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap_or_default()
}
