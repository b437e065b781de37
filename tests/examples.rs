//! Examples: each does what its comment says, and so do its commands.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use testkit::{control_plane::ControlPlane, simulated_ecs::ACCOUNT, simulated_ecs::Status};
use tokio::time::{Instant, sleep};

use crate::{
    architecture::{files, root},
    documentation::document,
    support::{CRD, DEADLINE, POLICY_CRD, World},
};

/// Returns the reason that an example has until its own commands run; `None` if it is not a
/// retirement that the controller handles.
fn expected(example: &str) -> Option<&'static str> {
    match example {
        "cpu-wave" | "in-use" | "region-and-arn" => Some("Retired"),
        "dry-run" => Some("DryRun"),
        "missing-revision" => Some("NotFound"),
        "suspend" => Some("Suspended"),
        "unused-for" => Some("CoolingDown"),
        "refused"
        | "account-ref"
        | "retention-policy"
        | "admission-warnings"
        | "validating-admission-policy" => None,
        other => panic!("add the expected reason of examples/{other}.yaml"),
    }
}

#[tokio::test]
async fn every_example_does_what_its_comment_says() {
    let world = World::new().await;
    world.west.register_many("cpu-wave", 5);
    let frankfurt = world.ecs.region(ACCOUNT, "eu-central-1");
    frankfurt.register_many("web", 42);
    frankfurt.register_many("worker", 7);
    let _controller = world.start();
    for path in files(&root().join("examples")) {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let Some(reason) = expected(name) else { continue };
        let text = document(&path.display().to_string());
        let commands = text.lines().filter_map(|line| line.strip_prefix("#   "));
        let apply = format!("kubectl apply -f examples/{name}.yaml");
        for command in [apply.as_str()].into_iter().chain(commands) {
            let (is_done, output) = world.shell(command).await;
            assert!(is_done, "{name}: {command}: {output}");
            if command == apply {
                world.wait(name, reason, |seen| seen.is_current() && seen.ready_reason() == reason).await;
            }
        }
    }
    for revision in ["web:41", "web:42", "worker:7"] {
        assert_eq!(frankfurt.status(revision), Some(Status::Inactive), "{revision}");
    }
    assert_eq!(frankfurt.status("web:40"), Some(Status::Active));
    world.wait("suspend", "the effect of its command", |seen| seen.ready_reason() == "Retired").await;
    world
        .wait("missing-revision", "the handled request", |seen| {
            !seen.text("lastHandledReconcileAt").is_empty()
        })
        .await;
    let (is_admitted, output) = world.shell("kubectl apply -f examples/refused.yaml").await;
    assert!(!is_admitted && output.contains("write family:revision"), "{output}");
}

/// Uses its own control plane: the controllers of other tests would serve the `EcsAccount` too.
#[tokio::test]
async fn example_of_an_account_allows_its_retirement_and_refuses_what_its_comment_says() {
    let plane = ControlPlane::start().await.expect("a control plane starts");
    let world = World::on(&plane, CRD).await;
    let member = world.ecs.region("111122223333", "us-west-2");
    member.register_many("web-api", 41);
    let role = world.ecs.role("arn:aws:iam::111122223333:role/ecs-retirement");
    role.trust(ACCOUNT).external_id("cluster-west/prod");
    let _controller = world.start_with(&[("WATCH_NAMESPACE", "platform")]);
    let wait = "kubectl wait --namespace platform --timeout=20s --for";
    let applied = format!(
        "kubectl create namespace platform && kubectl apply -f examples/account-ref.yaml && \
         {wait}=condition=Ready ecsa/prod && \
         {wait}=jsonpath='{{.status.revisions[0].reason}}'=CoolingDown tdr/account-ref"
    );
    let (is_done, output) = world.shell(&applied).await;
    assert!(is_done, "{output}");
    for (name, spec, rule) in [
        ("denied", "revisions: ['web-payments:1']", "spec.families.deny"),
        ("another-family", "revisions: ['api:1']", "spec.families.allow"),
        ("another-region", "region: eu-west-1, revisions: ['web-api:1']", "spec.allowedRegions"),
        ("in-use", "inUse: Retire, revisions: ['web-api:1']", "spec.minimumUnusedFor"),
    ] {
        let spec = format!("{{accountRef: {{name: prod}}, {spec}}}");
        assert!(try_to_retire(&world, "", name, &spec).await.0, "{name}");
        let reason =
            format!("{wait}=jsonpath='{{.status.revisions[0].reason}}'=NotAllowed tdr/{name} --output=yaml");
        let (is_done, output) = world.shell(&reason).await;
        assert!(is_done && output.contains(rule), "{name}: {output}");
    }
    assert_eq!(member.status("web-api:41"), Some(Status::Active), "it is unused for less than an hour");
}

