//! Tests of the reported identity while an attempt to verify it is in progress.

use k8s_openapi::jiff::Timestamp;
use testkit::simulated_ecs::{Action, Fault, SimulatedEcs, in_process};

use super::*;
use crate::aws::source::Sources;

const REGION: &str = "us-west-2";

#[tokio::test(start_paused = true)]
async fn identity_is_reported_unchanged_while_an_attempt_is_in_progress() {
    let ecs = SimulatedEcs::in_process(|| Timestamp::UNIX_EPOCH);
    let sources = Sources::new(
        &in_process::config(REGION, ecs.transport()),
        Pacing { per_second: 1.0, burst: 1 },
        RequeueTrigger(Arc::new(|_| {})),
        Arc::new(|| true),
        Arc::new(|| Timestamp::UNIX_EPOCH),
    );
    let session = sources.ambient().session(REGION);
    ecs.fault(Fault::on(Action::GetCallerIdentity).hang());
    let failure = session.verify().await.err().expect("STS does not respond");
    let reported = [format!("{REGION}: {}", failure.message)];
    assert_eq!(sources.ambient().identity_failures(), reported);

    tokio::time::advance(Duration::from_mins(1)).await;
    let mut attempt = Box::pin(session.verify());
    assert!(futures::poll!(&mut attempt).is_pending());
    assert_eq!(ecs.calls_of(Action::GetCallerIdentity).len(), 2);
    assert_eq!(sources.ambient().identity_failures(), reported);
    assert!(session.is_being_verified(), "others do not wait for the same attempt");
    drop(attempt);
    assert!(!session.is_being_verified());
    assert_eq!(sources.ambient().identity_failures(), reported, "an abandoned attempt has no result");

    ecs.clear_faults();
    session.verify().await.expect("STS responds");
    let _attempt = session.known.lock().await;
    assert!(session.has_identity());
    assert!(!session.is_being_verified(), "the verified identity is used meanwhile");
    assert_eq!(session.identity_failure(), None);
}
