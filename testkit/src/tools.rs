//! Finds the programs that `make tools` installs. Reads the file system only.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Returns the path of `etcd`, `kube-apiserver`, `kubectl` or another program of `make tools`.
///
/// # Errors
/// Returns an error if the program is neither in the folder of `KUBEBUILDER_ASSETS` nor in
/// `.tools/bin`.
pub fn find(program: &str) -> io::Result<PathBuf> {
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    first_file(program, assets.into_iter().chain([folder().join("bin")])).ok_or_else(|| missing(program))
}

/// Returns the Python of the virtual environment that `make tools` creates for a program, such as
/// `moto`.
///
/// # Errors
/// Returns an error if it is not in `.tools`.
pub fn python(program: &str) -> io::Result<PathBuf> {
    first_file("python", [folder().join(program).join("bin")]).ok_or_else(|| missing(program))
}

/// Returns the path of the custom resource definitions of the Prometheus Operator that the chart
/// can use for scraping and alerts.
///
/// # Errors
/// Returns an error if they are not in `.tools`.
pub fn monitors() -> io::Result<PathBuf> {
    first_file("monitors.yaml", [folder()]).ok_or_else(|| missing("monitors.yaml"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")
}

fn first_file(name: &str, folders: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn missing(tool: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{tool} is missing: run `make tools`"))
}
