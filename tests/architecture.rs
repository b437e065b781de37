//! Architecture rules, checked on the source: module boundaries, file size and names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The only modules that use the AWS SDK.
const AWS_MODULES: [&str; 1] = ["src/aws/"];

/// The I/O modules: only they call Kubernetes.
const IO_MODULES: [&str; 14] = [
    "src/account/authorize.rs",
    "src/account/reconcile.rs",
    "src/controller/",
    "src/retention/apply.rs",
    "src/retention/list.rs",
    "src/retention/reconcile.rs",
    "src/retention/reconciliation.rs",
    "src/retirement/apply.rs",
    "src/retirement/batch.rs",
    "src/retirement/context.rs",
    "src/retirement/policy_guard.rs",
    "src/retirement/reconcile.rs",
    "src/retirement/status_writer.rs",
    "src/runtime/",
];

/// The modules that may read the clock. All others take the time as an argument.
const CLOCK_MODULES: [&str; 17] = [
    "src/account/readiness.rs",
    "src/controller/",
    "src/retention/read.rs",
    "src/retirement/keep_latest.rs",
    "src/main.rs",
    "src/aws/credentials.rs",
    "src/aws/session.rs",
    "src/aws/ecs_client.rs",
    "src/aws/response_clock.rs",
    "src/aws/rate_limiter.rs",
    "src/aws/usage_scanner/calls.rs",
    "src/aws/usage_cache.rs",
    "src/in_flight.rs",
    "src/shutdown.rs",
    "src/retirement/apply.rs",
    "src/retirement/observe.rs",
    "src/runtime/",
];

/// The crates and modules whose own modules must not import each other in a cycle.
const ACYCLIC: [&str; 7] =
    ["testkit/src", "src", "src/account", "src/aws", "src/controller", "src/retention", "src/retirement"];

const MAX_LINES: usize = 350;

/// Names that do not describe the content.
const VAGUE_NAMES: [&str; 7] = ["common", "helper", "helpers", "manager", "misc", "util", "utils"];

/// A source file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files under `folder`, ordered by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Returns the Rust files under `folders`.
fn sources(folders: &[&str]) -> Vec<Source> {
    let paths = folders.iter().flat_map(|folder| files(&root().join(folder)));
    let rust = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let sources: Vec<Source> = rust
        .map(|path| Source {
            path: path.strip_prefix(root()).expect("a path below the root").display().to_string(),
            text: fs::read_to_string(&path).expect("readable source"),
        })
        .collect();
    assert!(!sources.is_empty(), "no source under {folders:?}");
    sources
}

fn everything() -> Vec<Source> {
    sources(&["src", "tests", "testkit"])
}

/// Returns a line without its strings and its comment.
fn code(line: &str) -> String {
    let line = line.replace(r#"\""#, "").replace(r#"'"'"#, "");
    let outside_strings: String = line.split('"').step_by(2).collect();
    outside_strings.split("//").next().unwrap_or_default().to_owned()
}

/// Returns the lines of `sources` whose code contains `word`, as `path:line: text`. Unit tests do
/// not count.
fn mentions(sources: &[Source], word: &str) -> Vec<String> {
    let product = sources.iter().filter(|source| !source.path.ends_with("/tests.rs"));
    let lines = product.flat_map(|source| {
        let code = source.text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
        code.map(|(index, line)| (&source.path, index + 1, line))
    });
    let found = lines.filter(|(_, _, line)| code(line).contains(word));
    found.map(|(path, number, line)| format!("{path}:{number}: {}", line.trim())).collect()
}

/// Returns the paths that a file imports from its crate, without `crate::`.
fn imports(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<String>();
    let trees = code.split("crate::").skip(1).map(|tree| {
        let mut depth = 0;
        let is_end = |letter: char| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth <= 0 && !letter.is_alphanumeric() && !"_:{}".contains(letter)
        };
        tree.split(is_end).next().unwrap_or_default()
    });
    trees.flat_map(paths).collect()
}

/// Returns the paths of a `use` tree.
fn paths(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let mut depth = 0;
    let items = group.split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    items.flat_map(paths).map(|path| format!("{}{path}", prefix.trim())).collect()
}

/// Asserts that only files of `src` in `allowed` contain `word`, and that at least one does.
fn assert_only(allowed: &[&str], word: &str) {
    let is_allowed = |mention: &String| allowed.iter().any(|prefix| mention.starts_with(prefix));
    let (inside, outside): (Vec<String>, Vec<String>) =
        mentions(&sources(&["src"]), word).into_iter().partition(is_allowed);
    assert!(outside.is_empty(), "only {allowed:?} may contain {word:?}:\n{}", outside.join("\n"));
    assert!(!inside.is_empty(), "no file contains {word:?}: this rule has no effect");
}