#[tokio::test]
async fn example_of_a_policy_proposes_and_retires_what_its_comment_says() {
    let world = World::new().await;
    world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
    let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
    for family in ["web-shop", "web-payments"] {
        // One revision a day: the last 30 are younger than 30 days.
        world.west.register_many_at(family, 45, now - day * 45 + SignedDuration::from_hours(1), day);
    }
    world.west.cluster("prod");
    let _controller = world.start();
    let (is_done, output) = world.shell("kubectl apply -f examples/retention-policy.yaml").await;
    assert!(is_done, "{output}");
    let wait =
        "kubectl wait --for=jsonpath='{.status.pendingApproval}'=1 tdrp/retention-policy --timeout=20s";
    assert!(world.shell(wait).await.0, "{:?}", world.shell("kubectl get tdrp --output=yaml").await);
    let declared = "kubectl get tdr --output=jsonpath='{range .items[*].spec.revisions[*]}{@} {end}'";
    let (_, declared) = world.shell(declared).await;
    let expected: Vec<String> =
        (1..=15).filter(|it| *it != 7).map(|number| format!("web-shop:{number}")).collect();
    assert_eq!(declared.split_whitespace().collect::<Vec<_>>(), expected);

    let text = document("examples/retention-policy.yaml");
    let commands = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect::<Vec<_>>();
    let (list, approve) = commands.split_first().expect("two commands");
    for command in [(*list).to_owned(), approve.join("\n")] {
        let (is_done, output) = world.shell(&command).await;
        assert!(is_done, "{command}: {output}");
    }
    let retired = || world.west.status("web-shop:15") == Some(Status::Inactive);
    let began = Instant::now();
    while !retired() {
        assert!(began.elapsed() < DEADLINE, "it is not retired");
        sleep(std::time::Duration::from_millis(100)).await;
    }
    for kept in ["web-shop:7", "web-shop:16", "web-payments:1"] {
        assert_eq!(world.west.status(kept), Some(Status::Active), "{kept}");
    }
}

/// Applies a retirement in the namespace `platform`. Returns whether it is admitted, and the
/// output.
async fn try_to_retire(world: &World<'_>, options: &str, name: &str, spec: &str) -> (bool, String) {
    let head = "apiVersion: ecs-retirement.dev/v1alpha1\nkind: TaskDefinitionRetirement";
    let manifest = format!("{head}\nmetadata: {{name: {name}, namespace: platform}}\nspec: {spec}");
    world.shell(&format!("kubectl apply {options} -f - <<'END'\n{manifest}\nEND")).await
}

/// Waits until an applied policy is in force: until kubectl prints `text` for `spec`.
async fn wait_for_output(world: &World<'_>, spec: &str, text: &str) {
    let began = Instant::now();
    loop {
        let (_, output) = try_to_retire(world, "--dry-run=server", "probe", spec).await;
        if output.contains(text) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "not printed: {text}\nbut: {output}");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Uses its own control plane, since a policy applies to all of it.
#[tokio::test]
async fn admission_policies_limit_families_by_namespace_and_warn_of_likely_mistakes() {
    let plane = ControlPlane::start().await.expect("a control plane starts");
    let world = World::on(&plane, CRD).await;
    let command = "kubectl create namespace platform && kubectl apply -f examples/admission-warnings.yaml";
    assert!(world.shell(command).await.0);
    let arns = |second: &str| {
        let first = "arn:aws:ecs:us-west-2:012345678910:task-definition/web:1";
        format!("{{revisions: ['{first}', '{second}']}}")
    };
    for (spec, text) in [
        (
            "{suspend: true, dryRun: true, revisions: ['web:1']}",
            "Warning: Validation failed for ValidatingAdmissionPolicy 'warnings.ecs-retirement.dev'",
        ),
        ("{suspend: true, dryRun: true, revisions: ['web:1']}", "keep one"),
        (&arns("arn:aws:ecs:us-west-2:999999999999:task-definition/web:1"), "will be WrongAccount"),
        (&arns("arn:aws:ecs:us-east-1:012345678910:task-definition/web:1"), "will be WrongRegion"),
    ] {
        wait_for_output(&world, spec, text).await;
    }
    let (is_admitted, output) = try_to_retire(&world, "", "early", "{revisions: ['api:1']}").await;
    assert!(is_admitted && !output.contains("Warning"), "{output}");

    let policy = document("examples/validating-admission-policy.yaml");
    let annotate = policy.lines().find_map(|line| line.strip_prefix("#   ")).expect("a command");
    assert!(world.shell("kubectl apply -f examples/validating-admission-policy.yaml").await.0);
    wait_for_output(&world, "{revisions: ['web-api:1']}", "ecs-retirement.dev/families allows nothing").await;
    assert!(world.shell(annotate).await.0);
    wait_for_output(&world, "{revisions: ['web-api:1']}", "created").await;
    let many: Vec<String> = (1..=500).map(|number| format!("web-{}:{number}", "a".repeat(40))).collect();
    let table = [
        ("{revisions: ['cron:7', 'web-shop:2']}", None),
        ("{revisions: ['arn:aws:ecs:us-west-2:012345678910:task-definition/web-api:1']}", None),
        (&format!("{{revisions: {many:?}}}"), None),
        ("{suspend: true, revisions: ['api:1']}", None),
        ("{suspend: false, revisions: ['api:1']}", Some("api:1")),
        ("{revisions: ['cron-job:1']}", Some("cron-job:1")),
        ("{revisions: ['web:1']}", Some("web:1")),
        (
            "{revisions: ['web-api:1', 'arn:aws:ecs:us-west-2:012345678910:task-definition/api:1']}",
            Some("task-definition/api:1"),
        ),
    ];
    for (spec, refused) in table {
        let (is_admitted, output) = try_to_retire(&world, "", "tried", spec).await;
        assert_eq!(is_admitted, refused.is_none(), "{spec}: {output}");
        let text = refused.map(|revision| {
            format!("{revision} may not be retired from namespace platform: its annotation ecs-retirement.dev/families allows web-*, cron")
        });
        assert!(text.is_none_or(|text| output.contains(&text)), "{output}");
    }
    let annotate = "kubectl annotate tdr early --namespace platform ecs-retirement.dev/requestedAt=now";
    assert!(world.shell(annotate).await.0, "existing resources can still be annotated");
}
