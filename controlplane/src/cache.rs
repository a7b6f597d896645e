//! The shared in-memory view of the cluster: one informer per kind, used by controllers, scheduler and node
//! sync alike.
//!
//! One watch over all objects feeds all informers in the order of revisions: subscribe first, then full
//! lists, then deltas; an error or the resync timer lists again and reports only what differs. Consumers keep no copies of their own: a snapshot hands out `Arc`s.
//!
//! Deliberately not here: writes (they go through [`crate::registry::Client`]) and decisions.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry::{Client, Object};

mod feed;
mod informer;
mod key;
mod queue;

pub(crate) use informer::{Informer, Subscription};
pub(crate) use key::ObjectKey;
pub(crate) use queue::Queue;

#[cfg(test)]
mod tests;

/// Pods by `spec.nodeName`.
pub(crate) const BY_NODE: &str = "node";
/// Objects by the uid of their controller, or by [`orphans_of`] their namespace where they have none.
pub(crate) const BY_CONTROLLER: &str = "controller";
/// EndpointSlices by `namespace/service`.
pub(crate) const BY_SERVICE: &str = "service";

/// Pods by [`label_value`] of each of their labels; Services by that of the first pair of their selector, so
/// that a pod finds its Services by its labels.
pub(crate) const BY_LABEL: &str = "label";

/// All informers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) services: Informer<Service>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) config_maps: Informer<ConfigMap>,
    pub(crate) secrets: Informer<Secret>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) leases: Informer<Lease>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) cluster_roles: Informer<ClusterRole>,
    pub(crate) cluster_role_bindings: Informer<ClusterRoleBinding>,
    pub(crate) roles: Informer<Role>,
    pub(crate) role_bindings: Informer<RoleBinding>,
    advanced: Arc<watch::Sender<u64>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache that nothing feeds: for tests, and the first half of [`Cache::start`].
    pub(crate) fn empty() -> Self {
        Self {
            pods: Informer::new(vec![
                (BY_NODE, |pod: &Pod| {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                    node.into_iter().collect()
                }),
                (BY_LABEL, |pod: &Pod| {
                    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                    let labels = pod.metadata.labels.iter().flatten();
                    labels
                        .map(|(key, value)| label_value(namespace, key, value))
                        .collect()
                }),
                (BY_CONTROLLER, controller_uid),
            ]),
            nodes: Informer::new(vec![]),
            services: Informer::new(vec![(BY_LABEL, |service: &Service| {
                let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
                let selector = service.spec.iter().flat_map(|spec| spec.selector.iter());
                selector
                    .flatten()
                    .next()
                    .map(|(key, value)| label_value(namespace, key, value))
                    .into_iter()
                    .collect()
            })]),
            endpoints: Informer::new(vec![]),
            endpoint_slices: Informer::new(vec![(BY_SERVICE, |slice: &EndpointSlice| {
                let labels = slice.metadata.labels.as_ref();
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                labels
                    .and_then(|labels| labels.get("kubernetes.io/service-name"))
                    .map(|service| format!("{namespace}/{service}"))
                    .into_iter()
                    .collect()
            })]),
            config_maps: Informer::new(vec![]),
            secrets: Informer::new(vec![]),
            service_accounts: Informer::new(vec![]),
            namespaces: Informer::new(vec![]),
            leases: Informer::new(vec![]),
            deployments: Informer::new(vec![]),
            replica_sets: Informer::new(vec![(BY_CONTROLLER, controller_uid)]),
            cluster_roles: Informer::new(vec![]),
            cluster_role_bindings: Informer::new(vec![]),
            roles: Informer::new(vec![]),
            role_bindings: Informer::new(vec![]),
            advanced: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Starts the task that feeds the cache; it ends with `shutdown`.
    pub(crate) fn start(client: &Client, shutdown: &CancellationToken) -> Self {
        let cache = Self::empty();
        let (feed, client, shutdown) = (cache.clone(), client.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = feed::run(&feed, &client) => {}
                () = shutdown.cancelled() => {}
            }
        });
        cache
    }

    /// The revision up to which every kind is complete and every handler was told, as it moves on.
    pub(crate) fn advanced(&self) -> watch::Receiver<u64> {
        self.advanced.subscribe()
    }

    /// The feed (or a test) has told every handler up to here.
    pub(crate) fn announce(&self) {
        self.advanced.send_replace(feed::progress(self));
    }

    /// Waits until every kind was listed once.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.services.synced().await;
        self.endpoints.synced().await;
        self.endpoint_slices.synced().await;
        self.config_maps.synced().await;
        self.secrets.synced().await;
        self.service_accounts.synced().await;
        self.namespaces.synced().await;
        self.leases.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.cluster_roles.synced().await;
        self.cluster_role_bindings.synced().await;
        self.roles.synced().await;
        self.role_bindings.synced().await;
    }
}

/// The Services whose selector selects the pod.
pub(crate) fn services_of(services: &Informer<Service>, pod: &Pod) -> Vec<Arc<Service>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.iter().flatten();
    labels
        .flat_map(|(key, value)| services.indexed(BY_LABEL, &label_value(namespace, key, value)))
        .filter(|service| selects(service, pod))
        .collect()
}

/// A Service without selector selects no pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let wanted = service.spec.iter().flat_map(|spec| spec.selector.iter());
    let mut wanted = wanted.flatten().peekable();
    let labels = pod.metadata.labels.as_ref();
    wanted.peek().is_some()
        && wanted.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

pub(crate) fn label_value(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

/// The value in [`BY_CONTROLLER`] for objects without a controller.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

fn controller_uid<K: Object>(object: &K) -> Vec<String> {
    let metadata = object.metadata();
    let controller = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    vec![controller.map_or_else(
        || orphans_of(metadata.namespace.as_deref().unwrap_or_default()),
        |owner| owner.uid.clone(),
    )]
}
