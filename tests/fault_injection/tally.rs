//! Executes many runs with bounded concurrency and reports their totals.

use std::{
    collections::BTreeMap,
    env,
    future::ready,
    io::{Write, stderr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use futures::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::run::{Run, Verdict};

/// Concurrent runs across all tests. A run mostly waits, so there are more than CPUs.
static SLOTS: Semaphore = Semaphore::const_new(10);

/// Number of broken runs after which the remaining runs are skipped.
const MAX_BROKEN: usize = 5;

/// Returns true if sampling is disabled (`make faults FULL=1`).
pub fn is_full() -> bool {
    env::var_os("FAULTS_FULL").is_some_and(|value| !value.is_empty())
}

/// Executes all runs and prints a summary line labelled `what`.
///
/// # Panics
/// Panics if a run violated an invariant, or if no failure was triggered.
pub async fn all(what: &str, runs: Vec<Run>) {
    let (start, broken_runs) = (Instant::now(), &AtomicUsize::new(0));
    let verdicts: Vec<(String, Verdict)> = stream::iter(runs)
        .map(|run| async move {
            let _slot = SLOTS.acquire().await.expect("the semaphore is never closed");
            if broken_runs.load(Ordering::Relaxed) >= MAX_BROKEN {
                return None;
            }
            let verdict = run.judge().await;
            broken_runs.fetch_add(usize::from(!verdict.violations.is_empty()), Ordering::Relaxed);
            Some((run.to_string(), verdict))
        })
        .buffer_unordered(usize::MAX)
        .filter_map(ready)
        .collect()
        .await;
    let triggered = verdicts.iter().filter(|(_, verdict)| verdict.triggered).count();
    let mut seconds: BTreeMap<u128, &str> = BTreeMap::new();
    seconds.extend(verdicts.iter().map(|(name, verdict)| (verdict.took.as_millis(), name.as_str())));
    let broken: Vec<String> = verdicts
        .iter()
        .filter(|(_, verdict)| !verdict.violations.is_empty())
        .map(|(name, verdict)| format!("{name}:\n  {}", verdict.violations.join("\n  ")))
        .collect();
    let slowest = seconds.last_key_value();
    // The test harness captures `println!` of a test that succeeds.
    writeln!(
        stderr(),
        "{what}: {} runs, fault triggered in {triggered}, {} violations, {:.0} s; slowest: {slowest:?} ms",
        verdicts.len(),
        broken.len(),
        start.elapsed().as_secs_f64(),
    )
    .ok();
    assert!(broken.is_empty(), "{} of {} runs:\n{}", broken.len(), verdicts.len(), broken.join("\n"));
    assert!(triggered > 0, "no fault was triggered, so the test proves nothing");
}
