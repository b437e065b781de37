//! Runs Helm as a user of the chart does.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    control_plane::ControlPlane,
    namespace::documents,
    process::{self, Folder},
    tools,
};

const DEADLINE: Duration = Duration::from_mins(1);

/// Runs Helm as administrator of `plane` and returns its output.
///
/// # Errors
/// Returns Helm's error output if it fails.
pub async fn on(plane: &ControlPlane, arguments: &[&str]) -> Result<String, String> {
    run(arguments, &plane.kubeconfig()).await
}

/// Runs Helm without a cluster, to lint or to package, and returns its output.
///
/// # Errors
/// Returns Helm's error output if it fails.
pub async fn offline(arguments: &[&str]) -> Result<String, String> {
    run(arguments, Path::new("/dev/null")).await
}

/// Returns the objects that `helm template` renders.
///
/// # Errors
/// Returns Helm's error output if it fails.
pub async fn template(arguments: &[&str]) -> Result<Vec<Value>, String> {
    documents(&offline(&[&["template"], arguments].concat()).await?)
}

async fn run(arguments: &[&str], kubeconfig: &Path) -> Result<String, String> {
    let home = Folder::create().map_err(|error| error.to_string())?;
    let mut command = Command::new(tools::find("helm").map_err(|error| error.to_string())?);
    command.env("HOME", home.path()).env("KUBECONFIG", kubeconfig).args(arguments);
    process::text(&command, DEADLINE).await
}
