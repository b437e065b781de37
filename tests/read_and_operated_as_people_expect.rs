//! Read and operated as people expect: documents, examples and what they tell people to run are true.

use std::{fs, path::PathBuf};

use serde_json::Value;
use testkit::{control_plane::ControlPlane, simulated_ecs::ACCOUNT, simulated_ecs::Status};
use tokio::time::{Instant, sleep};

use crate::{
    support::{CRD, DEADLINE, HEALTH_CHECK, World, api_reference},
    the_house_is_in_order::{files, root},
};

/// A document of the repository, by its path.
fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pages that people read.
fn documents() -> Vec<PathBuf> {
    let pages = ["README.md", "CONTRIBUTING.md"].map(|page| root().join(page));
    files(&root().join("docs")).into_iter().chain(pages).collect()
}

/// The fenced blocks of a document, each with its language.
fn blocks(markdown: &str) -> Vec<(&str, &str)> {
    let inside = markdown.split("```").skip(1).step_by(2);
    inside.filter_map(|block| block.split_once('\n')).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

#[test]
fn every_reason_has_a_section_that_says_what_to_do() {
    let row = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/revisions/items";
    let crd = yaml(CRD);
    let described = crd.pointer(&format!("{row}/properties/reason/description")).and_then(Value::as_str);
    let (_, listed) = described.and_then(|text| text.split_once(": ")).expect("the reasons");
    let (listed, _) = listed.split_once(". ").expect("a sentence");
    let reasons: Vec<&str> = listed.split([',', ' ', '\n']).filter(|it| !["", "or"].contains(it)).collect();
    assert!(reasons.len() > 15 && reasons.contains(&"CoolingDown"), "{reasons:?}");
    let guide = document("docs/troubleshooting.md");
    let sections: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for reason in reasons.into_iter().chain(["InvalidSpec"]) {
        assert!(sections.contains(&reason), "docs/troubleshooting.md has no section {reason}");
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let anchor = |title: &str| {
        let kept = title.chars().filter(|char| char.is_alphanumeric() || " -".contains(*char));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    for path in documents() {
        let text = document(&path.display().to_string());
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(file.exists(), "{}: {link}", path.display());
            let has = |line: &str| {
                line.trim_start_matches('#').strip_prefix(' ').map(anchor).as_deref() == Some(section)
            };
            let is_there = section.is_empty() || document(&file.display().to_string()).lines().any(has);
            assert!(is_there, "{}: {link}", path.display());
        }
    }
}

#[tokio::test]
async fn argo_cd_is_given_the_check_and_nothing_else_of_its_is_touched() {
    let world = World::new().await;
    let guide = document("docs/gitops.md");
    let (_, guide) = guide.split_once("## Argo CD").expect("a section");
    let [("sh", command), ("yaml", manifest), ..] = blocks(guide)[..] else { panic!("{guide}") };
    let key = "resource.customizations.health.ecs-retirement.dev_TaskDefinitionRetirement";
    assert_eq!(
        yaml(manifest)["data"][key],
        HEALTH_CHECK,
        "docs/gitops.md shows another check than config/argocd"
    );

    let prepare = "kubectl create namespace argocd && \
        kubectl create configmap argocd-cm --namespace argocd --from-literal=url=https://argocd.example.com";
    for command in [prepare, command, command] {
        let (is_done, told) = world.shell(command).await;
        assert!(is_done, "{command}: {told}");
    }
    let (_, config) = world.shell("kubectl get configmap argocd-cm --namespace argocd --output=json").await;
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["data"][key], HEALTH_CHECK);
    assert_eq!(config["data"]["url"], "https://argocd.example.com");
}

#[tokio::test]
async fn what_the_documents_show_is_legal_and_runs() {
    let world = World::new().await;
    world.declare("cpu-wave", &["cpu-wave:1"]).await;
    let mut manifests = 0;
    for path in documents() {
        for (language, block) in blocks(&document(&path.display().to_string())) {
            match language {
                "json" => drop(serde_json::from_str::<Value>(block).expect(block)),
                "yaml" if yaml(block)["kind"] == "TaskDefinitionRetirement" => {
                    manifests += 1;
                    let command = format!(
                        "kubectl apply --dry-run=server --validate=strict -f - <<'END'\n{block}\nEND"
                    );
                    let (is_done, told) = world.shell(&command).await;
                    assert!(is_done, "{}: {told}:\n{block}", path.display());
                }
                "yaml" => drop(yaml(block)),
                "sh" if path.ends_with("troubleshooting.md") => {
                    let (is_done, told) = world.shell(block).await;
                    assert!(is_done, "{block}: {told}");
                }
                _ => {}
            }
        }
    }
    assert!(manifests > 0, "no manifest was found");
}

/// What an example must become, and stay until its own commands are run; what only admission sees is tested below.
fn expected(example: &str) -> Option<&'static str> {
    match example {
        "cpu-wave" | "in-use" | "region-and-arn" => Some("Retired"),
        "dry-run" => Some("DryRun"),
        "missing-revision" => Some("NotFound"),
        "suspend" => Some("Suspended"),
        "unused-for" => Some("CoolingDown"),
        "refused" | "admission-warnings" | "validating-admission-policy" => None,
        other => panic!("say what must become of examples/{other}.yaml"),
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
            let (is_done, told) = world.shell(command).await;
            assert!(is_done, "{name}: {command}: {told}");
            if command == apply {
                world.wait(name, reason, |seen| seen.is_current() && seen.ready_reason() == reason).await;
            }
        }
    }
    for revision in ["web:41", "web:42", "worker:7"] {
        assert_eq!(frankfurt.status(revision), Some(Status::Inactive), "{revision}");
    }
    assert_eq!(frankfurt.status("web:40"), Some(Status::Active));
    world.wait("suspend", "what its command says", |seen| seen.ready_reason() == "Retired").await;
    world
        .wait("missing-revision", "an answer to its command", |seen| {
            !seen.text("lastHandledReconcileAt").is_empty()
        })
        .await;
    let (is_admitted, told) = world.shell("kubectl apply -f examples/refused.yaml").await;
    assert!(!is_admitted && told.contains("write family:revision"), "{told}");
}

