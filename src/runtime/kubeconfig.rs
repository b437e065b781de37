//! Configuration of the Kubernetes client, from the kubeconfig or the service account of the pod.

use std::{env, error::Error as StdError, ffi::OsString};

use axum::http::Uri;
use kube::{
    Config,
    config::{Cluster, ExecAuthCluster, Kubeconfig, KubeconfigError},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    proxy::Proxies,
    runtime::{Error, kubernetes::error_chain},
};

/// Returns the client configuration from `KUBECONFIG`, the default kubeconfig, or, without either,
/// the pod's service account.
///
/// # Errors
/// Returns `Error::Kubernetes` if it cannot be used. The message names the kubeconfig.
pub(super) fn config() -> Result<Config, Error> {
    let mut config = match file() {
        Some(file) => Kubeconfig::read().map_err(Into::into).and_then(current).map_err(|error| {
            // The first line, since the others may quote the file.
            let error = error.to_string().lines().next().unwrap_or_default().to_owned();
            Error::Kubernetes(format!("kubeconfig {}: {error}", file.display()))
        })?,
        // With a pod's service account, no proxy is used.
        None => Config::incluster().map_err(|error| {
            Error::Kubernetes(format!("no kubeconfig found; service account: {}", error_chain(&error)))
        })?,
    };
    config.apply_debug_overrides();
    config.default_retry = false;
    Ok(config)
}

/// Returns the files that `KUBECONFIG` names or, without any, the default kubeconfig. `None` if
/// that does not exist.
fn file() -> Option<OsString> {
    let has_path = |paths: &OsString| env::split_paths(paths).any(|path| !path.as_os_str().is_empty());
    let default = || env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
    env::var_os("KUBECONFIG").filter(has_path).or_else(|| default().map(OsString::from))
}

/// Returns the configuration of the current context. `Config::from_kubeconfig` cannot be used: it
/// fails if `NO_PROXY` has an empty entry or spaces, and compares it with the proxy instead of the
/// server.
fn current(kubeconfig: Kubeconfig) -> Result<Config, Box<dyn StdError>> {
    let name = kubeconfig.current_context.ok_or(KubeconfigError::CurrentContextNotSet)?;
    let context = kubeconfig.contexts.into_iter().find(|it| it.name == name).and_then(|it| it.context);
    let context = context.ok_or(KubeconfigError::LoadContext(name))?;
    let cluster = kubeconfig.clusters.into_iter().find(|it| it.name == context.cluster);
    let cluster = cluster.and_then(|it| it.cluster);
    let cluster = cluster.ok_or(KubeconfigError::LoadClusterOfContext(context.cluster))?;
    let user = kubeconfig.auth_infos.into_iter().find(|it| Some(&it.name) == context.user.as_ref());

    let server = cluster.server.as_ref().ok_or(KubeconfigError::MissingClusterUrl)?;
    let mut config = Config::new(server.parse().map_err(KubeconfigError::ParseClusterUrl)?);
    config.default_namespace = context.namespace.unwrap_or(config.default_namespace);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    config.auth_info = user.and_then(|it| it.auth_info).unwrap_or_default();
    config.proxy_url = proxy(&cluster, &Proxies::from_env(), &config)?;
    let described = ExecAuthCluster::try_from(&cluster)?;
    config.root_cert = described.certificate_authority_data.as_deref().map(certificates).transpose()?;
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|it| it.provide_cluster_info) {
        exec.cluster = Some(described);
    }
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).map(|it| it.map(|der| der.to_vec()));
    certificates.collect::<Result<_, _>>().map_err(|error| format!("certificate authority: {error}"))
}

/// Returns the proxy of the kubeconfig or, without one, that of the environment. As in kubectl,
/// `NO_PROXY` does not apply to the former.
fn proxy(cluster: &Cluster, proxies: &Proxies, config: &Config) -> Result<Option<Uri>, String> {
    let configured = cluster.proxy_url.as_deref().filter(|url| !url.is_empty());
    let environment = proxies.https.as_ref().filter(|_| proxies.apply_to(&config.cluster_url));
    let (name, url) = match (configured, environment) {
        (Some(url), _) => ("proxy-url", url),
        (None, Some(proxy)) => (proxy.variable, proxy.url.as_str()),
        (None, None) => return Ok(None),
    };
    url.parse().map(Some).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use kube::config::KubeConfigOptions;
    use serde_json::json;

    use super::*;

    fn kubeconfig() -> Kubeconfig {
        let kubeconfig = json!({
            "current-context": "b",
            "contexts": [
                { "name": "a", "context": { "cluster": "a", "user": "a" } },
                { "name": "b", "context": { "cluster": "b", "user": "b", "namespace": "web" } },
            ],
            "clusters": [{ "name": "a", "cluster": { "server": "https://a" } }, { "name": "b", "cluster": {
                "server": "https://k8s.example.com:6443",
                "tls-server-name": "other.example.com",
                "insecure-skip-tls-verify": true,
                "disable-compression": true,
                "proxy-url": "http://proxy:3128",
                // The certificate is the text "hello".
                "certificate-authority-data": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmFHVnNiRzg9Ci0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K",
            }}],
            "users": [{ "name": "a", "user": { "token": "a" } }, { "name": "b", "user": { "exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": "login",
                "interactiveMode": "Never", "provideClusterInfo": true,
            }}}],
        });
        serde_json::from_value(kubeconfig).expect("a kubeconfig")
    }

    #[tokio::test]
    async fn configuration_equals_that_of_kube_except_for_the_proxy() {
        let own = current(kubeconfig()).expect("it is valid");
        assert_eq!(own.root_cert.as_deref(), Some([b"hello".to_vec()].as_slice()));
        assert_eq!(own.proxy_url, Some(Uri::from_static("http://proxy:3128")));
        let of_kube = Config::from_custom_kubeconfig(kubeconfig(), &KubeConfigOptions::default()).await;
        let mut of_kube = of_kube.expect("it is valid");
        of_kube.proxy_url.clone_from(&own.proxy_url);
        assert_eq!(format!("{own:?}"), format!("{of_kube:?}"));
    }

    #[test]
    fn incomplete_kubeconfig_is_an_error() {
        let message = |change: fn(&mut Kubeconfig)| {
            let mut kubeconfig = kubeconfig();
            change(&mut kubeconfig);
            current(kubeconfig).expect_err("it is incomplete").to_string()
        };
        assert!(message(|it| it.current_context = None).contains("current context"));
        assert!(message(|it| it.contexts.clear()).contains("context: b"));
        assert!(message(|it| it.clusters.clear()).contains("cluster of context: b"));
        let proxy = |it: &mut Kubeconfig| {
            it.clusters[1].cluster.as_mut().expect("a cluster").proxy_url = Some("http://a b".to_owned());
        };
        assert!(message(proxy).starts_with("proxy-url: "));
    }
}
