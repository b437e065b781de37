//! Candidates for one lease of a modelled API server, on a clock that jumps to whatever is next.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use axum::body::Body;
use hyper::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use testkit::model_api::{Answer, Asked, ModelApi};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tower::{BoxError, service_fn};

use super::*;

const NAMESPACE: &str = "retirement";
const LEASE: &str = "controller";

/// How often a test looks who leads.
const TICK: Duration = Duration::from_millis(100);

/// The API server, and a wall clock that goes with tokio's.
struct Cluster {
    api: ModelApi,
    clock: Clock,
}

/// A process that takes part in the election.
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
            answer(api.clone(), cut_off.clone(), request)
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

    /// A lease as another program holds it.
    fn held(&self, spec: Value) {
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
        serde_json::from_value(lease["spec"].clone()).expect("the spec of a lease")
    }

    fn key(&self) -> String {
        self.lease().holder_identity.unwrap_or_default()
    }
}

async fn answer(
    api: ModelApi,
    is_cut_off: Arc<AtomicBool>,
    request: Request<kube::client::Body>,
) -> Result<Response<Body>, BoxError> {
    if is_cut_off.load(SeqCst) {
        return Err("the connection broke".into());
    }
    let asked = Asked::receive(request).await?;
    let Answer::Whole(status, body) = api.answer(&asked) else { return Err("no watch was expected".into()) };
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
        self.release.take().expect("released once").send(()).expect("it runs");
        (&mut self.work).await.expect("it ends");
    }
}

/// Waits until `candidate` leads, and holds that it and `other` never do at once. For how long.
async fn until_leading(candidate: &Candidate, other: &Candidate) -> Duration {
    until("it leads", || {
        assert!(!(candidate.leads() && other.leads()), "two lead");
        candidate.leads()
    })
    .await
}

