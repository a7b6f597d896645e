//! Finding the cluster: the kubeconfig that is named, or that of a cluster on this machine.

use std::path::Path;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::Where;

/// The administrator's kubeconfig of `waggle dev`, then of `waggle controller`.
const KUBECONFIGS: [&str; 2] = [
    "/var/lib/waggle/dev/kubeconfig",
    "/var/lib/waggle/controller/admin.kubeconfig",
];

pub(crate) fn kubeconfig(named: Option<&Path>) -> anyhow::Result<Kubeconfig> {
    if let Some(path) = named {
        return Kubeconfig::read_from(path)
            .with_context(|| format!("--kubeconfig {}", path.display()));
    }
    if let Some(kubeconfig) = Kubeconfig::from_env().context("$KUBECONFIG")? {
        return Ok(kubeconfig);
    }
    let mut known = KUBECONFIGS.into_iter();
    let path = known
        .find(|path| Path::new(path).exists())
        .with_context(|| {
            format!(
                "give --kubeconfig or $KUBECONFIG: there is no {}",
                KUBECONFIGS.join(" nor ")
            )
        })?;
    Ok(Kubeconfig::read_from(path)?)
}

/// A client, and the namespace that is meant.
pub(super) async fn connect(place: &Where) -> anyhow::Result<(Client, String)> {
    let kubeconfig = kubeconfig(place.kubeconfig.as_deref())?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    // Logs are followed, commands run, for as long as one likes.
    config.read_timeout = None;
    let namespace = match &place.namespace {
        Some(namespace) => namespace.clone(),
        None => config.default_namespace.clone(),
    };
    Ok((Client::try_from(config)?, namespace))
}
