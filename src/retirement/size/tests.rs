//! Tests that etcd can store any status.

use k8s_openapi::jiff::Timestamp;
use kube::CustomResourceExt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    api::{TaskDefinitionRetirement, task_definition_retirement::MAX_REVISIONS},
    retirement::summary::Summary,
};

/// The default of etcd's `--max-request-bytes`.
const ETCD_LIMIT: usize = 1024 * 1024 * 3 / 2;

/// Source: `TotalAnnotationSizeLimitB` in Kubernetes'
/// `pkg/apimachinery/pkg/api/validation/objectmeta.go`.
const ANNOTATIONS: usize = 256 * 1024;

/// Names, labels, owner references and the managed fields of 20 managers: every list but
/// `conditions` is atomic.
const REST_OF_THE_METADATA: usize = 48 * 1024;

/// Returns the maximum size of a value of this schema, in bytes of JSON. The texts that [`fitted`]
/// limits are left out.
fn max_bytes(schema: &Value, path: &str) -> usize {
    let number = |key: &str| schema[key].as_u64().and_then(|number| usize::try_from(number).ok());
    match (path, schema["type"].as_str()) {
        (".status.conditions", _) => 3 * (MESSAGE_BYTES + 512),
        (".status.lastHandledReconcileAt", _) => REQUESTED_AT_BYTES,
        (".status.revisions[].message" | ".status.revisions[].usedBy", _) => 2,
        (_, Some("object")) => {
            let fields = schema["properties"].as_object().expect("named fields").iter();
            let bytes =
                fields.map(|(name, field)| name.len() + 4 + max_bytes(field, &format!("{path}.{name}")));
            2 + bytes.sum::<usize>()
        }
        (_, Some("array")) => {
            let items = number("maxItems").unwrap_or_else(|| panic!("{path} has no maxItems"));
            2 + items * (1 + max_bytes(&schema["items"], &format!("{path}[]")))
        }
        (_, Some("string")) => match (&schema["enum"], schema["format"].as_str()) {
            (Value::Array(words), _) => words.iter().map(|word| word.to_string().len()).max().unwrap_or(0),
            (_, Some("date-time")) => 2 + "2026-11-26T15:30:12Z".len(),
            _ => 2 + number("maxLength").unwrap_or_else(|| panic!("{path} has no maxLength")),
        },
        (_, Some("integer" | "boolean")) => 20,
        (_, other) => panic!("{path} is of type {other:?}"),
    }
}

