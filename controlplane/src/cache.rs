//! The shared in-memory view of the cluster: one informer per kind, used by controllers, scheduler and node
//! sync alike.
//!
//! One watch over all objects feeds all informers in the order of revisions: subscribe first, then full
//! lists, then deltas; an error or the resync timer lists again and reports only what differs. Consumers keep no copies of their own: a snapshot hands out `Arc`s.
//!
//! Deliberately not here: writes (they go through [`crate::registry::Client`]) and decisions.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    PodTemplate, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry::{Client, Object};

mod feed;
mod informer;
mod key;
mod queue;
mod recent;

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

/// Pods that have [`ENDED`] or that are [`ENDING`].
pub(crate) const BY_END: &str = "end";
/// Succeeded or failed, and nobody has deleted it.
pub(crate) const ENDED: &str = "ended";
/// Somebody has deleted it.
pub(crate) const ENDING: &str = "ending";

/// Pods by [`label_value`] of each of their labels; Services by that of the first pair of their selector, so
/// that a pod finds its Services by its labels.
pub(crate) const BY_LABEL: &str = "label";

/// How many objects are held read of a kind of which there may be very many.
const RECENT: Option<usize> = Some(4_096);
const ALL: Option<usize> = None;

/// The informers, one line each: name, kind, how many objects are held read, indices. In the order in which they are listed
/// and told: what others refer to comes first. `$then!` gets its own arguments in brackets, then this table.
macro_rules! informers {
    ($then:ident $($args:tt)*) => {
        $then! {
            [$($args)*]
            namespaces: Namespace, ALL = vec![],
            nodes: Node, ALL = vec![],
            leases: Lease, ALL = vec![],
            config_maps: ConfigMap, RECENT = vec![],
            secrets: Secret, RECENT = vec![],
            service_accounts: ServiceAccount, ALL = vec![],
            storage_classes: StorageClass, ALL = vec![],
            runtime_classes: RuntimeClass, ALL = vec![],
            volumes: PersistentVolume, ALL = vec![],
            claims: PersistentVolumeClaim, ALL = vec![],
            pods: Pod, RECENT = vec![
                (BY_NODE, node_of),
                (BY_LABEL, labels_of),
                (BY_CONTROLLER, controller_uid),
                (BY_END, end_of),
            ],
            replica_sets: ReplicaSet, RECENT = vec![(BY_CONTROLLER, controller_uid)],
            deployments: Deployment, ALL = vec![],
            replication_controllers: ReplicationController, ALL = vec![],
            pod_templates: PodTemplate, ALL = vec![],
            stateful_sets: StatefulSet, ALL = vec![],
            daemon_sets: DaemonSet, ALL = vec![],
            controller_revisions: ControllerRevision, RECENT = vec![(BY_CONTROLLER, controller_uid)],
            jobs: Job, RECENT = vec![(BY_CONTROLLER, controller_uid)],
            cron_jobs: CronJob, ALL = vec![],
            services: Service, ALL = vec![(BY_LABEL, first_of_selector)],
            endpoints: Endpoints, RECENT = vec![],
            endpoint_slices: EndpointSlice, RECENT = vec![(BY_SERVICE, service_of)],
            certificate_signing_requests: CertificateSigningRequest, ALL = vec![],
            cluster_roles: ClusterRole, ALL = vec![],
            cluster_role_bindings: ClusterRoleBinding, ALL = vec![],
            roles: Role, ALL = vec![],
            role_bindings: RoleBinding, ALL = vec![],
            priority_levels: PriorityLevelConfiguration, ALL = vec![],
            flow_schemas: FlowSchema, ALL = vec![],
            disruption_budgets: PodDisruptionBudget, ALL = vec![],
            autoscalers: HorizontalPodAutoscaler, ALL = vec![],
            api_services: APIService, ALL = vec![],
        }
    };
}

macro_rules! define {
    ([] $($name:ident: $kind:ty, $held:ident = $indices:expr,)*) => {
        /// All informers. Cheap to clone.
        #[derive(Clone)]
        pub(crate) struct Cache {
            $(pub(crate) $name: Informer<$kind>,)*
            advanced: Arc<watch::Sender<u64>>,
        }

        impl Cache {
            /// An empty cache that nothing feeds: for tests, and the first half of [`Cache::start`].
            pub(crate) fn empty() -> Self {
                Self {
                    $($name: Informer::new($held, $indices),)*
                    advanced: Arc::new(watch::Sender::new(0)),
                }
            }

            /// Waits until every kind was listed once.
            pub(crate) async fn synced(&self) {
                $(self.$name.synced().await;)*
            }
        }
    };
}
informers!(define);

/// Calls a generic function for the informer of every kind.
macro_rules! each {
    ([$cache:expr, $informer:ident => $body:expr] $($name:ident: $kind:ty, $held:ident = $indices:expr,)*) => {{
        $({
            let $informer = &$cache.$name;
            $body
        })*
    }};
}
pub(crate) use {each, informers};

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
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

/// Pods of the namespace that have all these labels, and perhaps others: those with the rarest of them. All pods of the
/// namespace where none is given.
pub(crate) fn candidates<'a>(
    pods: &Informer<Pod>,
    namespace: &str,
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Vec<Arc<Pod>> {
    let values = labels
        .into_iter()
        .map(|(key, value)| label_value(namespace, key, value));
    match values.min_by_key(|value| pods.count_indexed(BY_LABEL, value)) {
        Some(rarest) => pods.indexed(BY_LABEL, &rarest),
        None => pods.list(namespace),
    }
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

fn node_of(pod: &Pod) -> Vec<String> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    node.into_iter().collect()
}

fn end_of(pod: &Pod) -> Vec<String> {
    let phase = pod.status.as_ref();
    let phase = phase.and_then(|status| status.phase.as_deref());
    let end = match (&pod.metadata.deletion_timestamp, phase) {
        (Some(_), _) => ENDING,
        (None, Some("Succeeded" | "Failed")) => ENDED,
        (None, _) => return Vec::new(),
    };
    vec![end.to_owned()]
}

fn labels_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.iter().flatten();
    labels
        .map(|(key, value)| label_value(namespace, key, value))
        .collect()
}

fn first_of_selector(service: &Service) -> Vec<String> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = service.spec.iter().flat_map(|spec| spec.selector.iter());
    selector
        .flatten()
        .next()
        .map(|(key, value)| label_value(namespace, key, value))
        .into_iter()
        .collect()
}

fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let labels = slice.metadata.labels.as_ref();
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    labels
        .and_then(|labels| labels.get("kubernetes.io/service-name"))
        .map(|service| format!("{namespace}/{service}"))
        .into_iter()
        .collect()
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
