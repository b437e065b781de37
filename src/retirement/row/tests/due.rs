//! Whether a row is due: for a description, or for a usage scan.

use super::*;

#[test]
fn a_row_wants_a_look_until_it_is_settled() {
    let with = |reason, message: Option<&str>| RevisionStatus {
        message: message.map(str::to_owned),
        ..recorded(reason)
    };
    let wanting =
        [Reason::Pending, Reason::InUse, Reason::CoolingDown, Reason::Throttled, Reason::Unavailable];
    let refused = [Reason::AccessDenied, Reason::Refused, Reason::WrongAccount];
    assert!(wanting.iter().chain(&refused).all(|&reason| is_due_for_ecs(&with(reason, None))));
    let held = [Reason::Suspended, Reason::DryRun];
    let lost = [Reason::Deleted, Reason::Invalid, Reason::WrongRegion, Reason::NotFound];
    assert!(!held.iter().chain(&lost).any(|&reason| is_due_for_ecs(&with(reason, Some("no")))));
    for reason in [Reason::Retired, Reason::Deleting] {
        assert!(!is_due_for_ecs(&with(reason, None)));
        let awaits = |awaits| is_due_for_ecs(&RevisionStatus { awaits: Some(awaits), ..recorded(reason) });
        assert!(awaits(Awaits::DeregisteredAt) && awaits(Awaits::Description));
        assert!(!is_due_for_ecs(&with(reason, Some("no"))), "a message decides nothing");
    }
    let elsewhere = RevisionStatus { revision: API.to_owned(), ..recorded(Reason::WrongAccount) };
    assert!(!is_due_for_ecs(&elsewhere), "declared by an ARN that is of another account for good");

    for (reason, message, waits) in [
        (Reason::InUse, None, true),
        (Reason::CoolingDown, None, true),
        (Reason::AccessDenied, Some("usage unknown: no"), false),
        (Reason::Pending, None, false),
    ] {
        assert_eq!(waits_for_usage(&with(reason, message)), waits, "{reason:?} {message:?}");
    }
    let unknown = RevisionStatus { usage_unknown: true, ..recorded(Reason::AccessDenied) };
    assert!(waits_for_usage(&unknown));
}

#[test]
fn row_of_version_0_1_0_is_understood() {
    let read = |row: serde_json::Value| serde_json::from_value::<RevisionStatus>(row).expect("a row");
    for (message, awaits) in [
        ("retired; the time of the deregistration is still to be asked of ECS", true),
        ("retired; to be looked at again, as requested", true),
        ("any other text", false),
    ] {
        let row = serde_json::json!({ "revision": "api:1", "reason": "Retired", "message": message });
        assert_eq!(is_due_for_ecs(&read(row)), awaits, "{message}");
    }
    let message = "it is not known whether it is in use: ecs:ListClusters: AccessDeniedException: no";
    let unknown = serde_json::json!({ "revision": "api:1", "reason": "AccessDenied", "message": message });
    assert!(waits_for_usage(&read(unknown)));
    let quiet = serde_json::json!({ "revision": "api:1", "reason": "Quiet" });
    assert_eq!(read(quiet).reason, Reason::CoolingDown);
}
