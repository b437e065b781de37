//! The house is in order: the rules that keep the code plain and its dangers in few places, checked on its source.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The rooms that know the AWS SDK.
const AWS_ROOMS: [&str; 1] = ["src/aws/"];

/// The shells: only they talk to Kubernetes.
const SHELLS: [&str; 4] =
    ["src/retirement/reconcile.rs", "src/retirement/apply.rs", "src/retirement/status_writer.rs", "src/runtime/"];

/// Who may read the clock; all others are told the time.
const CLOCKS: [&str; 13] = [
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

const MOST_LINES: usize = 350;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "manager", "misc", "util", "utils"];

/// A source file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files under `folder`, in the order of their names.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The Rust files under `folders`.
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

/// A line without what its strings and its comment say.
fn code(line: &str) -> String {
    let line = line.replace(r#"\""#, "").replace(r#"'"'"#, "");
    let outside_strings: String = line.split('"').step_by(2).collect();
    outside_strings.split("//").next().unwrap_or_default().to_owned()
}

/// The lines of `sources` whose code contains `word`, as `path:line: text`. What is beside the code to test it does not count.
fn mentions(sources: &[Source], word: &str) -> Vec<String> {
    let product = sources.iter().filter(|source| !source.path.ends_with("/tests.rs"));
    let lines = product.flat_map(|source| {
        let code = source.text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
        code.map(|(index, line)| (&source.path, index + 1, line))
    });
    let found = lines.filter(|(_, _, line)| code(line).contains(word));
    found.map(|(path, number, line)| format!("{path}:{number}: {}", line.trim())).collect()
}

/// Expects that no file of `src` but those that `allowed` names contains `word`, and that one of them does.
fn assert_only(allowed: &[&str], word: &str) {
    let is_allowed = |mention: &String| allowed.iter().any(|prefix| mention.starts_with(prefix));
    let (inside, outside): (Vec<String>, Vec<String>) =
        mentions(&sources(&["src"]), word).into_iter().partition(is_allowed);
    assert!(outside.is_empty(), "only {allowed:?} may name {word:?}:\n{}", outside.join("\n"));
    assert!(!inside.is_empty(), "nothing names {word:?}: this rule guards nothing");
}

fn assert_none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

#[test]
fn only_the_rooms_of_aws_know_its_sdk() {
    assert_only(&AWS_ROOMS, "aws_");
}

#[test]
fn only_the_shells_talk_to_kubernetes() {
    assert_only(&SHELLS, "Api<");
    assert_only(&SHELLS, "Api::");
}

#[test]
fn only_the_shells_read_the_clock() {
    assert_only(&CLOCKS, "::now()");
}

#[test]
fn only_a_plan_gives_leave_to_deregister() {
    assert_only(&["src/retirement/plan.rs"], "Deregistration {");
}

#[test]
fn a_file_opens_with_a_sentence_that_says_its_job() {
    let is_sentence = |line: &str| line.starts_with("//! ") && line.ends_with('.');
    let mute = everything().into_iter().filter(|it| !it.text.lines().next().is_some_and(is_sentence));
    assert_none(&mute.map(|source| source.path).collect::<Vec<_>>(), "line 1 is to be one `//!` sentence");
}

#[test]
fn a_file_has_one_job_and_so_few_lines() {
    let long = everything().into_iter().filter(|source| source.text.lines().count() > MOST_LINES);
    let paths: Vec<String> = long.map(|source| source.path).collect();
    assert_none(&paths, &format!("at most {MOST_LINES} lines: past that a file has two jobs"));
}

#[test]
fn a_name_says_what_is_inside() {
    let is_empty = |part: &str| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"));
    let empty = everything().into_iter().filter(|source| source.path.split('/').any(is_empty));
    assert_none(&empty.map(|source| source.path).collect::<Vec<_>>(), "these names say nothing");
}

#[test]
fn nothing_is_unwrapped_without_a_reason() {
    assert_none(&mentions(&everything(), ".unwrap()"), "write `expect` with the reason");
}

#[test]
fn the_crds_are_those_that_the_binary_prints() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-retirement-controller"));
    let output = command.arg("crd").output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    for folder in ["crds", "charts/ecs-retirement-controller/files/crds"] {
        let crds = files(&root().join(folder));
        let committed: String =
            crds.iter().map(|path| fs::read_to_string(path).expect("a readable CRD")).collect();
        assert!(
            committed == String::from_utf8_lossy(&output.stdout),
            "run `make crds`: the types in src/api say something else than {folder}/"
        );
    }
}
