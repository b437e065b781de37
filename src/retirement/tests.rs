//! Passes over resources of a modelled API server, at a simulated ECS in the same process, by a
//! clock that jumps to whatever is next.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
use kube::Client;
use serde_json::{Value, json};
use testkit::{
    model_api::{Answer, Asked, ModelApi, failure},
    simulated_ecs::{ACCOUNT, Action, Region, SimulatedEcs, in_process},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tower::service_fn;

use crate::{
    api::{Reason, RevisionStatus, TaskDefinitionRetirementStatus},
    aws::session::{Account, Session},
    aws::{
        permit_queue::Pacing,
        rate_limiter::{RequeueTrigger, ResourceKey},
        usage_cache::IsActive,
    },
    clock::Clock,
    retirement::{
        events::Recent,
        guarded::Guarded,
        pending_status::PendingStatus,
        reconcile::{Context, Error, reconcile},
        revision_locks::RevisionLocks,
    },
    shutdown::Shutdown,
};

const REGION: &str = "us-west-2";
const NAMESPACE: &str = "platform";
const RETIREMENTS: &str = "taskdefinitionretirements";

/// How many passes may be at work at AWS at once.
pub const SLOTS: u32 = 16;

/// The requests that a pass makes to the API server, as [`World::before`] takes them.
pub const GET: &str = "Get taskdefinitionretirements";
pub const APPLY: &str = "ApplyStatus taskdefinitionretirements";
pub const CREATE_EVENT: &str = "Create events";

/// What comes between a request and its answer.
pub enum Between {
    /// Something else happens first.
    Do(Box<dyn FnOnce() + Send>),
    /// It is answered with this code instead.
    Refuse(u16),
    /// It takes that long.
    Delay(Duration),
}

/// The API server and AWS, and a process that makes passes.
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
    /// What is planned for which request of a name, counted down to 0.
    planned: Mutex<Vec<(String, u32, Between)>>,
    asked: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Lets happen what is planned for a request. The code that it is answered with instead, if
    /// that is planned.
    async fn carry(&self, request: String) -> Option<u16> {
        let planned = {
            let mut planned = lock(&self.planned);
            planned.iter_mut().filter(|(it, ..)| *it == request).for_each(|(_, left, _)| *left -= 1);
            let index = planned.iter().position(|(_, left, _)| *left == 0);
            index.map(|index| planned.remove(index).2)
        };
        lock(&self.asked).push(request);
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
    let asked = Asked::receive(request).await?;
    let refused = wire.carry(format!("{:?} {}", asked.verb, asked.plural)).await;
    let answer =
        refused.map(|code| failure(code, if code == 409 { "Conflict" } else { "InternalError" }, "planned"));
    let answer = answer.map_or_else(|| api.answer(&asked), |(code, body)| Answer::Whole(code, body));
    let Answer::Whole(status, body) = answer else { return Err("no watch was expected".into()) };
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

/// Whether a pause is that many seconds, but for the fifth by which resources are spread.
pub fn is_about(seconds: u64, pause: Option<Duration>) -> bool {
    let shortest = Duration::from_secs(seconds);
    pause.is_some_and(|pause| (shortest..=shortest * 6 / 5).contains(&pause))
}

impl World {
    /// A process that has just begun, and nine revisions of `web`.
    pub fn begin(burst: u32) -> Self {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + began.elapsed());
        let (for_api, for_ecs) = (clock.clone(), clock.clone());
        let api = ModelApi::new(move || for_api());
        let ecs = SimulatedEcs::in_process(move || for_ecs());
        let (wire, woken) = (Arc::<Wire>::default(), Arc::new(Mutex::<Vec<String>>::default()));
        let (served, carrying) = (api.clone(), wire.clone());
        let service = service_fn(move |request| kubernetes(served.clone(), carrying.clone(), request));
        let is_active = Arc::new(AtomicBool::new(true));
        let (asked, told) = (is_active.clone(), woken.clone());
        let may: IsActive = Arc::new(move || asked.load(SeqCst));
        let requeue_trigger =
            RequeueTrigger(Arc::new(move |key: &ResourceKey| lock(&told).push(key.name.clone())));
        let shutdown = watch::Sender::new(false);
        let pacing = Pacing { per_second: 1.0, burst };
        let config = in_process::config(REGION, ecs.transport());
        let context = Context {
            client: Client::new(service, NAMESPACE),
            account: Account::new(&config, pacing, requeue_trigger, may.clone(), clock.clone()),
            allowed_accounts: BTreeSet::new(),
            claims: RevisionLocks::default(),
            pending_status: PendingStatus::default(),
            recent_events: Recent::default(),
            instance: "controller-1".to_owned(),
            is_active: may,
            clock,
            shutdown: Shutdown::new(shutdown.subscribe()),
            slots: Semaphore::new(SLOTS as usize),
        };
        let west = ecs.region(ACCOUNT, REGION);
        west.register_many("web", 9);
        Self { api, ecs, west, context: Arc::new(context), is_active, shutdown, wire, woken }
    }

    /// A process that has all turns, of which there are more than it takes.
    pub async fn rested() -> Self {
        let world = Self::begin(10);
        world.rest().await;
        world
    }

    /// Waits until all turns are there.
    pub async fn rest(&self) {
        self.session();
        sleep(Duration::from_secs(30)).await;
    }

    pub fn session(&self) -> Arc<Session> {
        self.context.account.session(REGION)
    }

    /// Plans something for the nth request of that name from now, from 1.
    pub fn before(&self, request: &str, nth: u32, between: Between) {
        lock(&self.wire.planned).push((request.to_owned(), nth, between));
    }

    /// A resource that declares those revisions, and says `more`.
    pub fn make(&self, name: &str, revisions: &[&str], mut more: Value) {
        more["revisions"] = json!(revisions);
        self.api.make(RETIREMENTS, NAMESPACE, &resource(name, &more));
    }

    /// Gives a resource another spec.
    pub fn edit(&self, name: &str, spec: &Value) {
        self.api.edit(RETIREMENTS, NAMESPACE, name, spec, &Value::Null);
    }

    /// A resource as another process has left it.
    pub fn put(&self, object: &Value) {
        self.api.make(RETIREMENTS, NAMESPACE, object);
    }

    /// What a person may do meanwhile.
    pub fn change(api: &ModelApi, name: &str, becomes: &str) {
        let spec = json!({ "revisions": ["web:1"], "inUse": "Retire", "suspend": becomes == "suspended" });
        match becomes {
            "suspended" => api.edit(RETIREMENTS, NAMESPACE, name, &spec, &Value::Null),
            _ => api.delete(RETIREMENTS, NAMESPACE, name),
        }
        if becomes == "made again" {
            api.make(RETIREMENTS, NAMESPACE, &resource(name, &spec));
        }
    }

    pub fn object(&self, name: &str) -> Value {
        let mut objects = self.api.objects(RETIREMENTS).into_iter();
        objects.find(|it| it["metadata"]["name"] == name).expect("a resource of that name")
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

    /// How often a resource was written since it was made.
    pub fn writes(&self, name: &str) -> usize {
        let versions = self.api.versions(RETIREMENTS);
        versions.iter().filter(|version| version.key.name == name).count() - 1
    }

    pub fn count(&self, action: Action) -> usize {
        self.ecs.calls_of(action).len()
    }

    /// The revisions that were described, or deregistered, in order.
    pub fn called(&self, action: Action) -> Vec<String> {
        let calls = self.ecs.calls_of(action).into_iter();
        calls.filter_map(|call| Some(call.task_definition?.rsplit('/').next()?.to_owned())).collect()
    }

    /// The requests to the API server since this was last asked.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.wire.asked).drain(..).collect()
    }

    /// Who has been woken since this was last asked.
    pub fn woken(&self) -> Vec<String> {
        lock(&self.woken).drain(..).collect()
    }

    /// Where a resource stands in the line for a turn to deregister, if it does.
    pub fn place(&self, name: &str) -> Option<usize> {
        let key = ResourceKey { namespace: NAMESPACE.to_owned(), name: name.to_owned() };
        Some(self.session().deregistrations.place(&key)?.ahead)
    }

    /// Waits until a resource is woken.
    pub async fn until_woken(&self, name: &str) {
        let began = Instant::now();
        while !self.woken().iter().any(|it| it == name) {
            assert!(began.elapsed() < Duration::from_mins(10), "{name} is never woken");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A pass over the resource as it is.
    pub async fn reconcile(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.pass_over(self.object(name)).await
    }

    /// A pass over the resource as it was.
    pub async fn pass_over(&self, object: Value) -> Result<Option<Duration>, Error> {
        let cached: Guarded = serde_json::from_value(object).expect("an object");
        reconcile(Arc::new(cached), self.context.clone()).await
    }

    /// Passes over the resource, each when it is due or called, until there is nothing left to do.
    pub async fn settle(&self, name: &str) {
        for _ in 0..1_000 {
            let Some(pause) = self.reconcile(name).await.expect("Kubernetes answers") else { return };
            let due = Instant::now() + pause;
            while Instant::now() < due && !self.woken().iter().any(|it| it == name) {
                sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("{name} never settles: {:?}", self.status(name));
    }
}
