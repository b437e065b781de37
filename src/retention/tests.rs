//! Tests of the reconciler of policies, against the model API server and an in-process simulated
//! ECS, in paused tokio time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{BoxError, body::Body, http::Response};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client,
    runtime::{
        reflector::{store, store::Writer},
        watcher::Event,
    },
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{
    model_api::{ApiRequest, ApiResponse, ModelApi},
    simulated_ecs::{ACCOUNT, Action, Region, SimulatedEcs, in_process},
};
use tower::service_fn;

use crate::{
    account::store::{Accounts, Caches, Triggers},
    api::EcsAccount,
    aws::{permit_queue::Pacing, rate_limiter::RequeueTrigger, source::Sources, usage_cache::IsActive},
    clock::Clock,
    controller::guarded::Guarded,
    retention::{context::Context, reconcile::reconcile},
};

mod accounts;
mod runs;

const REGION: &str = "us-west-2";
const NAMESPACE: &str = "platform";
const POLICIES: &str = "taskdefinitionretentionpolicies";
const RETIREMENTS: &str = "taskdefinitionretirements";
const REQUESTED: &str = "ecs-retirement.dev/requestedAt";

/// The API server, AWS, and a process that reconciles policies.
struct World {
    api: ModelApi,
    ecs: SimulatedEcs,
    west: Region,
    context: Context,
    is_active: Arc<AtomicBool>,
    accounts: Arc<Mutex<Writer<Guarded<EcsAccount>>>>,
}

impl World {
    fn new() -> Self {
        let began = tokio::time::Instant::now();
        // Runs are named by the second, and none begins at the epoch.
        let clock: Clock = Arc::new(move || at(1_795_707_012) + began.elapsed());
        let (for_api, for_ecs) = (clock.clone(), clock.clone());
        let api = ModelApi::new(move || for_api());
        let ecs = SimulatedEcs::in_process(move || for_ecs());
        let west = ecs.region(ACCOUNT, REGION);
        let served = api.clone();
        let service = service_fn(move |request| respond(served.clone(), request));
        let is_active = Arc::new(AtomicBool::new(true));
        let flag = is_active.clone();
        let may_act: IsActive = Arc::new(move || flag.load(SeqCst));
        let (pacing, trigger) = (Pacing { per_second: 1.0, burst: 10 }, RequeueTrigger(Arc::new(|_| {})));
        let config = in_process::config(REGION, ecs.transport());
        let sources = Sources::new(&config, pacing, trigger.clone(), may_act.clone(), clock.clone());
        let (accounts, writer) = store();
        let (namespaces, mut namespace_writer) = store();
        for event in [Event::Init, Event::InitDone] {
            namespace_writer.apply_watcher_event(&event);
        }
        let caches = Caches { accounts, namespaces, retirements: Vec::new(), policies: Vec::new() };
        let triggers = Triggers { retirements: trigger.clone(), policies: trigger };
        let accounts = Accounts::new(Some("own".to_owned()), pacing, caches, triggers);
        let context = Context {
            client: Client::new(service, NAMESPACE),
            sources: Arc::new(sources),
            accounts: Arc::new(accounts),
            policies: Vec::new(),
            allows_ambient: true,
            allowed_accounts: BTreeSet::new(),
            clock,
            is_active: may_act,
            instance: "controller-1".to_owned(),
        };
        let world = Self { api, ecs, west, context, is_active, accounts: Arc::new(Mutex::new(writer)) };
        world.set_accounts(&[]);
        world
    }

    /// Replaces the EcsAccounts in the cache.
    fn set_accounts(&self, accounts: &[Value]) {
        set_accounts(&self.accounts, accounts);
    }

    /// Creates a policy that keeps two revisions of the families `include`. `more` is the rest of
    /// its spec.
    fn make(&self, name: &str, include: &[&str], mut more: Value) {
        more["families"] = json!({ "include": include });
        if more["keep"].is_null() {
            more["keep"] = json!({ "latest": 2 });
        }
        let policy = json!({
            "apiVersion": "ecs-retirement.dev/v1alpha1",
            "kind": "TaskDefinitionRetentionPolicy",
            "metadata": { "name": name },
            "spec": more,
        });
        self.api.make(POLICIES, NAMESPACE, &policy);
    }

