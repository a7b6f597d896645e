//! What ReplicaSet and ReplicationController have in common: a ReplicationController is a ReplicaSet of an
//! older form. Pure.

use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cache::{Cache, Informer};
use crate::registry::Object;

pub(in crate::controllers) trait Replicated: Object + Clone {
    fn informer(cache: &Cache) -> &Informer<Self>;
    fn name() -> &'static str;
    /// The object as a ReplicaSet, its metadata included.
    fn as_set(&self) -> ReplicaSet;
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    fn informer(cache: &Cache) -> &Informer<Self> {
        &cache.replica_sets
    }

    fn name() -> &'static str {
        "replicaset-controller"
    }

    fn as_set(&self) -> ReplicaSet {
        self.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Replicated for ReplicationController {
    fn informer(cache: &Cache) -> &Informer<Self> {
        &cache.replication_controllers
    }

    fn name() -> &'static str {
        "replication-controller"
    }

    fn as_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector {
                    match_labels: spec.selector,
                    match_expressions: None,
                },
                template: spec.template,
            }),
            status: self.status.as_ref().map(|status| ReplicaSetStatus {
                available_replicas: status.available_replicas,
                conditions: status.conditions.as_ref().map(|all| {
                    all.iter()
                        .map(|one| ReplicaSetCondition {
                            last_transition_time: one.last_transition_time.clone(),
                            message: one.message.clone(),
                            reason: one.reason.clone(),
                            status: one.status.clone(),
                            type_: one.type_.clone(),
                        })
                        .collect()
                }),
                fully_labeled_replicas: status.fully_labeled_replicas,
                observed_generation: status.observed_generation,
                ready_replicas: status.ready_replicas,
                replicas: status.replicas,
                terminating_replicas: None,
            }),
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| {
                all.into_iter()
                    .map(|one| ReplicationControllerCondition {
                        last_transition_time: one.last_transition_time,
                        message: one.message,
                        reason: one.reason,
                        status: one.status,
                        type_: one.type_,
                    })
                    .collect()
            }),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}
