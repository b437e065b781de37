//! Admission of `EcsAccounts`: the API server refuses invalid ones, and says what to write.

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use tokio::sync::OnceCell;

use crate::support::{ACCOUNT_CRD, CRD, World};

const ACCOUNT: &str = "111122223333";

/// Returns a world on an API server that no controller uses: on the shared one, the controllers of
/// other tests would serve each `EcsAccount`.
async fn world() -> World<'static> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = || async { ControlPlane::start().await.expect("a control plane starts") };
    World::on(PLANE.get_or_init(start).await, CRD).await
}

/// Applies an `EcsAccount` whose name is unique on the API server.
async fn apply(world: &World<'_>, name: &str, spec: &Value) -> Result<DynamicObject, String> {
    let manifest = json!({
        "apiVersion": "ecs-retirement.dev/v1alpha1",
        "kind": "EcsAccount",
        "metadata": { "name": unique(world, name) },
        "spec": spec,
    });
    world.namespace.apply(manifest).await
}

fn unique(world: &World<'_>, name: &str) -> String {
    format!("{}-{name}", world.namespace.name())
}

fn api(world: &World<'_>) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("ecs-retirement.dev", "v1alpha1", "EcsAccount");
    Api::all_with(world.namespace.client(), &ApiResource::from_gvk_with_plural(&kind, "ecsaccounts"))
}

async fn delete(world: &World<'_>, name: &str) {
    api(world).delete(&unique(world, name), &DeleteParams::default()).await.expect("it can be deleted");
}

/// Returns the smallest valid spec.
fn minimal() -> Value {
    json!({ "accountId": ACCOUNT, "region": "us-west-2", "families": { "allow": ["web-*"] } })
}

/// Returns the smallest valid spec, with `value` at `pointer`.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = minimal();
    let path: Vec<&str> = pointer.split('.').collect();
    let (last, parents) = path.split_last().expect("a path");
    let parent = parents.iter().fold(&mut spec, |parent, key| &mut parent[*key]);
    parent[*last] = value;
    spec
}

fn without(field: &str) -> Value {
    let mut spec = minimal();
    spec.as_object_mut().expect("a spec").remove(field);
    spec
}

