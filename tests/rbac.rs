//! RBAC: the chart's service account has the permissions that the controller needs, and no others.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Request;
use futures::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use testkit::namespace::Namespace;

use crate::{
    releases::{NAME, install},
    support::{ACCOUNT_CRD, CRD, POLICY_CRD},
};

/// Special verbs and wildcards, which API discovery does not list.
const UNLISTED: [(&str, &str, &str); 10] = [
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("bind", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("approve", "certificates.k8s.io", "signers"),
    ("approve", "ecs-retirement.dev", "taskdefinitionretirements"),
    ("*", "*", "*"),
];

/// Returns all requests that the API server serves: verb, group, and resource or subresource.
async fn requests(client: &Client) -> BTreeSet<(String, String, String)> {
    let mut lists = vec![client.list_core_api_resources("v1").await.expect("the core group")];
    for group in client.list_api_groups().await.expect("a list of groups").groups {
        for version in group.versions {
            let list = client.list_api_group_resources(&version.group_version).await;
            lists.push(list.unwrap_or_else(|error| panic!("{}: {error}", version.group_version)));
        }
    }
    let mut requests: BTreeSet<_> =
        UNLISTED.map(|(verb, group, name)| (verb.to_owned(), group.to_owned(), name.to_owned())).into();
    for list in lists {
        let group = list.group_version.rsplit_once('/').map_or("", |(group, _)| group);
        for resource in list.resources {
            let request = |verb| (verb, group.to_owned(), resource.name.clone());
            requests.extend(resource.verbs.into_iter().map(request));
        }
    }
    requests
}

/// The subject of an access review.
struct Account<'name> {
    user: String,
    groups: Vec<&'name str>,
}

impl Account<'_> {
    fn service(namespace: &str, name: &str) -> Self {
        let groups = vec!["system:serviceaccounts", "system:authenticated"];
        Self { user: format!("system:serviceaccount:{namespace}:{name}"), groups }
    }

    async fn may(&self, client: &Client, attributes: Value) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": { "user": self.user, "groups": self.groups, "resourceAttributes": attributes },
        });
        let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
            .header("content-type", "application/json")
            .body(review.to_string().into_bytes())
            .expect("a request");
        let review: Value = client.request(request).await.expect("an administrator may review access");
        review["status"]["allowed"] == true
    }

    /// Returns the permissions that not every service account has, as `verb group/resource`, each
    /// with the names of the `places` where it applies.
    async fn rights(&self, client: &Client, places: &[(&str, Value)]) -> BTreeMap<String, Vec<String>> {
        let requests = requests(client).await;
        assert!(requests.len() > 400, "the API server serves much: {}", requests.len());
        let questions = requests.iter().flat_map(|request| places.iter().map(move |place| (request, place)));
        let answers = questions.map(async |((verb, group, name), (place, attributes))| {
            let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
            let mut attributes = attributes.clone();
            attributes["group"] = json!(group);
            attributes["resource"] = json!(resource);
            attributes["subresource"] = json!(subresource);
            attributes["verb"] = json!(verb);
            let stranger = Account::service("default", "stranger");
            let allowed =
                self.may(client, attributes.clone()).await && !stranger.may(client, attributes).await;
            allowed.then(|| (format!("{verb} {group}/{name}"), (*place).to_owned()))
        });
        let mut rights: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (right, place) in
            stream::iter(answers).buffered(16).collect::<Vec<_>>().await.into_iter().flatten()
        {
            rights.entry(right).or_default().push(place);
        }
        rights
    }
}

/// The places in which permissions are checked.
const PLACES: [&str; 5] = ["cluster", "own", "own Lease", "watched", "other"];

/// The kinds that a release serves besides retirements.
#[derive(Clone, Copy)]
struct Serves {
    accounts: bool,
    policies: bool,
    /// True if `approval.enforce` is set.
    approval: bool,
}

