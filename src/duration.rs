//! Durations as manifests write them. No I/O.

use k8s_openapi::jiff::SignedDuration;

/// Parses a duration in hours, minutes and seconds, as Kubernetes writes them. Returns `None` if it
/// is invalid.
#[must_use]
pub fn duration(text: &str) -> Option<SignedDuration> {
    let is_strict = text.chars().all(|char| char.is_ascii_digit() || "hms".contains(char));
    is_strict.then(|| text.parse().ok()).flatten()
}
