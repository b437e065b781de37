//! Tests of which rows are due for a description or for a usage scan.

use super::*;

#[test]
fn row_is_due_until_it_is_final() {
    let with = |reason, message: Option<&str>| RevisionStatus {
        message: message.map(str::to_owned),
        ..recorded(reason)
    };
    let due = [Reason::Pending, Reason::InUse, Reason::CoolingDown, Reason::Throttled, Reason::Unavailable];
    let refused = [Reason::AccessDenied, Reason::Refused, Reason::WrongAccount];
    assert!(due.iter().chain(&refused).all(|&reason| is_due_for_ecs(&with(reason, None))));
    let on_hold = [Reason::Suspended, Reason::DryRun];
    let not_retired = [Reason::Deleted, Reason::Invalid, Reason::WrongRegion, Reason::NotFound];
    assert!(!on_hold.iter().chain(&not_retired).any(|&reason| is_due_for_ecs(&with(reason, Some("no")))));
    for reason in [Reason::Retired, Reason::Deleting] {
        assert!(!is_due_for_ecs(&with(reason, None)));
        let awaits = |awaits| is_due_for_ecs(&RevisionStatus { awaits: Some(awaits), ..recorded(reason) });
        assert!(awaits(Awaits::DeregisteredAt) && awaits(Awaits::Description));
        assert!(!is_due_for_ecs(&with(reason, Some("no"))), "the message does not matter");
    }
    let foreign = RevisionStatus { revision: API.to_owned(), ..recorded(Reason::WrongAccount) };
    assert!(!is_due_for_ecs(&foreign), "the ARN permanently belongs to another account");

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
fn row_of_version_0_1_0_is_read() {
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
    let cooling = serde_json::json!({ "revision": "api:1", "reason": "Quiet" });
    assert_eq!(read(cooling).reason, Reason::CoolingDown);
}
