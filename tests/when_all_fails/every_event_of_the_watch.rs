//! Every event of the watch: each is lost, late, or seen twice, and each is the last before the watch is cut.

use std::time::Duration;

use testkit::api_proxy::{Effect, Fault};

use super::{
    run::{Failure, Run},
    tally::{all, is_full},
    workload::Workload,
};

const EFFECTS: [Effect; 4] =
    [Effect::Lose, Effect::Delay(Duration::from_secs(1)), Effect::Repeat, Effect::CutWatch];

#[tokio::test]
async fn whatever_becomes_of_an_event_the_end_is_the_same() {
    let mut runs = Vec::new();
    for workload in Workload::SIX {
        let plain = Run::without_failure(workload, false).await;
        // The large workload differs from the small one by the number of its status writes only.
        let step = if workload == Workload::FortyRevisions && !is_full() { 5 } else { 1 };
        for nth in (1..=plain.events).step_by(step) {
            runs.extend(EFFECTS.map(|effect| {
                let failure = Failure::Kubernetes { fault: Fault::event(nth, effect) };
                Run { workload, failure, elects: false, end: plain.end.clone() }
            }));
        }
    }
    all("watch events, lost, late, twice or cut", runs).await;
}
