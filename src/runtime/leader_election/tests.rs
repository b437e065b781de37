//! Leader election of several candidates on a model API server, in paused tokio time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use axum::body::Body;
use axum::http::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use testkit::model_api::{ApiRequest, ApiResponse, ModelApi};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tower::{BoxError, service_fn};

use super::*;

const NAMESPACE: &str = "retirement";
const LEASE: &str = "controller";

/// How often a test checks who leads.
const TICK: Duration = Duration::from_millis(100);

/// The model API server, and a wall clock that advances with tokio's time.
struct Cluster {
    api: ModelApi,
    clock: Clock,
}

/// A replica that takes part in the election.
struct Candidate {
    leadership: Arc<Leadership>,
    is_cut_off: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    release: Option<oneshot::Sender<()>>,
    work: JoinHandle<()>,
}

impl Cluster {
    fn new() -> Self {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + began.elapsed());
        let wall = clock.clone();
        Self { api: ModelApi::new(move || wall()), clock }
    }

    fn candidate(&self, name: &str) -> Candidate {
        let (is_cut_off, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (api, cut_off, count) = (self.api.clone(), is_cut_off.clone(), requests.clone());
        let service = service_fn(move |request| {
            count.fetch_add(1, SeqCst);
            respond(api.clone(), cut_off.clone(), request)
        });
        let leases = Api::namespaced(Client::new(service, NAMESPACE), NAMESPACE);
        let leadership = Arc::new(Leadership::none());
        let (name, lease) = (name.to_owned(), LEASE.to_owned());
        let mut elector = LeaderElector::new(leases, lease, name, leadership.clone(), self.clock.clone());
        let (release, released) = oneshot::channel();
        let work = tokio::spawn(async move {
            tokio::select! {
                () = elector.run() => {}
                _ = released => {}
            }
            elector.release().await;
        });
        Candidate { leadership, is_cut_off, requests, release: Some(release), work }
    }

    /// Creates a lease that another program holds.
    fn create_lease(&self, spec: Value) {
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": LEASE, "namespace": NAMESPACE },
        });
        lease["spec"] = spec;
        self.api.make("leases", NAMESPACE, &lease);
    }

    fn lease(&self) -> LeaseSpec {
        let lease = self.api.objects("leases").pop().expect("a lease");
        serde_json::from_value(lease["spec"].clone()).expect("a lease spec")
    }

    fn holder(&self) -> String {
        self.lease().holder_identity.unwrap_or_default()
    }
}

async fn respond(
    api: ModelApi,
    is_cut_off: Arc<AtomicBool>,
    request: Request<kube::client::Body>,
) -> Result<Response<Body>, BoxError> {
    if is_cut_off.load(SeqCst) {
        return Err("the connection broke".into());
    }
    let received = ApiRequest::receive(request).await?;
    let ApiResponse::Whole(status, body) = api.respond(&received) else {
        return Err("no watch was expected".into());
    };
    Ok(Response::builder().status(status).body(Body::from(body.to_string()))?)
}

impl Candidate {
    fn leads(&self) -> bool {
        self.leadership.is_held()
    }

    fn terms(&self) -> u64 {
        *self.leadership.terms().borrow()
    }

    async fn release(&mut self) {
        self.release.take().expect("is released once").send(()).expect("the candidate runs");
        (&mut self.work).await.expect("the candidate ends");
    }
}

/// Waits until `candidate` leads, and asserts that it and `other` never lead at the same time.
/// Returns how long it waited.
async fn until_leading(candidate: &Candidate, other: &Candidate) -> Duration {
    until("the candidate leads", || {
        assert!(!(candidate.leads() && other.leads()), "two leaders");
        candidate.leads()
    })
    .await
}

/// Waits until `condition` is true. Returns how long it waited.
async fn until(description: &str, condition: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(5), "did not happen: {description}");
        sleep(TICK).await;
    }
    began.elapsed()
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn sole_replica_always_leads() {
    let sole = Leadership::sole();
    assert!(sole.is_held());
    assert_eq!(*sole.terms().borrow(), 1);
}

