//! Finding the cluster, and where in it one is.

use kube::Client;

use super::Where;

/// A client, and the namespace that is meant.
pub(super) async fn connect(place: &Where) -> anyhow::Result<(Client, String)> {
    let mut config = crate::client::administrator(place.kubeconfig.as_deref()).await?;
    // Logs are followed, commands run, for as long as one likes.
    config.read_timeout = None;
    let namespace = match &place.namespace {
        Some(namespace) => namespace.clone(),
        None => config.default_namespace.clone(),
    };
    Ok((Client::try_from(config)?, namespace))
}
