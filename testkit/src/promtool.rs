//! promtool, which checks Prometheus rules.

use std::{process::Command, time::Duration};

use crate::{process, tools};

const DEADLINE: Duration = Duration::from_mins(1);

/// Runs promtool and returns its output.
///
/// # Errors
/// Returns promtool's error output if it fails.
pub async fn promtool(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tools::find("promtool").map_err(|error| error.to_string())?);
    command.args(arguments);
    process::text(&command, DEADLINE).await
}
