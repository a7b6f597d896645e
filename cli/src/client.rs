//! A client of the cluster's API, for what the commands themselves wait for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use serde::de::DeserializeOwned;

/// Longest wait for one condition; nothing that is waited for takes a tenth of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The administrator's kubeconfig of `waggle dev`, then of `waggle controller`.
const KUBECONFIGS: [&str; 2] = [
    "/var/lib/waggle/dev/kubeconfig",
    "/var/lib/waggle/controller/admin.kubeconfig",
];

/// The cluster of a kubeconfig: the one that is given, $KUBECONFIG, or one of this machine.
pub(crate) async fn administrator(given: Option<&Path>) -> anyhow::Result<Config> {
    let kubeconfig = match given {
        Some(path) => Kubeconfig::read_from(path)
            .with_context(|| format!("--kubeconfig {}", path.display()))?,
        None => match Kubeconfig::from_env().context("$KUBECONFIG")? {
            Some(kubeconfig) => kubeconfig,
            None => {
                let path = KUBECONFIGS
                    .into_iter()
                    .find(|path| Path::new(path).exists());
                let path = path.with_context(|| {
                    format!(
                        "give --kubeconfig or $KUBECONFIG: there is no {}",
                        KUBECONFIGS.join(" nor ")
                    )
                })?;
                Kubeconfig::read_from(path)?
            }
        },
    };
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    // The library would go on for minutes where there is no leader. A member has looked for one before it says so.
    config.default_retry = false;
    Ok(config)
}

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
