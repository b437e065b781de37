//! Test world: reconciles resources of the model API server against an in-process simulated ECS, in
//! paused tokio time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    BoxError,
    body::Body,
    http::{Request, Response},
};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, runtime::reflector::store};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{
    model_api::{ApiRequest, ApiResponse, ModelApi, failure},
    simulated_ecs::{ACCOUNT, Action, Region, SimulatedEcs, in_process},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tower::service_fn;

use crate::{
    account::store::{Accounts, Caches, Triggers},
    api::{Reason, RevisionStatus, TaskDefinitionRetirement, TaskDefinitionRetirementStatus},
    aws::{
        permit_queue::Pacing,
        rate_limiter::{RateLimiter, RequeueTrigger, ResourceKey},
        source::Sources,
        usage_cache::IsActive,
    },
    clock::Clock,
    controller::{Error, guarded::Guarded},
    retirement::{
        context::{Context, Waiters},
        events::Recent,
        pending_status::PendingStatus,
        reconcile::reconcile,
        revision_locks::RevisionLocks,
    },
    shutdown::Shutdown,
};

const REGION: &str = "us-west-2";
const NAMESPACE: &str = "platform";
const RETIREMENTS: &str = "taskdefinitionretirements";

/// Number of AWS concurrency permits.
pub const CONCURRENCY: u32 = 16;

/// The requests of a reconcile to the API server, as names for [`World::before`].
pub const GET: &str = "Get taskdefinitionretirements";
pub const APPLY: &str = "ApplyStatus taskdefinitionretirements";
pub const CREATE_EVENT: &str = "Create events";

/// What happens between a request and its response.
pub enum Between {
    /// Runs the closure first.
    Do(Box<dyn FnOnce() + Send>),
    /// Responds with this status code instead.
    Refuse(u16),
    /// Delays the response.
    Delay(Duration),
}

/// The API server, AWS, and a process that reconciles.
pub struct World {
    pub api: ModelApi,
    pub ecs: SimulatedEcs,
    pub west: Region,
    pub context: Arc<Context>,
    pub is_active: Arc<AtomicBool>,
    pub shutdown: watch::Sender<bool>,
    wire: Arc<Wire>,
    woken: Arc<Mutex<Vec<String>>>,
}

/// The connection to the API server.
#[derive(Default)]
struct Wire {
    /// Planned interventions: the name of the request, a countdown of its occurrences, and the
    /// intervention.
    planned: Mutex<Vec<(String, u32, Between)>>,
    requests: Mutex<Vec<String>>,
}

impl Wire {
    /// Runs the planned intervention for a request. Returns the status code to respond with
    /// instead, if any.
    async fn intervene(&self, request: String) -> Option<u16> {
        let planned = {
            let mut planned = self.planned.lock();
            planned.iter_mut().filter(|(it, ..)| *it == request).for_each(|(_, left, _)| *left -= 1);
            let index = planned.iter().position(|(_, left, _)| *left == 0);
            index.map(|index| planned.remove(index).2)
        };
        self.requests.lock().push(request);
        match planned? {
            Between::Do(act) => act(),
            Between::Refuse(code) => return Some(code),
            Between::Delay(delay) => sleep(delay).await,
        }
        None
    }
}

async fn kubernetes(
    api: ModelApi,
    wire: Arc<Wire>,
    request: Request<kube::client::Body>,
) -> Result<Response<Body>, BoxError> {
    let request = ApiRequest::receive(request).await?;
    let refused = wire.intervene(format!("{:?} {}", request.verb, request.plural)).await;
    let response =
        refused.map(|code| failure(code, if code == 409 { "Conflict" } else { "InternalError" }, "planned"));
    let response =
        response.map_or_else(|| api.respond(&request), |(code, body)| ApiResponse::Whole(code, body));
    let ApiResponse::Whole(status, body) = response else { return Err("no watch was expected".into()) };
    Ok(Response::builder().status(status).body(Body::from(body.to_string()))?)
}

fn resource(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "TaskDefinitionRetirement",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// Returns true if a pause is `seconds` plus at most a fifth of jitter.
pub fn is_about(seconds: u64, pause: Option<Duration>) -> bool {
    let shortest = Duration::from_secs(seconds);
    pause.is_some_and(|pause| (shortest..=shortest * 6 / 5).contains(&pause))
}

impl World {
    /// Returns a process that has just started, with empty token buckets, and nine revisions of
    /// `web`.
    pub fn with_empty_buckets(burst: u32) -> Self {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + began.elapsed());
        let (for_api, for_ecs) = (clock.clone(), clock.clone());
        let api = ModelApi::new(move || for_api());
        let ecs = SimulatedEcs::in_process(move || for_ecs());
        let (wire, woken) = (Arc::<Wire>::default(), Arc::new(Mutex::<Vec<String>>::default()));
        let (served_api, served_wire) = (api.clone(), wire.clone());
        let service = service_fn(move |request| kubernetes(served_api.clone(), served_wire.clone(), request));
        let is_active = Arc::new(AtomicBool::new(true));
        let (is_active_flag, woken_by_trigger) = (is_active.clone(), woken.clone());
        let is_active_fn: IsActive = Arc::new(move || is_active_flag.load(SeqCst));
        let requeue_trigger =
            RequeueTrigger(Arc::new(move |key: &ResourceKey| woken_by_trigger.lock().push(key.name.clone())));
        let shutdown = watch::Sender::new(false);
        let pacing = Pacing { per_second: 1.0, burst };
        let config = in_process::config(REGION, ecs.transport());
        let context = Context {
            client: Client::new(service, NAMESPACE),
            accounts: Arc::new(Accounts::new(
                None,
                pacing,
                Caches {
                    accounts: store().0,
                    namespaces: store().0,
                    retirements: Vec::new(),
                    policies: Vec::new(),
                },
                Triggers { retirements: requeue_trigger.clone(), policies: requeue_trigger.clone() },
            )),
            allows_ambient: true,
            sources: Arc::new(Sources::new(
                &config,
                pacing,
                requeue_trigger,
                is_active_fn.clone(),
                clock.clone(),
            )),
            allowed_accounts: BTreeSet::new(),
            revision_locks: RevisionLocks::default(),
            pending_status: PendingStatus::default(),
            recent_events: Recent::default(),
            instance: "controller-1".to_owned(),
            is_active: is_active_fn,
            clock,
            shutdown: Shutdown::new(shutdown.subscribe()),
            waiters: Waiters::default(),
            policy_trigger: RequeueTrigger(Arc::new(|_| {})),
            aws_concurrency: Semaphore::new(CONCURRENCY as usize),
        };
        let west = ecs.region(ACCOUNT, REGION);
        west.register_many("web", 9);
        Self { api, ecs, west, context: Arc::new(context), is_active, shutdown, wire, woken }
    }

    /// Returns a process whose token buckets are full, with more tokens than a test needs.
    pub async fn with_full_buckets() -> Self {
        let world = Self::with_empty_buckets(10);
        world.refill_buckets().await;
        world
    }

    /// Waits until the token buckets are full.
    pub async fn refill_buckets(&self) {
        self.deregistrations();
        sleep(Duration::from_secs(30)).await;
    }

    /// Returns the rate limiter of deregistrations.
    pub fn deregistrations(&self) -> Arc<RateLimiter> {
        self.context.sources.limits(ACCOUNT, REGION).deregistrations
    }

    /// Plans an intervention for the nth request of that name from now on, counted from 1.
    pub fn before(&self, request: &str, nth: u32, between: Between) {
        self.wire.planned.lock().push((request.to_owned(), nth, between));
    }

    /// Creates a resource that declares `revisions`. `more` is the rest of its spec.
    pub fn make(&self, name: &str, revisions: &[&str], mut more: Value) {
        more["revisions"] = json!(revisions);
        self.api.make(RETIREMENTS, NAMESPACE, &resource(name, &more));
    }

    /// Replaces the spec of a resource.
    pub fn edit(&self, name: &str, spec: &Value) {
        self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &Value::Null);
    }

    /// Creates a resource as another process has left it.
    pub fn put(&self, object: &Value) {
        self.api.make(RETIREMENTS, NAMESPACE, object);
    }

    /// Changes a resource as a user may do during a reconcile.
    pub fn change(api: &ModelApi, name: &str, becomes: &str) {
        let spec = json!({ "revisions": ["web:1"], "inUse": "Retire", "suspend": becomes == "suspended" });
        match becomes {
            "suspended" => api.edit(RETIREMENTS, NAMESPACE, name, &spec, &Value::Null),
            _ => api.delete(RETIREMENTS, NAMESPACE, name),
        }
        if becomes == "recreated" {
            api.make(RETIREMENTS, NAMESPACE, &resource(name, &spec));
        }
    }

    pub fn object(&self, name: &str) -> Value {
        let mut objects = self.api.objects(RETIREMENTS).into_iter();
        objects.find(|it| it["metadata"]["name"] == name).expect("a resource of this name")
    }

    pub fn status(&self, name: &str) -> TaskDefinitionRetirementStatus {
        serde_json::from_value(self.object(name)["status"].clone()).expect("a status")
    }

    pub fn row(&self, name: &str, revision: &str) -> RevisionStatus {
        let rows = self.status(name).revisions.into_iter();
        rows.clone()
            .find(|row| row.revision == revision)
            .unwrap_or_else(|| panic!("a row of {revision}: {rows:?}"))
    }

    pub fn reasons(&self, name: &str) -> Vec<Reason> {
        self.status(name).revisions.iter().map(|row| row.reason).collect()
    }

    /// Returns how often a resource was written since its creation.
    pub fn writes(&self, name: &str) -> usize {
        let versions = self.api.versions(RETIREMENTS);
        versions.iter().filter(|version| version.key.name == name).count() - 1
    }

    pub fn count(&self, action: Action) -> usize {
        self.ecs.calls_of(action).len()
    }

    /// Returns the revisions that were described or deregistered, in order.
    pub fn called(&self, action: Action) -> Vec<String> {
        let calls = self.ecs.calls_of(action).into_iter();
        calls.filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned())).collect()
    }

    /// Returns the requests to the API server since the last call of this function.
    pub fn requests(&self) -> Vec<String> {
        self.wire.requests.lock().drain(..).collect()
    }

    /// Returns the resources that were woken since the last call of this function.
    pub fn woken(&self) -> Vec<String> {
        self.woken.lock().drain(..).collect()
    }

    /// Returns the position of a resource in the queue for a permit to deregister. Returns `None`
    /// if it is not queued.
    pub fn queue_position(&self, name: &str) -> Option<usize> {
        let key = ResourceKey { namespace: NAMESPACE.to_owned(), name: name.to_owned() };
        Some(self.context.waiters.get(&key)?.queue_positions().0?.ahead)
    }

    /// Waits until a resource is woken.
    pub async fn until_woken(&self, name: &str) {
        let began = Instant::now();
        while !self.woken().iter().any(|it| it == name) {
            assert!(began.elapsed() < Duration::from_mins(10), "{name} was not woken");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Reconciles a resource in its current version.
    pub async fn reconcile(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.reconcile_object(self.object(name)).await
    }

    /// Reconciles a resource in the given version.
    pub async fn reconcile_object(&self, object: Value) -> Result<Option<Duration>, Error> {
        let cached: Guarded<TaskDefinitionRetirement> = serde_json::from_value(object).expect("an object");
        reconcile(Arc::new(cached), self.context.clone()).await
    }

    /// Reconciles a resource whenever it is due or woken, until it is final.
    pub async fn reconcile_until_final(&self, name: &str) {
        for _ in 0..1_000 {
            let Some(pause) = self.reconcile(name).await.expect("a reconcile") else { return };
            let due = Instant::now() + pause;
            while Instant::now() < due && !self.woken().iter().any(|it| it == name) {
                sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("{name} does not become final: {:?}", self.status(name));
    }
}
