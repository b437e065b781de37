//! The tool of Prometheus that checks rules.

use std::{process::Command, time::Duration};

use crate::{process, tools};

const DEADLINE: Duration = Duration::from_mins(1);

/// Runs promtool and returns what it printed.
///
/// # Errors
/// What promtool complained about.
pub async fn promtool(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tools::find("promtool").map_err(|error| error.to_string())?);
    command.args(arguments);
    process::text(&command, DEADLINE).await
}
