//! A crash at every side effect: the process is killed before and after each
//! `DeregisterTaskDefinition` call and each write to Kubernetes, and a new process resumes.

use super::{
    run::{Failure, Run},
    tally::{all, is_full},
    workload::Workload,
};

/// The side effects of the large workload at which each pull request crashes: the first ones, those
/// around the end of a batch, and a few later ones.
const SAMPLED: [u32; 9] = [1, 2, 3, 9, 10, 11, 15, 20, 40];

/// Returns one run for each side effect of the run without failures, and crashes at that side
/// effect.
async fn crashes(workload: Workload, elects: bool) -> Vec<Run> {
    let baseline = Run::without_failure(workload, elects).await;
    let is_sampled = |nth: &u32| workload != Workload::FortyRevisions || is_full() || SAMPLED.contains(nth);
    let count = |number: usize| 1..=u32::try_from(number).expect("the count fits into u32");
    let mut failures = Vec::new();
    for is_carried_out in [false, true] {
        let calls = count(baseline.deregistrations).filter(is_sampled);
        failures.extend(calls.map(|nth| Failure::CrashAtCall { nth, is_carried_out }));
        let writes = count(baseline.writes).filter(is_sampled);
        failures.extend(writes.map(|nth| Failure::CrashAtWrite { nth, is_carried_out }));
    }
    let run = |failure| Run { workload, failure, elects, end: baseline.end.clone() };
    failures.into_iter().map(run).collect()
}

#[tokio::test]
async fn one_revision_survives_a_crash_anywhere() {
    all("crashes, one revision", crashes(Workload::OneRevision, false).await).await;
}

#[tokio::test]
async fn one_revision_of_a_leader_survives_a_crash_anywhere() {
    all("crashes, one revision of a leader", crashes(Workload::OneRevision, true).await).await;
}

#[tokio::test]
async fn forty_revisions_survive_a_crash_anywhere() {
    all("crashes, forty revisions", crashes(Workload::FortyRevisions, false).await).await;
}

#[tokio::test]
async fn two_resources_that_share_revisions_survive_a_crash_anywhere() {
    all("crashes, shared revisions", crashes(Workload::SharedRevisions, false).await).await;
}

#[tokio::test]
async fn entries_removed_midway_stay_untouched_after_a_crash_anywhere() {
    all("crashes, entries removed", crashes(Workload::EntriesRemoved, false).await).await;
}

#[tokio::test]
async fn suspended_resource_stays_suspended_after_a_crash_anywhere() {
    all("crashes, suspended", crashes(Workload::Suspended, false).await).await;
}

#[tokio::test]
async fn recreated_resource_survives_a_crash_anywhere() {
    all("crashes, recreated", crashes(Workload::Recreated, false).await).await;
}