/// Waits until something is so. For how long.
async fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_mins(5), "never: {what}");
        sleep(TICK).await;
    }
    began.elapsed()
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn the_only_process_always_leads() {
    let sole = Leadership::sole();
    assert!(sole.is_held());
    assert_eq!(*sole.terms().borrow(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_leads_for_one_term_as_long_as_it_renews() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    let made = cluster.lease();
    let expected = (Some("first"), Some(15), Some(0));
    let told = |lease: &LeaseSpec| {
        assert_eq!(lease.holder_identity.as_deref(), expected.0);
        assert_eq!((lease.lease_duration_seconds, lease.lease_transitions), (expected.1, expected.2));
        assert_eq!(lease.acquire_time.as_ref().map(|time| time.0), Some(Timestamp::UNIX_EPOCH));
        lease.renew_time.clone().expect("a time").0.as_second()
    };
    assert_eq!(told(&made), 0);
    for _ in 0..600 {
        sleep(TICK).await;
        assert!(first.leads() && !second.leads());
    }
    assert!((58..=60).contains(&told(&cluster.lease())), "renewed every two seconds");
    assert_eq!((first.terms(), second.terms()), (1, 0));
    let requests = (first.requests.load(SeqCst), second.requests.load(SeqCst));
    assert!((60..=64).contains(&requests.0), "a read and a write every two seconds: {requests:?}");
    assert!((59..=62).contains(&requests.1), "a read a second: {requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_leads() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    seconds(5).await;
    let renewed = cluster.lease().renew_time.expect("a time").0;
    first.is_cut_off.store(true, SeqCst);
    seconds(3).await;
    assert!(first.leads(), "a trigger holds for ten seconds, and until then the next may still succeed");
    until_leading(&second, &first).await;
    let taken = cluster.lease();
    let waited = (cluster.clock)().duration_since(renewed).as_secs_f64();
    assert!((15.0..17.5).contains(&waited), "{waited} s after the last trigger");
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("second"), Some(1)));
    assert_eq!(taken.acquire_time, taken.renew_time);
    assert!(first.requests.load(SeqCst) < 30, "it tries once a second");

    first.is_cut_off.store(false, SeqCst);
    seconds(30).await;
    assert!(!first.leads() && second.leads());
    assert_eq!((cluster.key().as_str(), first.terms(), second.terms()), ("second", 1, 1));
    let renewed = cluster.lease();
    assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(1), &taken.acquire_time));
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_ten_seconds_after_its_last_renewal() {
    let cluster = Cluster::new();
    let leader = cluster.candidate("leader");
    sleep(TICK).await;
    assert!(leader.leads());
    leader.is_cut_off.store(true, SeqCst);
    let led = until("it stops", || !leader.leads()).await;
    assert!((Duration::from_millis(9_700)..=Duration::from_secs(10)).contains(&led), "{led:?}");

    leader.is_cut_off.store(false, SeqCst);
    seconds(2).await;
    assert!(leader.leads(), "the lease was its own all the time");
    assert_eq!(leader.terms(), 2, "what was missed meanwhile is looked at");
    assert_eq!(cluster.lease().lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_hands_over_at_once() {
    let cluster = Cluster::new();
    let mut first = cluster.candidate("first");
    sleep(TICK).await;
    let second = cluster.candidate("second");
    seconds(5).await;
    first.release().await;
    assert!(!first.leads());
    assert_eq!((cluster.key().as_str(), cluster.lease().lease_duration_seconds), ("", Some(1)));
    let waited = until_leading(&second, &first).await;
    assert!(waited <= Duration::from_millis(1_200), "{waited:?}");
    assert_eq!(cluster.lease().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_does_not_lead_releases_nothing() {
    let cluster = Cluster::new();
    let first = cluster.candidate("first");
    sleep(TICK).await;
    let mut second = cluster.candidate("second");
    seconds(5).await;
    second.release().await;
    assert_eq!(cluster.key(), "first");
    assert!(first.leads());
}

#[tokio::test(start_paused = true)]
async fn a_leader_releases_no_lease_that_is_another_s_by_now() {
    let cluster = Cluster::new();
    let mut leader = cluster.candidate("leader");
    sleep(TICK).await;
    assert!(leader.leads());
    let taken = json!({ "holderIdentity": "another", "leaseDurationSeconds": 15 });
    cluster.api.edit("leases", NAMESPACE, LEASE, &taken, &Value::Null);
    leader.release().await;
    assert_eq!(cluster.key(), "another");
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_another_is_taken_once_it_was_seen_unchanged_for_its_duration() {
    for (duration, wait) in [(json!(40), 40), (Value::Null, 15), (json!(-1), 15)] {
        let cluster = Cluster::new();
        // Its times say that it ended long ago, by a clock that is not believed.
        let renewed = "1960-01-01T00:00:00.000000Z";
        let spec =
            json!({ "holderIdentity": "another", "leaseDurationSeconds": duration, "renewTime": renewed });
        cluster.held(spec);
        let candidate = cluster.candidate("candidate");
        let waited = until("it leads", || candidate.leads()).await;
        let expected = Duration::from_secs(wait);
        assert!((expected..expected + 2 * TICK).contains(&waited), "{waited:?} for {expected:?}");
        assert_eq!(cluster.lease().lease_transitions, Some(1));
    }
}

/// Two candidates of which the first led, was cut off, and was followed by the second. Returns the lease of the first.
async fn succeeded(cluster: &Cluster) -> (Candidate, Candidate, Value) {
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

/// Expects one of two candidates to lead within a lease's duration, and never both.
async fn assert_one_leads(first: &Candidate, second: &Candidate) {
    let is_alone = || {
        assert!(!(first.leads() && second.leads()), "two lead");
        first.leads() || second.leads()
    };
    for _ in 0..200 {
        is_alone();
        sleep(TICK).await;
    }
    for _ in 0..600 {
        assert!(is_alone(), "one of them leads");
        sleep(TICK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_restored_to_an_earlier_leader_makes_no_second_leader() {
    let cluster = Cluster::new();
    let (first, second, restored) = succeeded(&cluster).await;
    // Just after a trigger: the second leads for ten seconds more, unless it sees the lease.
    second.is_cut_off.store(true, SeqCst);
    cluster.api.edit("leases", NAMESPACE, LEASE, &restored, &Value::Null);
    seconds(5).await;
    assert_eq!((first.leads(), second.leads()), (false, true));
    second.is_cut_off.store(false, SeqCst);
    assert_one_leads(&first, &second).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_lost_in_a_restore_makes_no_second_leader() {
    for is_leader_cut_off in [false, true] {
        let cluster = Cluster::new();
        let (first, second, _) = succeeded(&cluster).await;
        second.is_cut_off.store(is_leader_cut_off, SeqCst);
        cluster.api.delete("leases", NAMESPACE, LEASE);
        seconds(5).await;
        assert!(second.leads() && !first.leads());
        second.is_cut_off.store(false, SeqCst);
        assert_one_leads(&first, &second).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_holds_is_taken_at_once() {
    for key in [json!(""), Value::Null] {
        let cluster = Cluster::new();
        cluster.held(json!({ "holderIdentity": key, "leaseDurationSeconds": 15, "leaseTransitions": 7 }));
        let candidate = cluster.candidate("candidate");
        sleep(TICK).await;
        assert!(candidate.leads());
        assert_eq!(cluster.lease().lease_transitions, Some(8));
    }
}