/// Returns cases: the name of the resource, its spec, and a text that the refusal must contain.
fn invalid_specs() -> Vec<(&'static str, Value, &'static str)> {
    let role = |arn: &str| with("assumeRole", json!({ "roleArn": arn }));
    let external_id = |external_id: &str| {
        let arn = "arn:aws:iam::111122223333:role/ecs-retirement";
        with("assumeRole", json!({ "roleArn": arn, "externalId": external_id }))
    };
    let allow = |glob: &str| with("families.allow", json!(["web-*", glob]));
    let deny = |glob: &str| with("families.deny", json!([glob]));
    let accounts = ["12345678910", "0123456789101", "01234567891O", "0123-4567-8910", " 012345678910", ""];
    let mut cases: Vec<_> = accounts
        .into_iter()
        .map(|account| {
            ("account", with("accountId", json!(account)), "12 digits of an AWS account, in quotes")
        })
        .collect();
    cases.extend([
        ("account-of-other-digits", with("accountId", json!("١٢٣٤٥٦٧٨٩٠١٢")), "12 digits"),
        ("account-without-quotes", with("accountId", json!(111_122_223_333_u64)), "spec.accountId"),
        ("no-account", without("accountId"), "spec.accountId: Required value"),
        (
            "role-of-another-account",
            role("arn:aws:iam::444455556666:role/ecs-retirement"),
            "spec.assumeRole.roleArn is a role of another account than spec.accountId: name a role in that account",
        ),
        ("role-name", role("ecs-retirement"), "write the ARN of an IAM role, such as arn:aws:iam::"),
        ("user", role("arn:aws:iam::111122223333:user/ecs-retirement"), "write the ARN of an IAM role"),
        ("role-of-no-account", role("arn:aws:iam:::role/ecs-retirement"), "write the ARN of an IAM role"),
        ("session", role("arn:aws:sts::111122223333:assumed-role/r/s"), "write the ARN of an IAM role"),
        ("no-role", with("assumeRole", json!({ "externalId": "a1" })), "spec.assumeRole.roleArn: Required value"),
        ("blank-in-external-id", external_id("a b"), "an external ID has only letters, digits"),
        ("short-external-id", external_id("a"), "spec.assumeRole.externalId"),
        ("no-families", without("families"), "spec.families: Required value"),
        ("no-allow", with("families", json!({})), "spec.families.allow: Required value"),
        ("no-allow-but-deny", with("families", json!({ "deny": ["web"] })), "spec.families.allow: Required value"),
        ("empty-allow", with("families.allow", json!([])), "spec.families.allow"),
        ("question-mark", allow("web-?"), "\"web-?\" is not a family or glob: write 1 to 255 letters, digits"),
        ("revision", allow("web:1"), "is not a family or glob"),
        ("set", allow("web-[ab]"), "is not a family or glob"),
        ("blank", allow(" web"), "is not a family or glob"),
        ("comma", allow("web,api"), "is not a family or glob"),
        ("slash", allow("web/*"), "is not a family or glob"),
        ("letter-outside-ascii", allow("wéb"), "is not a family or glob"),
        ("empty-glob", allow(""), "is not a family or glob"),
        ("denied-question-mark", deny("web-?"), "is not a family or glob"),
        ("long-glob", allow(&"a".repeat(256)), "is not a family or glob"),
        (
            "default-region-outside",
            with("allowedRegions", json!(["eu-west-1"])),
            "spec.region is not in spec.allowedRegions: add it, or change spec.region",
        ),
        ("no-allowed-region", with("allowedRegions", json!([])), "spec.allowedRegions"),
        ("allowed-region-name", with("allowedRegions", json!(["us-west-2", "Oregon"])), "such as us-west-2"),
        ("region-name", with("region", json!("Oregon")), "write the code of an AWS region, such as us-west-2"),
        ("zone", with("region", json!("us-west-2a")), "such as us-west-2"),
        ("no-region", without("region"), "spec.region: Required value"),
        ("days", with("minimumUnusedFor", json!("1d")), "write a duration such as 20s, 90m or 24h"),
        ("no-unit", with("minimumUnusedFor", json!("24")), "write a duration such as 20s, 90m or 24h"),
        ("rate-of-zero", with("pacing", json!({ "deregistrationsPerMinute": 0 })), "greater than or equal to 1"),
        ("burst-of-zero", with("pacing", json!({ "deregistrationBurst": 0 })), "greater than or equal to 1"),
        ("no-controller", with("controllerName", json!("")), "spec.controllerName"),
        ("empty-namespace", with("allowedNamespaces", json!({ "names": [""] })), "spec.allowedNamespaces.names[0]"),
        ("unknown-field", with("allowedFamilies", json!(["*"])), "spec.allowedFamilies"),
        ("misspelt-field", with("families.denied", json!(["web"])), "spec.families.denied"),
    ]);
    cases
}

