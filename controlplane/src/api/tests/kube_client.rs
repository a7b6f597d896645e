//! The `kube` client: typed access, a watcher and a reflector that miss nothing.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::json;

use super::*;

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(BTreeMap::from([("test".into(), "yes".into())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("v".into(), value.into())])),
        ..ConfigMap::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_verbs() {
    let member = member().await;
    let api: Api<ConfigMap> = Api::default_namespaced(member.client.clone());
    let made = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let mut changed = made.clone();
    changed.data = config_map("a", "2").data;
    api.replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    let conflict = api
        .replace("a", &PostParams::default(), &made)
        .await
        .unwrap_err();
    assert!(
        matches!(&conflict, kube::Error::Api(status) if status.code == 409),
        "{conflict}"
    );
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"w": "3"}});
    let params = PatchParams::apply("me");
    let after = api
        .patch("a", &params, &Patch::Apply(&applied))
        .await
        .unwrap();
    assert_eq!(after.data.unwrap().len(), 2);
    assert_eq!(
        api.list(&ListParams::default().labels("test=yes"))
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert!(api.get_opt("b").await.unwrap().is_none());
    assert!(api.get_metadata("a").await.unwrap().metadata.uid.is_some());
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    let version = member.client.apiserver_version().await.unwrap();
    assert_eq!(version.minor, "36");
    member.controller.shutdown().await;
}

async fn reflects(config: watcher::Config) {
    let member = member().await;
    let api: Api<ConfigMap> = Api::default_namespaced(member.client.clone());
    for n in 0..5 {
        api.create(
            &PostParams::default(),
            &config_map(&format!("before{n}"), "0"),
        )
        .await
        .unwrap();
    }
    let (reader, writer) = reflector::store();
    let stream =
        reflector(writer, watcher(api.clone(), config.labels("test=yes"))).applied_objects();
    let (seen_sender, mut seen) = tokio::sync::watch::channel(String::new());
    let task = tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(object) = stream.next().await {
            seen_sender.send_replace(object.unwrap().metadata.name.unwrap());
        }
    });
    reader.wait_until_ready().await.unwrap();
    for n in 0..60 {
        let name = format!("during{n}");
        api.create(&PostParams::default(), &config_map(&name, "0"))
            .await
            .unwrap();
        let patch = Patch::Merge(json!({"data": {"v": "1"}}));
        api.patch(&name, &PatchParams::default(), &patch)
            .await
            .unwrap();
        if n % 3 == 0 {
            api.delete(&name, &DeleteParams::default()).await.unwrap();
        }
    }
    api.create(&PostParams::default(), &config_map("last", "0"))
        .await
        .unwrap();
    let deadline = std::time::Duration::from_secs(30);
    tokio::time::timeout(deadline, seen.wait_for(|name| name == "last"))
        .await
        .unwrap()
        .unwrap();
    let mut expected: Vec<_> = api
        .list(&ListParams::default().labels("test=yes"))
        .await
        .unwrap()
        .items;
    let mut reflected: Vec<ConfigMap> = reader
        .state()
        .iter()
        .map(|object| (**object).clone())
        .collect();
    let key = |object: &ConfigMap| object.metadata.name.clone();
    expected.sort_by_key(key);
    reflected.sort_by_key(key);
    assert_eq!(expected.len(), 5 + 40 + 1);
    assert_eq!(reflected, expected);
    task.abort();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_holds_what_the_server_holds() {
    reflects(watcher::Config::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_by_streaming_lists_too() {
    reflects(watcher::Config::default().streaming_lists()).await;
}
