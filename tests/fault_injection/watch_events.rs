//! Every watch event: each is lost, delayed, repeated, or the last one before the watch is cut.

use std::time::Duration;

use testkit::api_proxy::{Effect, Fault};

use super::{
    run::{Failure, Run},
    tally::{all, is_full},
    workload::Workload,
};

const EFFECTS: [Effect; 4] =
    [Effect::DropEvent, Effect::Delay(Duration::from_secs(1)), Effect::Repeat, Effect::CutWatch];

#[tokio::test]
async fn end_state_is_unchanged_if_a_watch_event_fails() {
    let mut runs = Vec::new();
    for workload in Workload::SIX {
        let baseline = Run::without_failure(workload, false).await;
        // The large workload differs from the small one only in the number of status writes.
        let step = if workload == Workload::FortyRevisions && !is_full() { 5 } else { 1 };
        for nth in (1..=baseline.events).step_by(step) {
            runs.extend(EFFECTS.map(|effect| {
                let failure = Failure::Kubernetes { fault: Fault::event(nth, effect) };
                Run { workload, failure, elects: false, end: baseline.end.clone() }
            }));
        }
    }
    all("watch events, lost, late, duplicated or cut", runs).await;
}