/// Returns the expected permissions of the service account of a release that watches `watched`.
fn expected(watched: &[&str], serves: Serves) -> BTreeMap<String, Vec<String>> {
    let list = |places: &[&str]| places.iter().map(|place| (*place).to_owned()).collect();
    let mut rights: BTreeMap<String, Vec<String>> = BTreeMap::from([
        ("create coordination.k8s.io/leases".to_owned(), list(&["own", "own Lease"])),
        ("get coordination.k8s.io/leases".to_owned(), list(&["own Lease"])),
        ("update coordination.k8s.io/leases".to_owned(), list(&["own Lease"])),
    ]);
    for right in [
        "get ecs-retirement.dev/taskdefinitionretirements",
        "list ecs-retirement.dev/taskdefinitionretirements",
        "watch ecs-retirement.dev/taskdefinitionretirements",
        "patch ecs-retirement.dev/taskdefinitionretirements/status",
        "create events.k8s.io/events",
    ] {
        rights.insert(right.to_owned(), list(watched));
    }
    let policies = [
        "get ecs-retirement.dev/taskdefinitionretentionpolicies",
        "list ecs-retirement.dev/taskdefinitionretentionpolicies",
        "watch ecs-retirement.dev/taskdefinitionretentionpolicies",
        "patch ecs-retirement.dev/taskdefinitionretentionpolicies/status",
        "create ecs-retirement.dev/taskdefinitionretirements",
        "patch ecs-retirement.dev/taskdefinitionretirements",
        "delete ecs-retirement.dev/taskdefinitionretirements",
    ];
    let approve = "approve ecs-retirement.dev/taskdefinitionretirements";
    let approve = [approve].into_iter().filter(|_| serves.approval);
    for right in policies.into_iter().chain(approve).filter(|_| serves.policies) {
        rights.insert(right.to_owned(), list(watched));
    }
    if serves.accounts {
        for right in [
            "get ecs-retirement.dev/ecsaccounts",
            "list ecs-retirement.dev/ecsaccounts",
            "watch ecs-retirement.dev/ecsaccounts",
            "patch ecs-retirement.dev/ecsaccounts/status",
            "get /namespaces",
            "list /namespaces",
            "watch /namespaces",
        ] {
            rights.insert(right.to_owned(), list(&PLACES));
        }
        // The events of a cluster-scoped object are in the namespace `default`.
        let events = PLACES.into_iter().filter(|place| watched.contains(place) || *place == "other");
        rights.insert("create events.k8s.io/events".to_owned(), list(&events.collect::<Vec<_>>()));
    }
    rights
}

#[tokio::test]
async fn service_account_is_refused_every_other_verb_and_resource() {
    let namespace = Namespace::fresh().await;
    for crd in [CRD, ACCOUNT_CRD, POLICY_CRD] {
        namespace.install_crds(crd).await.expect("the CRD installs");
    }
    let (plane, client, watched) = (namespace.control_plane(), namespace.client(), namespace.name());
    let [all, some, fewest] = ["all", "some", "fewest"].map(|name| format!("{name}-{watched}"));
    install(plane, &all, &["--set=crds.enabled=false"]).await;
    let narrow = format!("--set=crds.enabled=false,watchNamespaces={{{watched}}}");
    install(plane, &some, &[&narrow, "--set=approval.enforce=true"]).await;
    let none = "--set=ecsAccounts.enabled=false,retentionPolicies.enabled=false,approval.enforce=true";
    install(plane, &fewest, &[&narrow, none]).await;

    let both = Serves { accounts: true, policies: true, approval: false };
    for (own, expected) in [
        (&all, expected(&PLACES, both)),
        (&some, expected(&["watched"], Serves { approval: true, ..both })),
        (&fewest, expected(&["watched"], Serves { accounts: false, policies: false, approval: true })),
    ] {
        let places = [
            ("cluster", json!({})),
            ("own", json!({ "namespace": own })),
            ("own Lease", json!({ "namespace": own, "name": NAME })),
            ("watched", json!({ "namespace": watched })),
            ("other", json!({ "namespace": "default" })),
        ];
        let rights = Account::service(own, NAME).rights(&client, &places).await;
        assert_eq!(rights, expected, "{own}");
    }
}

/// Without a controller manager nothing aggregates the roles. The test checks their labels, and
/// binds each role directly.
#[tokio::test]
async fn aggregated_roles_let_viewers_view_and_editors_edit_retirements_and_policies() {
    let namespace = Namespace::fresh().await;
    let (plane, client, own) = (namespace.control_plane(), namespace.client(), namespace.name());
    install(plane, own, &["--set=crds.enabled=false,rbac.aggregateToEdit=true"]).await;
    let role = |verb: &str| format!("{own}:{NAME}:{verb}");
    for (verb, joins) in [("view", &["view", "edit", "admin"][..]), ("edit", &["edit", "admin"])] {
        let labels =
            plane.kubectl(&["get", "clusterrole", &role(verb), "-o", "jsonpath={.metadata.labels}"]).await;
        let labels: Value = serde_json::from_str(&labels.expect("the role is there")).expect("labels");
        for join in ["view", "edit", "admin"] {
            let label = &labels[format!("rbac.authorization.k8s.io/aggregate-to-{join}")];
            assert_eq!(label == "true", joins.contains(&join), "{verb} and {join}: {labels}");
        }
        let bind = ["create", "rolebinding", verb, "--clusterrole", &role(verb), "--user", verb];
        namespace.kubectl(&bind).await.expect("it can be bound");
    }
    for resource in ["taskdefinitionretirements", "taskdefinitionretentionpolicies"] {
        let may = async |user: &str, verb: &str, subresource: &str| {
            let account = Account { user: user.to_owned(), groups: vec!["system:authenticated"] };
            let attributes = json!({
                "namespace": own, "verb": verb, "group": "ecs-retirement.dev",
                "resource": resource, "subresource": subresource,
            });
            account.may(&client, attributes).await
        };
        for verb in ["get", "list", "watch"] {
            assert!(may("view", verb, "").await, "{verb}");
        }
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            assert!(may("edit", verb, "").await, "{verb}");
            assert!(!may("view", verb, "").await, "{verb}");
            assert!(!may("edit", verb, "status").await, "only the controller writes the status: {verb}");
        }
        assert!(!may("edit", "approve", "").await, "{resource}");
    }
}
