//! Documents: what they show is valid, and their commands do what they say.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use crate::{
    architecture::{files, root},
    support::{ACCOUNT_CRD, CRD, HEALTH_CHECK, POLICY_CRD, World, api_reference},
};

/// Reads a document of the repository.
pub fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of the pages for users and contributors.
fn documents() -> Vec<PathBuf> {
    let pages = ["README.md", "CONTRIBUTING.md"].map(|page| root().join(page));
    files(&root().join("docs")).into_iter().chain(pages).collect()
}

/// Returns the fenced blocks of a document, each with its language.
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
fn every_link_in_the_documents_resolves() {
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
async fn argo_cd_guide_adds_the_health_check_and_changes_nothing_else() {
    let world = World::new().await;
    let guide = document("docs/gitops.md");
    let (_, guide) = guide.split_once("## Argo CD").expect("a section");
    let [("sh", command), ("yaml", manifest), ..] = blocks(guide)[..] else { panic!("{guide}") };
    let keys = ["TaskDefinitionRetirement", "TaskDefinitionRetentionPolicy", "EcsAccount"]
        .map(|kind| format!("resource.customizations.health.ecs-retirement.dev_{kind}"));
    for key in &keys {
        assert_eq!(
            yaml(manifest)["data"][key],
            HEALTH_CHECK,
            "docs/gitops.md shows another check than config/argocd"
        );
    }

    let prepare = "kubectl create namespace argocd && \
        kubectl create configmap argocd-cm --namespace argocd --from-literal=url=https://argocd.example.com";
    for command in [prepare, command, command] {
        let (is_done, output) = world.shell(command).await;
        assert!(is_done, "{command}: {output}");
    }
    let (_, config) = world.shell("kubectl get configmap argocd-cm --namespace argocd --output=json").await;
    let config: Value = serde_json::from_str(&config).expect("JSON");
    for key in &keys {
        assert_eq!(config["data"][key], HEALTH_CHECK);
    }
    assert_eq!(config["data"]["url"], "https://argocd.example.com");
}

#[tokio::test]
async fn manifests_and_commands_in_the_documents_are_valid() {
    let world = World::new().await;
    world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
    world.declare("cpu-wave", &["cpu-wave:1"]).await;
    let mut kinds = BTreeSet::new();
    for path in documents() {
        for (language, block) in blocks(&document(&path.display().to_string())) {
            match language {
                "json" => drop(serde_json::from_str::<Value>(block).expect(block)),
                "yaml" if yaml(block)["apiVersion"] == "ecs-retirement.dev/v1alpha1" => {
                    kinds.insert(yaml(block)["kind"].to_string());
                    let command = format!(
                        "kubectl apply --dry-run=server --validate=strict -f - <<'END'\n{block}\nEND"
                    );
                    let (is_done, output) = world.shell(&command).await;
                    assert!(is_done, "{}: {output}:\n{block}", path.display());
                }
                "yaml" => drop(yaml(block)),
                "sh" if path.ends_with("troubleshooting.md") => {
                    let (is_done, output) = world.shell(block).await;
                    assert!(is_done, "{block}: {output}");
                }
                _ => {}
            }
        }
    }
    assert!(kinds.len() > 2, "manifests of all kinds are found: {kinds:?}");
}

#[tokio::test]
async fn kubectl_explains_every_field() {
    let world = World::new().await;
    world.namespace.install_crds(POLICY_CRD).await.expect("the CRD installs");
    for (short_name, crd) in [("tdr", CRD), ("ecsa", ACCOUNT_CRD), ("tdrp", POLICY_CRD)] {
        let crd = yaml(crd);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            assert_explained(&world, &format!("{short_name}.{part}"), &schema["properties"][part]).await;
        }
    }
}

/// Asserts that `kubectl explain` describes every field at `path` and below.
async fn assert_explained(world: &World<'_>, path: &str, schema: &Value) {
    // Unlike `Namespace::kubectl`, it shares no discovery cache with tests that ran before the CRDs
    // were installed.
    let (is_done, output) = world.shell(&format!("kubectl explain {path}")).await;
    assert!(is_done, "{path}: {output}");
    let (_, fields) =
        output.split_once("FIELDS:\n").unwrap_or_else(|| panic!("{path} has no fields: {output}"));
    for (name, property) in schema["properties"].as_object().expect("fields") {
        let (_, rest) =
            fields.split_once(&format!("  {name}\t")).unwrap_or_else(|| panic!("{path}.{name}: {output}"));
        let description = rest.lines().find(|line| line.starts_with("    ")).unwrap_or_default();
        let written: String =
            property["description"].as_str().expect("a description").chars().take(20).collect();
        assert!(description.trim().starts_with(&written), "{path}.{name}: {output}");
        for inner in [property, &property["items"]] {
            if inner["properties"].is_object() {
                Box::pin(assert_explained(world, &format!("{path}.{name}"), inner)).await;
            }
        }
    }
}

#[test]
fn api_reference_matches_the_crds() {
    let path = root().join("docs/api.md");
    // In reverse alphabetical order, TaskDefinitionRetirement is the first kind.
    let crds = files(&root().join("crds")).into_iter().rev();
    let crds: Vec<Value> = crds.map(|path| yaml(&document(&path.display().to_string()))).collect();
    let reference = api_reference::of(&crds);
    if std::env::var_os("WRITE_API_REFERENCE").is_some() {
        fs::write(&path, &reference).expect("docs/api.md can be written");
    }
    assert!(fs::read_to_string(path).is_ok_and(|text| text == reference), "run `make api-docs`");
}