#[tokio::test(start_paused = true)]
async fn leader_renews_every_two_seconds_and_leads_for_one_term() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    let created = cluster.lease();
    let expected = (Some("first"), Some(15), Some(0));
    let renewed_second = |lease: &LeaseSpec| {
        assert_eq!(lease.holder_identity.as_deref(), expected.0);
        assert_eq!((lease.lease_duration_seconds, lease.lease_transitions), (expected.1, expected.2));
        assert_eq!(lease.acquire_time.as_ref().map(|time| time.0), Some(Timestamp::UNIX_EPOCH));
        lease.renew_time.clone().expect("a renew time").0.as_second()
    };
    assert_eq!(renewed_second(&created), 0);
    for _ in 0..600 {
        sleep(TICK).await;
        assert!(first.leads() && !second.leads());
    }
    assert!((58..=60).contains(&renewed_second(&cluster.lease())), "renewed every two seconds");
    assert_eq!((first.terms(), second.terms()), (1, 0));
    let requests = (first.requests.load(SeqCst), second.requests.load(SeqCst));
    assert!((60..=64).contains(&requests.0), "one read and one write every two seconds: {requests:?}");
    assert!((59..=62).contains(&requests.1), "one read per second: {requests:?}");
}

#[tokio::test(start_paused = true)]
async fn leader_without_api_server_stops_before_a_standby_leads() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    seconds(5).await;
    let renewed = cluster.lease().renew_time.expect("a renew time").0;
    first.is_cut_off.store(true, SeqCst);
    seconds(3).await;
    assert!(first.leads(), "leadership lasts ten seconds after a renewal");
    until_leading(&second, &first).await;
    let taken = cluster.lease();
    let waited = (cluster.clock)().duration_since(renewed).as_secs_f64();
    assert!((15.0..17.5).contains(&waited), "{waited} s after the last renewal");
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("second"), Some(1)));
    assert_eq!(taken.acquire_time, taken.renew_time);
    assert!(first.requests.load(SeqCst) < 30, "one attempt per second");

    first.is_cut_off.store(false, SeqCst);
    seconds(30).await;
    assert!(!first.leads() && second.leads());
    assert_eq!((cluster.holder().as_str(), first.terms(), second.terms()), ("second", 1, 1));
    let renewed = cluster.lease();
    assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(1), &taken.acquire_time));
}

