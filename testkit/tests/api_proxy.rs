//! The proxy before kube-apiserver: what it passes on, and what it lets go wrong.

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

/// The config maps of a namespace, through a proxy, with no retries.
async fn through(namespace: &Namespace<'_>) -> (ApiProxy, Api<ConfigMap>) {
    let proxy = ApiProxy::before(namespace.control_plane()).await.expect("a proxy");
    let kubeconfig = Kubeconfig::read_from(proxy.kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
    (config.default_retry, config.proxy_url) = (false, None);
    let client = Client::try_from(config).expect("a client");
    (proxy, Api::namespaced(client, namespace.name()))
}

async fn create(maps: &Api<ConfigMap>, name: &str) -> kube::Result<ConfigMap> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    maps.create(&PostParams::default(), &map).await
}

#[tokio::test]
async fn what_is_not_struck_is_passed_on_and_what_is_struck_is_not_or_not_answered() {
    let namespace = Namespace::fresh().await;
    let (proxy, maps) = through(&namespace).await;
    let direct: Api<ConfigMap> = namespace.api();
    create(&maps, "one").await.expect("it is passed on");

    proxy.fault(Fault::request(Verb::Create, "configmaps", 1, Effect::Refuse(429)));
    let refused = create(&maps, "two").await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 429), "{refused:?}");
    proxy.fault(Fault::write(1, Effect::CutBefore));
    create(&maps, "two").await.expect_err("no answer");
    assert!(direct.get_opt("two").await.expect("an answer").is_none());
    proxy.fault(Fault::write(1, Effect::CutAfter));
    create(&maps, "two").await.expect_err("no answer");
    direct.get("two").await.expect("it was passed on");

    let log: Vec<_> = proxy.log().iter().map(|it| (it.request.verb, it.status)).collect();
    let create = |status| (Verb::Create, status);
    assert_eq!(log, [create(Some(201)), create(Some(429)), create(None), create(None)]);
    assert_eq!(proxy.struck(), 3);
}

#[tokio::test]
async fn an_event_can_come_twice_or_be_cut_off_and_lost() {
    let namespace = Namespace::fresh().await;
    let (proxy, maps) = through(&namespace).await;
    let direct: Api<ConfigMap> = namespace.api();
    for name in ["one", "two"] {
        create(&direct, name).await.expect("it is made");
    }
    proxy.fault(Fault::event(1, Effect::Repeat));
    proxy.fault(Fault::event(2, Effect::Lose));
    let watch = maps.watch(&WatchParams::default(), "0").await.expect("a watch");
    let events: Vec<_> = tokio::time::timeout(DEADLINE, watch.collect()).await.expect("it ends");
    let name = |event: kube::Result<WatchEvent<ConfigMap>>| match event {
        Ok(WatchEvent::Added(map)) => map.metadata.name,
        _ => None,
    };
    let names: Vec<_> = events.into_iter().map(name).collect();
    let one = Some("one".to_owned());
    assert_eq!(names, [one.clone(), one], "the connection is cut before the second");
    let gone = maps.watch(&WatchParams::default(), "0").await.map(|_| ());
    assert!(matches!(&gone, Err(kube::Error::Api(status)) if status.code == 410), "{gone:?}");
    assert_eq!(proxy.events(), 2);
}
