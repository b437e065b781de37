//! Many runs, some at a time, and the figures of them all.

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

/// How many runs are under way at once, in all tests together: they wait for more than they work.
static PLACES: Semaphore = Semaphore::const_new(10);

/// After so many broken runs the others tell nothing new.
const ENOUGH: usize = 5;

/// Whether every place is tried where a part of them is what each pull request can afford: `make faults FULL=1`.
pub fn is_full() -> bool {
    env::var_os("FAULTS_FULL").is_some_and(|value| !value.is_empty())
}

/// Does all runs, and prints how many there were of each `what`.
///
/// # Panics
/// A promise was broken in one of them.
pub async fn all(what: &str, runs: Vec<Run>) {
    let (began, so_far) = (Instant::now(), &AtomicUsize::new(0));
    let verdicts: Vec<(String, Verdict)> = stream::iter(runs)
        .map(|run| async move {
            let _place = PLACES.acquire().await.expect("it is never closed");
            if so_far.load(Ordering::Relaxed) >= ENOUGH {
                return None;
            }
            let verdict = run.judge().await;
            so_far.fetch_add(usize::from(!verdict.violations.is_empty()), Ordering::Relaxed);
            Some((run.to_string(), verdict))
        })
        .buffer_unordered(usize::MAX)
        .filter_map(ready)
        .collect()
        .await;
    let struck = verdicts.iter().filter(|(_, verdict)| verdict.struck).count();
    let mut seconds: BTreeMap<u128, &str> = BTreeMap::new();
    seconds.extend(verdicts.iter().map(|(name, verdict)| (verdict.took.as_millis(), name.as_str())));
    let broken: Vec<String> = verdicts
        .iter()
        .filter(|(_, verdict)| !verdict.violations.is_empty())
        .map(|(name, verdict)| format!("{name}:\n  {}", verdict.violations.join("\n  ")))
        .collect();
    let slowest = seconds.last_key_value();
    // Not by `println!`, which a test that passes swallows.
    writeln!(
        stderr(),
        "{what}: {} runs, struck in {struck}, {} violations, {:.0} s; the slowest: {slowest:?} ms",
        verdicts.len(),
        broken.len(),
        began.elapsed().as_secs_f64(),
    )
    .ok();
    assert!(broken.is_empty(), "{} of {} runs:\n{}", broken.len(), verdicts.len(), broken.join("\n"));
    assert!(struck > 0, "nothing was struck: this proves nothing");
}
