//! A client of the cluster's API, for what the commands themselves wait for.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use serde::de::DeserializeOwned;

/// Longest wait for one condition; nothing that is waited for takes a tenth of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let config = Config::from_custom_kubeconfig(
        Kubeconfig::read_from(kubeconfig)?,
        &KubeConfigOptions::default(),
    )
    .await?;
    Ok(Client::try_from(config)?)
}

/// Waits until `check` holds of the named object.
pub(crate) async fn wait_for<K>(
    api: Api<K>,
    name: &str,
    what: &str,
    check: impl Fn(&K) -> bool,
) -> anyhow::Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(api, config).applied_objects());
    let found = tokio::time::timeout(LIMIT, async {
        while let Some(object) = changes.next().await {
            if let Ok(object) = object
                && check(&object)
            {
                return Some(object);
            }
        }
        None
    })
    .await;
    match found {
        Ok(Some(object)) => Ok(object),
        _ => bail!("{name} is not {what} after {} s", LIMIT.as_secs()),
    }
}

pub(crate) async fn wait_for_node(client: &Client, name: &str) -> anyhow::Result<()> {
    wait_for(Api::<Node>::all(client.clone()), name, "Ready", |node| {
        node.status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            })
    })
    .await
    .map(drop)
}