    /// Changes the spec and the annotations of a policy, as a user does.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value), annotations: &Value) {
        let mut spec = self.policy(name)["spec"].clone();
        change(&mut spec);
        self.api.edit(POLICIES, NAMESPACE, name, &spec, annotations);
    }

    /// Writes the status of an object, as another process does.
    fn set_status(&self, plural: &str, name: &str, status: &Value) {
        let path = format!("/apis/ecs-retirement.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}/{name}/status");
        let body = json!({ "status": status }).to_string();
        let query = "fieldManager=test";
        let request = ApiRequest::read("PATCH", &path, query, &axum::http::HeaderMap::new(), body.as_bytes());
        let ApiResponse::Whole(code, body) = self.api.respond(&request) else { panic!("a whole response") };
        assert_eq!(code, 200, "{body}");
    }

    fn policy(&self, name: &str) -> Value {
        let mut objects = self.api.objects(POLICIES).into_iter();
        objects.find(|it| it["metadata"]["name"] == name).expect("a policy of this name")
    }

    fn retirements(&self) -> Vec<Value> {
        self.api.objects(RETIREMENTS)
    }

    /// Returns the revisions that the retirements declare.
    fn declared(&self) -> Vec<String> {
        let all = self.retirements();
        let revisions = all.iter().filter_map(|it| it["spec"]["revisions"].as_array().cloned());
        revisions.flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
    }

    /// Returns the reason of the condition Ready.
    fn reason(&self, name: &str) -> String {
        let conditions = self.policy(name)["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|it| it["type"] == "Ready").unwrap_or_default();
        ready["reason"].as_str().unwrap_or_default().to_owned()
    }

    async fn reconcile(&self, name: &str) -> Option<Duration> {
        let cached = serde_json::from_value(self.policy(name)).expect("a policy");
        reconcile(&cached, &self.context).await.expect("a reconcile")
    }

    /// Finishes all revisions of a retirement, as its reconciler does.
    fn retire(&self, name: &str) {
        let all = self.retirements().into_iter();
        let it = all.clone().find(|it| it["metadata"]["name"] == name).expect("a retirement of this name");
        let revisions = it["spec"]["revisions"].as_array().cloned().unwrap_or_default().into_iter();
        let rows: Vec<Value> = revisions.map(|it| json!({ "revision": it, "reason": "Retired" })).collect();
        let generation = &it["metadata"]["generation"];
        self.set_status(RETIREMENTS, name, &json!({ "observedGeneration": generation, "revisions": rows }));
    }
}

async fn respond(
    api: ModelApi,
    request: axum::http::Request<kube::client::Body>,
) -> Result<Response<Body>, BoxError> {
    let request = ApiRequest::receive(request).await?;
    let ApiResponse::Whole(status, body) = api.respond(&request) else {
        return Err("no watch was expected".into());
    };
    Ok(Response::builder().status(status).body(Body::from(body.to_string()))?)
}

fn set_accounts(writer: &Mutex<Writer<Guarded<EcsAccount>>>, accounts: &[Value]) {
    let mut writer = writer.lock();
    writer.apply_watcher_event(&Event::Init);
    for account in accounts {
        let account = serde_json::from_value(account.clone()).expect("an EcsAccount");
        writer.apply_watcher_event(&Event::InitApply(account));
    }
    writer.apply_watcher_event(&Event::InitDone);
}

/// Returns the EcsAccount `prod` of this generation, which the controller `controller` serves, with
/// the controller's own credentials.
fn account(controller: &str, generation: i64, families: &[&str]) -> Value {
    json!({
        "metadata": { "name": "prod", "uid": "5f2c", "generation": generation },
        "spec": {
            "controllerName": controller, "accountId": ACCOUNT, "region": REGION,
            "allowedNamespaces": { "names": [NAMESPACE] }, "families": { "allow": families },
        },
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}