fn schema() -> Value {
    let crd = serde_json::to_value(TaskDefinitionRetirement::crd()).expect("a CRD is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone()
}

#[test]
fn largest_legal_object_is_smaller_than_what_etcd_stores() {
    let schema = schema();
    let (spec, status) = (max_bytes(&schema["spec"], ".spec"), max_bytes(&schema["status"], ".status"));
    // Quotation marks are escaped in an annotation.
    let annotations = ANNOTATIONS + 4 * MAX_REVISIONS;
    let object = spec + status + TEXT_BYTES + annotations + REST_OF_THE_METADATA;
    assert!(object < ETCD_LIMIT, "{object} bytes: spec {spec}, status {status} and {TEXT_BYTES}");
}

#[test]
fn schema_allows_texts_up_to_their_limits() {
    let row = &schema()["status"]["properties"]["revisions"]["items"]["properties"];
    for (field, limit) in [
        (&row["revision"], REVISION_BYTES),
        (&row["status"], STATUS_BYTES),
        (&row["requestId"], REQUEST_ID_BYTES),
        (&row["usedBy"]["items"], USER_BYTES),
        (&row["message"], ROW_TEXT_BYTES),
    ] {
        assert_eq!(field["maxLength"], limit, "{field}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,40}",
        ("[a-zü<\"\n\u{1}😀]", 0usize..1500).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn any_row() -> impl Strategy<Value = RevisionStatus> {
    let texts = (any_text(), any_text(), any_text(), prop::option::of(any_text()));
    (texts, prop::collection::vec(any_text(), 0..=5)).prop_map(
        |((revision, status, id, message), used_by)| RevisionStatus {
            revision,
            status: Some(status),
            request_id: Some(id),
            message: message.filter(|message| !message.is_empty()),
            used_by,
            ..RevisionStatus::default()
        },
    )
}

/// Returns the size of a text in JSON as the API server writes it, in bytes, without the quotation
/// marks.
fn written(text: &str) -> usize {
    let plain = serde_json::to_string(text).expect("a text is JSON").len() - 2;
    let escaped = text.chars().filter(|char| "<>&".contains(*char)).count();
    plain + 5 * escaped
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn fitted_status_is_within_the_limits_and_fitting_is_idempotent(
        rows in prop::collection::vec(any_row(), 1..4),
        copies in prop::sample::select(vec![1usize, 100, 160]),
        message in any_text(),
    ) {
        let revisions: Vec<_> = std::iter::repeat_n(rows, copies).flatten().collect();
        let mut conditions = Summary::of(&revisions, None, None, Timestamp::UNIX_EPOCH).conditions(&[], None, Timestamp::UNIX_EPOCH);
        for condition in &mut conditions {
            condition.message.push_str(&message);
        }
        let before = TaskDefinitionRetirementStatus { conditions, revisions, ..Default::default() };
        let after = fitted(before.clone());
        prop_assert_eq!(&fitted(after.clone()), &after);
        let mut texts = 0;
        for (row, original) in after.revisions.iter().zip(&before.revisions) {
            prop_assert!(written(&row.revision) <= REVISION_BYTES);
            prop_assert!(row.status.as_deref().is_none_or(|text| written(text) <= STATUS_BYTES));
            prop_assert!(row.request_id.as_deref().is_none_or(|text| written(text) <= REQUEST_ID_BYTES));
            prop_assert!(row.used_by.iter().all(|user| written(user) <= USER_BYTES));
            texts += row.message.as_deref().map_or(0, written);
            texts += row.used_by.iter().map(|user| written(user) + 3).sum::<usize>();
            let omits = row.used_by.len() < original.used_by.len();
            let reports_it =
                row.message.as_deref().is_some_and(|message| message.contains("usedBy is truncated"));
            prop_assert!(!omits || reports_it, "{row:?}");
        }
        prop_assert!(texts <= TEXT_BYTES);
        prop_assert!(after.conditions.iter().all(|it| written(&it.message) <= MESSAGE_BYTES));
    }
}

#[test]
fn short_row_is_unchanged() {
    let row = RevisionStatus {
        revision: "web:1".to_owned(),
        message: Some("in use by 1 service or task".to_owned()),
        used_by: vec!["service/prod/web".to_owned()],
        ..RevisionStatus::default()
    };
    let bare = RevisionStatus { message: None, used_by: Vec::new(), ..row.clone() };
    let status = TaskDefinitionRetirementStatus { revisions: vec![row, bare], ..Default::default() };
    assert_eq!(fitted(status.clone()), status);
}

#[test]
fn row_among_many_lists_fewer_users_and_reports_it() {
    let used_by: Vec<String> =
        (1..=5).map(|number| format!("service/{}/{number}", "c".repeat(237))).collect();
    let row = RevisionStatus {
        revision: "web:1".to_owned(),
        message: Some("in use by 7 services or tasks".to_owned()),
        used_by: used_by.clone(),
        ..RevisionStatus::default()
    };
    let status =
        |rows| TaskDefinitionRetirementStatus { revisions: vec![row.clone(); rows], ..Default::default() };
    assert_eq!(fitted(status(100)).revisions[0], row, "all users fit");
    let many = fitted(status(MAX_REVISIONS));
    let expected = "in use by 7 services or tasks; usedBy is truncated to 2";
    assert_eq!(many.revisions[0].message.as_deref(), Some(expected));
    assert_eq!(many.revisions[0].used_by, used_by[..2]);
}

#[test]
fn long_text_is_truncated_between_characters_and_ends_with_dots() {
    let cut = |text: &str, limit| {
        let mut text = text.to_owned();
        super::cut(&mut text, limit);
        text
    };
    assert_eq!(cut("abcdef", 6), "abcdef");
    assert_eq!(cut("abcdefg", 6), "abc...");
    assert_eq!(cut("üüüü", 7), "üü...");
    assert_eq!(cut("<<<<", 20), "<<...");
}