#[tokio::test]
async fn invalid_account_is_refused_by_admission_with_what_to_write() {
    let world = world().await;
    for (name, spec, text) in invalid_specs() {
        let refusal = apply(&world, name, &spec).await.expect_err(name);
        assert!(refusal.contains(text), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn minimal_account_is_admitted_with_its_defaults() {
    let world = world().await;
    let account = apply(&world, "minimal", &minimal()).await.expect("it is valid");
    let mut expected = minimal();
    expected["controllerName"] = json!("ecs-retirement-controller");
    expected["requireUnused"] = json!(false);
    expected["suspend"] = json!(false);
    assert_eq!(account.data["spec"], expected);
    assert_eq!(account.data["status"], json!({ "observedGeneration": -1 }));
    delete(&world, "minimal").await;
}

#[tokio::test]
async fn every_field_of_a_valid_account_is_admitted() {
    let world = world().await;
    let many = |prefix: &str, count| (0..count).map(|number| format!("{prefix}{number}")).collect::<Vec<_>>();
    let globs: Vec<String> = many(&"a".repeat(250), 1000);
    let spec = json!({
        "controllerName": "retirement-west",
        "accountId": ACCOUNT,
        "region": "us-west-2",
        "allowedRegions": many("us-west-", 100),
        "assumeRole": {
            "roleArn": "arn:aws:iam::111122223333:role/teams/ecs-retirement",
            "externalId": "a_+=,.@:/-9",
        },
        "allowedNamespaces": {
            "names": many("platform-", 1000),
            "selector": {
                "matchLabels": { "team": "platform" },
                "matchExpressions": [{ "key": "stage", "operator": "In", "values": ["prod"] }],
            },
        },
        "families": { "allow": globs, "deny": globs },
        "requireUnused": true,
        "minimumUnusedFor": "1h30m",
        "suspend": true,
        "pacing": { "deregistrationsPerMinute": 30, "deregistrationBurst": 10 },
    });
    let account = apply(&world, "full", &spec).await.expect("the largest lists are within the cost limit");
    assert_eq!(account.data["spec"], spec);
    delete(&world, "full").await;

    for (name, pointer, value) in [
        ("every-family", "families.allow", json!(["*"])),
        ("every-namespace", "allowedNamespaces", json!({ "selector": {} })),
        ("no-namespace", "allowedNamespaces", json!({})),
        ("null-role", "assumeRole", Value::Null),
        ("null-namespaces", "allowedNamespaces", Value::Null),
    ] {
        apply(&world, name, &with(pointer, value))
            .await
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        delete(&world, name).await;
    }
    let mut china =
        with("assumeRole", json!({ "roleArn": "arn:aws-cn:iam::111122223333:role/ecs-retirement" }));
    china["region"] = json!("cn-north-1");
    apply(&world, "china", &china).await.expect("ARNs of other partitions are valid");
    delete(&world, "china").await;
}

#[tokio::test]
async fn account_id_cannot_be_changed_and_everything_else_can() {
    let world = world().await;
    apply(&world, "fixed", &minimal()).await.expect("it is valid");
    let refusal = apply(&world, "fixed", &with("accountId", json!("444455556666"))).await;
    let refusal = refusal.expect_err("the account is immutable");
    let text = "spec.accountId cannot be changed: make a new EcsAccount for the other account";
    assert!(refusal.contains(text), "{refusal}");
    let removal = Patch::Merge(json!({ "spec": { "accountId": null } }));
    let refusal = api(&world).patch(&unique(&world, "fixed"), &PatchParams::default(), &removal).await;
    refusal.expect_err("the account is required");

    let mut changed = with("families.allow", json!(["api"]));
    changed["region"] = json!("eu-west-1");
    changed["suspend"] = json!(true);
    apply(&world, "fixed", &changed).await.expect("limits can be changed");
    delete(&world, "fixed").await;
}

/// Returns the path of each list in `schema` that server-side apply would merge.
fn merged_lists(path: &str, schema: &Value) -> Vec<String> {
    let is_merged = schema["type"] == "array" && schema["x-kubernetes-list-type"] != "atomic";
    let properties = schema["properties"].as_object().into_iter().flatten();
    let inner = properties.flat_map(|(name, property)| merged_lists(&format!("{path}.{name}"), property));
    let items = schema.get("items").into_iter().flat_map(|items| merged_lists(&format!("{path}[]"), items));
    is_merged.then(|| path.to_owned()).into_iter().chain(inner).chain(items).collect()
}

#[test]
fn every_list_of_an_account_is_atomic() {
    let crd: Value = serde_saphyr::from_str(ACCOUNT_CRD).expect("the CRD is YAML");
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(merged_lists("spec", spec), Vec::<String>::new());
}
