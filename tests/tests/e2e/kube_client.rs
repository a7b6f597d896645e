//! A Rust client built on `kube`: a watcher sees every change once and in order, a reflector holds what
//! the API holds.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config};
use waggle_tests::{Cluster, Options};

/// A runtime whose threads are in the cluster's network namespace.
fn runtime_in(cluster: &Cluster) -> tokio::runtime::Runtime {
    let path = format!("/run/netns/{}", cluster.netns.name());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || {
            let file = std::fs::File::open(&path).expect("the namespace");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("enter the namespace");
        })
        .build()
        .unwrap()
}

async fn client(kubeconfig: std::path::PathBuf) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Changes that the test makes: enough for order and completeness; a soak sets more, so that history is
/// compacted many times behind a watch that goes on.
fn changes() -> u32 {
    std::env::var("WAGGLE_WATCH_CHANGES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(200)
}

#[test]
fn a_watcher_and_a_reflector_miss_nothing() {
    let total = changes().max(40);
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let runtime = runtime_in(&cluster);
    let kubeconfig = cluster.kubeconfig();
    let task = runtime.spawn(async move {
        let client = client(kubeconfig).await;
        let api = Api::<ConfigMap>::namespaced(client, "default");
        let (reader, writer) = reflector::store();
        let config = watcher::Config::default().labels("made-by=test");
        let mut changes = std::pin::pin!(
            watcher(api.clone(), config)
                .reflect(writer)
                .applied_objects()
        );
        let writing = tokio::spawn({
            let api = api.clone();
            async move {
                for index in 0..total {
                    let map = ConfigMap {
                        metadata: kube::api::ObjectMeta {
                            name: Some(format!("map-{}", index % 20)),
                            labels: Some(BTreeMap::from([(
                                "made-by".to_owned(),
                                "test".to_owned(),
                            )])),
                            ..Default::default()
                        },
                        data: Some(BTreeMap::from([("index".to_owned(), index.to_string())])),
                        ..Default::default()
                    };
                    if index < 20 {
                        api.create(&PostParams::default(), &map).await.unwrap();
                    } else {
                        let name = map.metadata.name.clone().unwrap();
                        let mut current = api.get(&name).await.unwrap();
                        current.data = map.data;
                        api.replace(&name, &PostParams::default(), &current)
                            .await
                            .unwrap();
                    }
                }
            }
        });
        let mut newest = BTreeMap::new();
        while newest
            .values()
            .filter(|index| **index >= total - 20)
            .count()
            < 20
        {
            let change = changes.next().await.unwrap().unwrap();
            let index: u32 = change.data.unwrap()["index"].parse().unwrap();
            let before = newest.insert(change.metadata.name.unwrap(), index);
            assert!(
                before.is_none_or(|before| before < index),
                "out of order: {before:?} {index}"
            );
        }
        writing.await.unwrap();
        assert_eq!(reader.state().len(), 20);
        for map in reader.state() {
            let held: u32 = map.data.as_ref().unwrap()["index"].parse().unwrap();
            assert!(held >= total - 20);
        }
    });
    runtime.block_on(async {
        tokio::time::timeout(
            std::time::Duration::from_secs(60 + u64::from(total / 50)),
            task,
        )
        .await
        .unwrap()
        .unwrap();
    });
}
