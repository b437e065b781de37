//! The usage scan that a status is based on. Data only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A successful usage scan.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct UsageScan {
    /// The time at which the scan ended, by AWS's clock.
    pub time: Time,

    /// The uid of the resource that the scan was made for. The scan is ignored in a status that was
    /// copied from another resource, such as by a restore.
    #[schemars(length(max = 64))]
    pub uid: String,
}
