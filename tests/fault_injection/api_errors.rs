//! Every error of AWS and Kubernetes: each operation and each verb fails in each way, and the end
//! state is unchanged.

use std::time::Duration;

use testkit::{
    api_proxy::{self, Effect, Verb},
    simulated_ecs::{Action, Fault, Target},
};

use super::{
    run::{Failure, Run},
    tally::all,
    workload::Workload,
};

/// Every AWS operation that the controller calls.
const OPERATIONS: [Action; 12] = [
    Action::GetCallerIdentity,
    Action::DescribeTaskDefinition,
    Action::DeregisterTaskDefinition,
    Action::ListClusters,
    Action::ListServices,
    Action::DescribeServices,
    Action::ListTasks,
    Action::DescribeTasks,
    Action::ListServiceDeployments,
    Action::DescribeServiceDeployments,
    Action::DescribeServiceRevisions,
    Action::ListTaskDefinitions,
];

/// Returns true if the error changes the end state. A rejected `ListTaskDefinitions` is recorded in
/// the row, which is final.
fn changes_the_end(action: Action, error: &str) -> bool {
    action == Action::ListTaskDefinitions && ["access denied", "client error"].contains(&error)
}

type Error = fn(Target) -> Fault;

/// Every failure of an AWS operation, the error responses first.
const ERRORS: [(&str, Error); 9] = [
    ("throttled", Target::throttle),
    ("server error", Target::server_error),
    ("unavailable", Target::unavailable),
    ("access denied", Target::access_denied),
    ("client error", |target| target.error("InvalidParameterException", "Not like this.")),
    ("refused credentials", |target| target.error("ExpiredTokenException", "The token is expired.")),
    ("no response", Target::hang),
    ("carried out, reply lost", Target::drop_reply),
    ("slow", |target| target.delay(Duration::from_secs(2))),
];

/// Every failure of a request to Kubernetes.
const EFFECTS: [Effect; 10] = [
    Effect::Refuse(409),
    Effect::Refuse(410),
    Effect::Refuse(429),
    Effect::Refuse(500),
    Effect::Refuse(503),
    Effect::Hang,
    Effect::DropRequest,
    Effect::DropReply,
    Effect::HangReply,
    Effect::Delay(Duration::from_secs(2)),
];

/// Number of error responses in [`ERRORS`].
const RESPONSES: usize = 6;

/// Consecutive failures of a fault that repeats.
const REPEATS: u32 = 2;

async fn runs(elects: bool, failures: impl IntoIterator<Item = Failure>) -> Vec<Run> {
    let workload = Workload::Mixed;
    let end = Run::without_failure(workload, elects).await.end;
    failures.into_iter().map(|failure| Run { workload, failure, elects, end: end.clone() }).collect()
}

/// Returns the failures of the first `count` requests, each in each way, and of requests that fail
/// repeatedly.
fn request(verb: Verb, resource: &str, count: u32) -> Vec<Failure> {
    let fault = |nth, effect| api_proxy::Fault::request(verb, resource, nth, effect);
    let once = (1..=count).flat_map(|nth| EFFECTS.map(|effect| fault(nth, effect)));
    let repeated = [429, 500, 503].map(|code| fault(1, Effect::Refuse(code)).times(REPEATS));
    once.chain(repeated).map(|fault| Failure::Kubernetes { fault }).collect()
}

#[tokio::test]
async fn end_state_is_unchanged_if_an_aws_call_fails() {
    let cells = OPERATIONS.into_iter().flat_map(|action| {
        let errors = ERRORS.into_iter().filter(move |(name, _)| !changes_the_end(action, name));
        errors.map(move |(name, error)| Failure::Aws {
            name,
            fault: error(Fault::on(action).nth(1)),
            loses_reply: name == "carried out, reply lost",
        })
    });
    all("cells, AWS error x operation", runs(false, cells).await).await;
}

#[tokio::test]
async fn end_state_is_unchanged_if_an_aws_operation_fails_repeatedly() {
    let cells = OPERATIONS.into_iter().take(3).flat_map(|action| {
        ERRORS.into_iter().take(RESPONSES).map(move |(name, error)| Failure::Aws {
            name,
            fault: error(Fault::on(action).times(REPEATS)),
            loses_reply: false,
        })
    });
    all("cells, repeated AWS error x operation", runs(false, cells).await).await;
}

#[tokio::test]
async fn end_state_is_unchanged_if_a_status_write_fails() {
    // The first status, the account if its verification takes longer, and the responses of ECS.
    let cells = request(Verb::Patch, "taskdefinitionretirements/status", 3);
    all("cells, Kubernetes error x patch status", runs(false, cells).await).await;
}

#[tokio::test]
async fn end_state_is_unchanged_if_a_get_fails() {
    // A reconcile reads the resource when it begins and right before it deregisters.
    let cells = request(Verb::Get, "taskdefinitionretirements", 3);
    all("cells, Kubernetes error x get", runs(false, cells).await).await;
}

#[tokio::test]
async fn end_state_is_unchanged_if_a_list_a_watch_or_an_event_fails() {
    let verbs = [
        (Verb::List, "taskdefinitionretirements"),
        (Verb::Watch, "taskdefinitionretirements"),
        (Verb::Create, "events"),
    ];
    let cells = verbs.into_iter().flat_map(|(verb, resource)| request(verb, resource, 1));
    all("cells, Kubernetes error x list, watch, create event", runs(false, cells).await).await;
}

#[tokio::test]
async fn end_state_is_unchanged_if_a_lease_request_fails() {
    let verbs = [Verb::Get, Verb::Create, Verb::Update];
    let cells = verbs.into_iter().flat_map(|verb| request(verb, "leases", 1));
    all("cells, Kubernetes error x lease", runs(true, cells).await).await;
}
