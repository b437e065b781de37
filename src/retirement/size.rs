//! Limits the size of a status to what etcd stores for one object. No I/O.

use std::fmt::Write;

use crate::{
    api::{RevisionStatus, TaskDefinitionRetirementStatus},
    controller::conditions::MESSAGE_BYTES,
    text::{cut, json_bytes},
};

/// Maximum size of the messages and users of all rows together, in bytes of JSON. With the other
/// fields of 500 rows, the longest spec and an annotation that repeats the spec, this stays below
/// the limit of etcd.
/// Source: `--max-request-bytes` of etcd, 1.5 MiB by default.
pub const TEXT_BYTES: usize = 320 * 1024;

/// Maximum size of the message and the users of one row, in bytes of JSON, even if there are few
/// rows.
pub const ROW_TEXT_BYTES: usize = 4096;

/// Maximum size of the recorded annotation that requests a reconcile, in bytes of JSON.
pub const REQUESTED_AT_BYTES: usize = 256;

const REVISION_BYTES: usize = 340;
const STATUS_BYTES: usize = 64;
const REQUEST_ID_BYTES: usize = 128;
const ERROR_CODE_BYTES: usize = 128;
const USER_BYTES: usize = 520;

/// Size of the text that reports that the users are truncated, in bytes of JSON.
const OMISSION_BYTES: usize = 32;

/// Truncates the texts of a status so that the API server can always store it.
///
/// The limit of a row depends on the number of rows alone, so that a row is the same in every
/// reconcile.
#[must_use]
pub fn fitted(mut status: TaskDefinitionRetirementStatus) -> TaskDefinitionRetirementStatus {
    let limit = ROW_TEXT_BYTES.min(TEXT_BYTES / status.revisions.len().max(1));
    for row in &mut status.revisions {
        fit_row(row, limit);
    }
    for condition in &mut status.conditions {
        cut(&mut condition.message, MESSAGE_BYTES);
    }
    status
}

/// Truncates the texts of a row. The message takes precedence over the users, as it contains their
/// number.
fn fit_row(row: &mut RevisionStatus, limit: usize) {
    cut(&mut row.revision, REVISION_BYTES);
    row.status.iter_mut().for_each(|status| cut(status, STATUS_BYTES));
    row.request_id.iter_mut().for_each(|id| cut(id, REQUEST_ID_BYTES));
    row.error.iter_mut().for_each(|error| cut(&mut error.code, ERROR_CODE_BYTES));
    row.used_by.iter_mut().for_each(|user| cut(user, USER_BYTES));
    let message = row.message.get_or_insert_default();
    cut(message, limit);
    // Each user also takes two quotation marks and a comma.
    let bytes: Vec<usize> = row.used_by.iter().map(|user| json_bytes(user) + 3).collect();
    if json_bytes(message) + bytes.iter().sum::<usize>() > limit {
        cut(message, limit - OMISSION_BYTES);
        let mut left = limit - OMISSION_BYTES - json_bytes(message);
        let fitting = bytes.iter().take_while(|&&bytes| {
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        let fitting = fitting.count();
        row.used_by.truncate(fitting);
        let _ = write!(message, "; usedBy is truncated to {fitting}");
    }
    row.message.take_if(|message| message.is_empty());
}

#[cfg(test)]
mod tests;
