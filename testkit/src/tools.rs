//! Where the programs are that `make tools` provides; reads the file system, changes nothing.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// The path of `etcd`, `kube-apiserver`, `kubectl` or another program of `make tools`.
///
/// # Errors
/// It is neither in the folder that `KUBEBUILDER_ASSETS` names nor in `.tools/bin`.
pub fn find(program: &str) -> io::Result<PathBuf> {
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    first_file(program, assets.into_iter().chain([folder().join("bin")])).ok_or_else(|| missing(program))
}

/// Returns the Python of a virtual environment that `make tools` made for a program, such as `moto`.
///
/// # Errors
/// Returns an error if it is not in `.tools`.
pub fn python(program: &str) -> io::Result<PathBuf> {
    first_file("python", [folder().join(program).join("bin")]).ok_or_else(|| missing(program))
}

/// The custom resource definitions of the Prometheus Operator for what a chart may ask it to scrape and to alert.
///
/// # Errors
/// They are not in `.tools`.
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
