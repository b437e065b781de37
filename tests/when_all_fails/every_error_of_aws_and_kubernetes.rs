//! Every error of AWS and Kubernetes: each operation and each verb fails in each way, and nothing is different in the end.

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

/// Every operation that the controller calls.
const OPERATIONS: [Action; 10] = [
    Action::GetCallerIdentity,
    Action::DescribeTaskDefinition,
    Action::DeregisterTaskDefinition,
    Action::ListClusters,
    Action::ListServices,
    Action::DescribeServices,
    Action::ListTasks,
    Action::DescribeTasks,
    Action::ListServiceDeployments,
    Action::DescribeServiceRevisions,
];

type Error = fn(Target) -> Fault;

/// Every way in which an operation of AWS fails.
const ERRORS: [(&str, Error); 9] = [
    ("throttled", Target::throttle),
    ("server error", Target::server_error),
    ("unavailable", Target::unavailable),
    ("access denied", Target::access_denied),
    ("client error", |target| target.error("InvalidParameterException", "Not like this.")),
    ("never answered", Target::hang),
    ("carried out, reply lost", Target::drop_reply),
    ("slow", |target| target.delay(Duration::from_secs(2))),
    ("refused credentials", |target| target.error("ExpiredTokenException", "The token is expired.")),
];

/// Every way in which a request to Kubernetes fails.
const EFFECTS: [Effect; 10] = [
    Effect::Refuse(409),
    Effect::Refuse(410),
    Effect::Refuse(429),
    Effect::Refuse(500),
    Effect::Refuse(503),
    Effect::Hang,
    Effect::CutBefore,
    Effect::CutAfter,
    Effect::HoldAnswer,
    Effect::Delay(Duration::from_secs(2)),
];

/// How often in a row what fails again and again does.
const AGAIN: u32 = 2;

async fn runs(elects: bool, failures: impl IntoIterator<Item = Failure>) -> Vec<Run> {
    let workload = Workload::Mixed;
    let end = Run::without_failure(workload, elects).await.end;
    failures.into_iter().map(|failure| Run { workload, failure, elects, end: end.clone() }).collect()
}

/// Each of the first `nths` requests fails in each way, and all of them again and again.
fn request(verb: Verb, resource: &str, nths: u32) -> Vec<Failure> {
    let fault = |nth, effect| api_proxy::Fault::request(verb, resource, nth, effect);
    let once = (1..=nths).flat_map(|nth| EFFECTS.map(|effect| fault(nth, effect)));
    let again = [429, 500, 503].map(|code| fault(1, Effect::Refuse(code)).times(AGAIN));
    once.chain(again).map(|fault| Failure::Kubernetes { fault }).collect()
}

#[tokio::test]
async fn whatever_aws_answers_the_end_is_the_same() {
    let cells = OPERATIONS.into_iter().flat_map(|action| {
        ERRORS.into_iter().map(move |(name, error)| Failure::Aws {
            name,
            fault: error(Fault::on(action).nth(1)),
            loses_reply: name == "carried out, reply lost",
        })
    });
    all("cells, AWS error x operation", runs(false, cells).await).await;
}

#[tokio::test]
async fn whatever_aws_answers_again_and_again_the_end_is_the_same() {
    let cells = OPERATIONS.into_iter().take(3).flat_map(|action| {
        ERRORS.into_iter().take(5).map(move |(name, error)| Failure::Aws {
            name,
            fault: error(Fault::on(action).times(AGAIN)),
            loses_reply: false,
        })
    });
    all("cells, AWS error x operation, again and again", runs(false, cells).await).await;
}

#[tokio::test]
async fn whatever_becomes_of_a_status_write_the_end_is_the_same() {
    let cells = request(Verb::Patch, "taskdefinitionretirements/status", 2);
    all("cells, Kubernetes error x patch status", runs(false, cells).await).await;
}

#[tokio::test]
async fn whatever_becomes_of_a_read_the_end_is_the_same() {
    // When a pass begins, and right before it deregisters.
    let cells = request(Verb::Get, "taskdefinitionretirements", 3);
    all("cells, Kubernetes error x get", runs(false, cells).await).await;
}

#[tokio::test]
async fn whatever_becomes_of_a_watch_or_an_event_the_end_is_the_same() {
    let verbs = [
        (Verb::List, "taskdefinitionretirements"),
        (Verb::Watch, "taskdefinitionretirements"),
        (Verb::Create, "events"),
    ];
    let cells = verbs.into_iter().flat_map(|(verb, resource)| request(verb, resource, 1));
    all("cells, Kubernetes error x list, watch, create event", runs(false, cells).await).await;
}

#[tokio::test]
async fn whatever_becomes_of_the_lease_the_end_is_the_same() {
    let verbs = [Verb::Get, Verb::Create, Verb::Update];
    let cells = verbs.into_iter().flat_map(|verb| request(verb, "leases", 1));
    all("cells, Kubernetes error x lease", runs(true, cells).await).await;
}