fn assert_none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

#[test]
fn aws_sdk_is_used_only_by_the_aws_modules() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a readable manifest");
    let crates: BTreeSet<String> = manifest
        .lines()
        .filter(|line| line.starts_with("aws-"))
        .filter_map(|line| line.split(['.', ' ']).next())
        .map(|name| name.replace('-', "_"))
        .collect();
    assert!(!crates.is_empty(), "no crate of the AWS SDK in Cargo.toml: a defect of this test");
    for name in crates {
        assert_only(&AWS_MODULES, &format!("{name}::"));
    }
}

#[test]
fn kubernetes_is_called_only_by_the_io_modules() {
    assert_only(&IO_MODULES, "Api<");
    assert_only(&IO_MODULES, "Api::");
}

#[test]
fn clock_is_read_only_by_the_listed_modules() {
    assert_only(&CLOCK_MODULES, "::now()");
}

#[test]
fn deregistration_is_created_only_by_the_plan() {
    assert_only(&["src/retirement/plan.rs"], "Deregistration::new(");
}

#[test]
fn modules_do_not_import_each_other_in_a_cycle() {
    for root in ACYCLIC {
        let parent = root.split_once("src/").map_or(String::new(), |(_, module)| format!("{module}::"));
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in sources(&[root]).into_iter().filter(|source| !source.path.ends_with("/tests.rs")) {
            let path = source.path.trim_start_matches(root).trim_matches('/');
            let module = path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
            // The roots of the crates and modules and the binaries import everything.
            if !["lib", "main", "mod", "bin"].contains(&module.as_str()) {
                let imported = imports(&source.text);
                let siblings =
                    imported.iter().filter_map(|path| path.strip_prefix(&parent)?.split("::").next());
                let others = siblings.filter(|name| *name != module).map(str::to_owned);
                graph.entry(module.clone()).or_default().extend(others);
            }
        }
        assert!(
            graph.values().any(|imported| !imported.is_empty()),
            "no import in {root}: a defect of this test"
        );
        // Removes modules that import none of the others, until only cycles are left.
        while let Some(leaf) = graph
            .iter()
            .find(|(_, imported)| imported.iter().all(|name| !graph.contains_key(name)))
            .map(|(module, _)| module.clone())
        {
            graph.remove(&leaf);
        }
        assert!(graph.is_empty(), "modules of {root} import each other in a cycle: {graph:?}");
    }
}

#[test]
fn file_starts_with_one_sentence_that_describes_it() {
    // The first paragraph, since comments wrap.
    let describes = |text: &str| {
        let paragraph: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
        paragraph.last().is_some_and(|line| line.ends_with('.'))
    };
    let undescribed = everything().into_iter().filter(|it| !describes(&it.text));
    assert_none(
        &undescribed.map(|source| source.path).collect::<Vec<_>>(),
        "a file must start with a `//!` sentence",
    );
}

#[test]
fn file_is_short_enough_to_have_one_job() {
    let long = everything().into_iter().filter(|source| source.text.lines().count() > MAX_LINES);
    let paths: Vec<String> = long.map(|source| source.path).collect();
    assert_none(&paths, &format!("a file has at most {MAX_LINES} lines: split it"));
}

#[test]
fn comments_wrap_at_100_columns() {
    let is_long = |line: &&str| line.chars().count() > 100 && line.trim_start().starts_with("//");
    let long = everything().into_iter().flat_map(|source| {
        source.text.lines().filter(is_long).map(|line| format!("{}: {line}", source.path)).collect::<Vec<_>>()
    });
    assert_none(&long.collect::<Vec<_>>(), "wrap comments at 100 columns");
}

#[test]
fn file_name_describes_the_content() {
    let is_empty = |part: &str| VAGUE_NAMES.contains(&part.trim_end_matches(".rs"));
    let empty = everything().into_iter().filter(|source| source.path.split('/').any(is_empty));
    assert_none(
        &empty.map(|source| source.path).collect::<Vec<_>>(),
        "choose names that describe the content",
    );
}

#[test]
fn committed_crds_are_those_that_the_binary_prints() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
    let output = command.arg("crd").output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let printed: BTreeSet<&str> = output.split("---\n").filter(|crd| !crd.is_empty()).collect();
    for folder in ["crds", "charts/ecs-retirement-controller/files/crds"] {
        let read = |path: &PathBuf| fs::read_to_string(path).expect("a readable CRD");
        let committed: Vec<String> = files(&root().join(folder)).iter().map(read).collect();
        assert!(
            committed.iter().map(String::as_str).collect::<BTreeSet<_>>() == printed,
            "run `make crds`: {folder}/ differs from the types in src/api"
        );
    }
}