#[tokio::test(start_paused = true)]
async fn leader_stops_ten_seconds_after_its_last_renewal() {
    let cluster = Cluster::new();
    let leader = cluster.candidate("leader");
    sleep(TICK).await;
    assert!(leader.leads());
    leader.is_cut_off.store(true, SeqCst);
    let led = until("the leader stops", || !leader.leads()).await;
    assert!((Duration::from_millis(9_700)..=Duration::from_secs(10)).contains(&led), "{led:?}");

    leader.is_cut_off.store(false, SeqCst);
    seconds(2).await;
    assert!(leader.leads(), "no other replica acquired the lease meanwhile");
    assert_eq!(leader.terms(), 2, "a new term reconciles what was missed meanwhile");
    assert_eq!(cluster.lease().lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_acquired_by_a_standby_within_two_seconds() {
    let cluster = Cluster::new();
    let mut first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    seconds(5).await;
    first.release().await;
    assert!(!first.leads());
    assert_eq!((cluster.holder().as_str(), cluster.lease().lease_duration_seconds), ("", Some(1)));
    let waited = until_leading(&second, &first).await;
    assert!(waited <= Duration::from_millis(1_200), "{waited:?}");
    assert_eq!(cluster.lease().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn standby_does_not_release_the_lease() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let mut second = cluster.candidate("second");
    seconds(5).await;
    second.release().await;
    assert_eq!(cluster.holder(), "first");
    assert!(first.leads());
}

#[tokio::test(start_paused = true)]
async fn lease_of_another_holder_is_not_released() {
    let cluster = Cluster::new();
    let mut leader = cluster.candidate("leader");
    sleep(TICK).await;
    assert!(leader.leads());
    let taken = json!({ "holderIdentity": "another", "leaseDurationSeconds": 15 });
    cluster.api.edit("leases", NAMESPACE, LEASE, &taken, &Value::Null);
    leader.release().await;
    assert_eq!(cluster.holder(), "another");
}

#[tokio::test(start_paused = true)]
async fn lease_is_acquired_after_it_was_unchanged_for_its_duration() {
    for (duration, wait) in [(json!(40), 40), (Value::Null, 15), (json!(-1), 15)] {
        let cluster = Cluster::new();
        // By its renew time, the lease expired long ago. That time is ignored.
        let renewed = "1960-01-01T00:00:00.000000Z";
        let spec =
            json!({ "holderIdentity": "another", "leaseDurationSeconds": duration, "renewTime": renewed });
        cluster.create_lease(spec);
        let candidate = cluster.candidate("candidate");
        let waited = until("the candidate leads", || candidate.leads()).await;
        let expected = Duration::from_secs(wait);
        assert!((expected..expected + 2 * TICK).contains(&waited), "{waited:?} for {expected:?}");
        assert_eq!(cluster.lease().lease_transitions, Some(1));
    }
}

/// Returns two candidates and the lease of the first: it led, was cut off, and the second acquired
/// the lease.
async fn after_failover(cluster: &Cluster) -> (Candidate, Candidate, Value) {
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    seconds(5).await;
    let lease = serde_json::to_value(cluster.lease()).expect("a lease is JSON");
    first.is_cut_off.store(true, SeqCst);
    until_leading(&second, &first).await;
    first.is_cut_off.store(false, SeqCst);
    seconds(5).await;
    (first, second, lease)
}

/// Asserts that one of two candidates leads within a lease duration, and never both.
async fn assert_one_leads(first: &Candidate, second: &Candidate) {
    let has_leader = || {
        assert!(!(first.leads() && second.leads()), "two leaders");
        first.leads() || second.leads()
    };
    for _ in 0..200 {
        has_leader();
        sleep(TICK).await;
    }
    for _ in 0..600 {
        assert!(has_leader(), "no leader");
        sleep(TICK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn restored_lease_of_an_earlier_leader_does_not_make_a_second_leader() {
    let cluster = Cluster::new();
    let (first, second, restored) = after_failover(&cluster).await;
    // Right after a renewal: the second leads for ten more seconds, unless it reads the lease.
    second.is_cut_off.store(true, SeqCst);
    cluster.api.edit("leases", NAMESPACE, LEASE, &restored, &Value::Null);
    seconds(5).await;
    assert_eq!((first.leads(), second.leads()), (false, true));
    second.is_cut_off.store(false, SeqCst);
    assert_one_leads(&first, &second).await;
}

#[tokio::test(start_paused = true)]
async fn missing_lease_after_a_restore_does_not_make_a_second_leader() {
    for is_leader_cut_off in [false, true] {
        let cluster = Cluster::new();
        let (first, second, _) = after_failover(&cluster).await;
        second.is_cut_off.store(is_leader_cut_off, SeqCst);
        cluster.api.delete("leases", NAMESPACE, LEASE);
        seconds(5).await;
        assert!(second.leads() && !first.leads());
        second.is_cut_off.store(false, SeqCst);
        assert_one_leads(&first, &second).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lease_without_holder_is_acquired_immediately() {
    for holder in [json!(""), Value::Null] {
        let cluster = Cluster::new();
        cluster.create_lease(
            json!({ "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 7 }),
        );
        let candidate = cluster.candidate("candidate");
        sleep(TICK).await;
        assert!(candidate.leads());
        assert_eq!(cluster.lease().lease_transitions, Some(8));
    }
}
