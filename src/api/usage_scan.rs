//! The usage scan that a status rests on. No behaviour.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A successful usage scan.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct UsageScan {
    /// When the scan ended, by AWS's clock.
    pub time: Time,

    /// The uid of the resource that the scan was made for. A status that was copied from another resource, as by a
    /// restore, does not count.
    #[schemars(length(max = 64))]
    pub uid: String,
}