/// Applies a retirement in the namespace `platform`: whether it is admitted, and what is said of it.
async fn try_to_retire(world: &World<'_>, options: &str, name: &str, spec: &str) -> (bool, String) {
    let head = "apiVersion: ecs-retirement.dev/v1alpha1\nkind: TaskDefinitionRetirement";
    let manifest = format!("{head}\nmetadata: {{name: {name}, namespace: platform}}\nspec: {spec}");
    world.shell(&format!("kubectl apply {options} -f - <<'END'\n{manifest}\nEND")).await
}

/// Asks until a policy that was applied is in force, which it is a little later.
async fn wait_until_told(world: &World<'_>, spec: &str, text: &str) {
    let began = Instant::now();
    loop {
        let (_, told) = try_to_retire(world, "--dry-run=server", "probe", spec).await;
        if told.contains(text) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "not said: {text}\nbut: {told}");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// On a control plane of its own, since a policy holds for all of it.
#[tokio::test]
async fn admission_policies_limit_families_by_namespace_and_warn_of_what_is_not_meant() {
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
        wait_until_told(&world, spec, text).await;
    }
    let (is_admitted, told) = try_to_retire(&world, "", "early", "{revisions: ['api:1']}").await;
    assert!(is_admitted && !told.contains("Warning"), "{told}");

    let policy = document("examples/validating-admission-policy.yaml");
    let annotate = policy.lines().find_map(|line| line.strip_prefix("#   ")).expect("a command");
    assert!(world.shell("kubectl apply -f examples/validating-admission-policy.yaml").await.0);
    wait_until_told(&world, "{revisions: ['web-api:1']}", "ecs-retirement.dev/families allows nothing").await;
    assert!(world.shell(annotate).await.0);
    wait_until_told(&world, "{revisions: ['web-api:1']}", "created").await;
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
        let (is_admitted, told) = try_to_retire(&world, "", "tried", spec).await;
        assert_eq!(is_admitted, refused.is_none(), "{spec}: {told}");
        let text = refused.map(|revision| {
            format!("{revision} may not be retired from namespace platform: its annotation ecs-retirement.dev/families allows web-*, cron")
        });
        assert!(text.is_none_or(|text| told.contains(&text)), "{told}");
    }
    let look = "kubectl annotate tdr early --namespace platform ecs-retirement.dev/requestedAt=now";
    assert!(world.shell(look).await.0, "what was there before can still be looked at");
}

#[tokio::test]
async fn kubectl_explains_every_field() {
    let world = World::new().await;
    let crd = yaml(CRD);
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in ["spec", "status"] {
        assert_explained(&world, &format!("tdr.{part}"), &schema["properties"][part]).await;
    }
}

/// `kubectl explain` has a description for every field at `path` and below.
async fn assert_explained(world: &World<'_>, path: &str, schema: &Value) {
    let told = world.namespace.kubectl(&["explain", path]).await.expect("kubectl explains");
    let (_, fields) = told.split_once("FIELDS:\n").unwrap_or_else(|| panic!("{path} has no fields: {told}"));
    for (name, property) in schema["properties"].as_object().expect("fields") {
        let (_, rest) =
            fields.split_once(&format!("  {name}\t")).unwrap_or_else(|| panic!("{path}.{name}: {told}"));
        let description = rest.lines().find(|line| line.starts_with("    ")).unwrap_or_default();
        let written: String =
            property["description"].as_str().expect("a description").chars().take(20).collect();
        assert!(description.trim().starts_with(&written), "{path}.{name}: {told}");
        for inner in [property, &property["items"]] {
            if inner["properties"].is_object() {
                Box::pin(assert_explained(world, &format!("{path}.{name}"), inner)).await;
            }
        }
    }
}

#[test]
fn the_api_reference_says_what_the_crd_says() {
    let path = root().join("docs/api.md");
    let reference = api_reference::of(&yaml(CRD));
    if std::env::var_os("WRITE_API_REFERENCE").is_some() {
        fs::write(&path, &reference).expect("docs/api.md can be written");
    }
    assert!(fs::read_to_string(path).is_ok_and(|text| text == reference), "run `make api-docs`");
}
