//! The API proxy: forwarding, request faults, and watch faults.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use testkit::{
    api_proxy::{ApiProxy, Effect, Fault, Verb},
    namespace::Namespace,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Returns a proxy and the config maps of a namespace through it, without retries.
async fn through_proxy(namespace: &Namespace<'_>) -> (ApiProxy, Api<ConfigMap>) {
    let proxy = ApiProxy::in_front_of(namespace.control_plane()).await.expect("the proxy starts");
    let kubeconfig = Kubeconfig::read_from(proxy.kubeconfig()).expect("the kubeconfig is valid");
    let options = KubeConfigOptions::default();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("the configuration is valid");
    (config.default_retry, config.proxy_url) = (false, None);
    let client = Client::try_from(config).expect("the client is created");
    (proxy, Api::namespaced(client, namespace.name()))
}

async fn create(maps: &Api<ConfigMap>, name: &str) -> kube::Result<ConfigMap> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    maps.create(&PostParams::default(), &map).await
}

#[tokio::test]
async fn requests_are_forwarded_unless_a_fault_rejects_or_cuts_them() {
    let namespace = Namespace::fresh().await;
    let (proxy, maps) = through_proxy(&namespace).await;
    let direct: Api<ConfigMap> = namespace.api();
    create(&maps, "one").await.expect("the request is forwarded");

    proxy.fault(Fault::request(Verb::Create, "configmaps", 1, Effect::Refuse(429)));
    let rejected = create(&maps, "two").await;
    assert!(matches!(&rejected, Err(kube::Error::Api(status)) if status.code == 429), "{rejected:?}");
    proxy.fault(Fault::write(1, Effect::DropRequest));
    create(&maps, "two").await.expect_err("there is no response");
    assert!(direct.get_opt("two").await.expect("the API server responds").is_none());
    proxy.fault(Fault::write(1, Effect::DropReply));
    create(&maps, "two").await.expect_err("there is no response");
    direct.get("two").await.expect("the request was forwarded");

    let log: Vec<_> = proxy.log().iter().map(|it| (it.request.verb, it.status)).collect();
    let create = |status| (Verb::Create, status);
    assert_eq!(log, [create(Some(201)), create(Some(429)), create(None), create(None)]);
    assert_eq!(proxy.faults_applied(), 3);
}

#[tokio::test]
async fn watch_events_can_be_repeated_or_lost() {
    let namespace = Namespace::fresh().await;
    let (proxy, maps) = through_proxy(&namespace).await;
    let direct: Api<ConfigMap> = namespace.api();
    for name in ["one", "two"] {
        create(&direct, name).await.expect("the config map is created");
    }
    proxy.fault(Fault::event(1, Effect::Repeat));
    proxy.fault(Fault::event(2, Effect::DropEvent));
    let watch = maps.watch(&WatchParams::default(), "0").await.expect("the watch starts");
    let events: Vec<_> = tokio::time::timeout(DEADLINE, watch.collect()).await.expect("the watch ends");
    let name = |event: kube::Result<WatchEvent<ConfigMap>>| match event {
        Ok(WatchEvent::Added(map)) => map.metadata.name,
        _ => None,
    };
    let names: Vec<_> = events.into_iter().map(name).collect();
    let one = Some("one".to_owned());
    assert_eq!(names, [one.clone(), one], "the connection is cut before the second");
    let expired = maps.watch(&WatchParams::default(), "0").await.map(|_| ());
    assert!(matches!(&expired, Err(kube::Error::Api(status)) if status.code == 410), "{expired:?}");
    assert_eq!(proxy.events(), 2);
}
