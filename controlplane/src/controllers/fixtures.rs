//! Objects that the controllers' tests start from.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    Container, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("ns".into()),
        name: Some(name.into()),
        uid: Some(format!("uid-{name}")),
        creation_timestamp: Some(Time(at(0))),
        labels: Some(labels(&[("app", "web")])),
        ..ObjectMeta::default()
    }
}

pub(crate) fn template() -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(&[("app", "web")])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                image: Some("echo:1".into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

pub(crate) fn selector() -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels(&[("app", "web")])),
        ..LabelSelector::default()
    }
}

pub(crate) fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: metadata(name),
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector: selector(),
            template: Some(template()),
            min_ready_seconds: None,
        }),
        status: None,
    }
}

pub(crate) fn deployment(name: &str, replicas: i32) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            generation: Some(1),
            ..metadata(name)
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: selector(),
            template: template(),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A pod that is bound; ready since `ready_since` if that is given.
pub(crate) fn pod(name: &str, node: Option<&str>, ready_since: Option<i64>) -> Pod {
    let template = template();
    Pod {
        metadata: metadata(name),
        spec: Some(PodSpec {
            node_name: node.map(Into::into),
            ..template.spec.unwrap()
        }),
        status: Some(PodStatus {
            phase: Some(if node.is_some() { "Running" } else { "Pending" }.into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready_since.is_some() {
                    "True"
                } else {
                    "False"
                }
                .into(),
                last_transition_time: ready_since.map(|second| Time(at(second))),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
    }
}

pub(crate) fn pods(list: Vec<Pod>) -> Vec<Arc<Pod>> {
    list.into_iter().map(Arc::new).collect()
}
