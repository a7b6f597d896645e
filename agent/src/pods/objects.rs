//! ConfigMaps, Secrets and Services as the control plane last told of them: what references in pods are
//! resolved against. Written by node sync, read by the pods' workers, who watch it for changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio::sync::watch;

use super::tokens::Tokens;
use crate::cluster::ObjectName;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lookup<T> {
    Found(Arc<T>),
    /// The control plane said that there is none.
    Absent,
    /// Nothing was heard of it yet.
    Unknown,
}

/// A Service as environment variables need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) cluster_ip: IpAddr,
    /// Name (may be empty), protocol in upper case, port.
    pub(crate) ports: Vec<(String, &'static str, u16)>,
}

#[derive(Debug, Default)]
struct Content {
    config_maps: BTreeMap<ObjectName, Option<Arc<ConfigMap>>>,
    secrets: BTreeMap<ObjectName, Option<Arc<Secret>>>,
    services: BTreeMap<ObjectName, ServiceFacts>,
    claims: BTreeMap<ObjectName, Option<Arc<PersistentVolumeClaim>>>,
    volumes: BTreeMap<ObjectName, Option<Arc<PersistentVolume>>>,
    runtime_classes: BTreeMap<ObjectName, Option<Arc<RuntimeClass>>>,
}

/// One per agent. The lock is held for a look-up only and no other lock is taken under it.
#[derive(Debug)]
pub(crate) struct Objects {
    content: Mutex<Content>,
    /// Those of the accounts that pods run as.
    pub(crate) tokens: Tokens,
    changed: watch::Sender<u64>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            content: Mutex::default(),
            tokens: Tokens::default(),
            changed: watch::Sender::new(0),
        }
    }
}

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn lookup<T>(map: &BTreeMap<ObjectName, Option<Arc<T>>>, key: &ObjectName) -> Lookup<T> {
    match map.get(key) {
        Some(Some(object)) => Lookup::Found(Arc::clone(object)),
        Some(None) => Lookup::Absent,
        None => Lookup::Unknown,
    }
}

impl Objects {
    fn with<R>(&self, act: impl FnOnce(&mut Content) -> R) -> R {
        act(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn config_map(&self, namespace: &str, object: &str) -> Lookup<ConfigMap> {
        self.with(|content| lookup(&content.config_maps, &name(namespace, object)))
    }

    pub(crate) fn secret(&self, namespace: &str, object: &str) -> Lookup<Secret> {
        self.with(|content| lookup(&content.secrets, &name(namespace, object)))
    }

    pub(crate) fn claim(&self, namespace: &str, object: &str) -> Lookup<PersistentVolumeClaim> {
        self.with(|content| lookup(&content.claims, &name(namespace, object)))
    }

    pub(crate) fn volume(&self, object: &str) -> Lookup<PersistentVolume> {
        self.with(|content| lookup(&content.volumes, &name("", object)))
    }

    pub(crate) fn runtime_class(&self, object: &str) -> Lookup<RuntimeClass> {
        self.with(|content| lookup(&content.runtime_classes, &name("", object)))
    }

    /// All volumes that the node was told of.
    pub(crate) fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.with(|content| content.volumes.values().flatten().cloned().collect())
    }

    /// Services of the namespace and `default/kubernetes`, by name.
    pub(crate) fn services(&self, namespace: &str) -> BTreeMap<String, ServiceFacts> {
        self.with(|content| {
            content
                .services
                .iter()
                .filter(|(key, _)| {
                    key.namespace == namespace
                        || (key.namespace == "default" && key.name == "kubernetes")
                })
                .map(|(key, facts)| (key.name.clone(), facts.clone()))
                .collect()
        })
    }

    pub(crate) fn kubernetes(&self) -> Option<ServiceFacts> {
        self.with(|content| {
            content
                .services
                .get(&name("default", "kubernetes"))
                .cloned()
        })
    }

    /// `None`: there is none.
    pub(crate) fn set_config_map(&self, key: ObjectName, object: Option<ConfigMap>) {
        self.with(|content| content.config_maps.insert(key, object.map(Arc::new)));
    }

    pub(crate) fn set_secret(&self, key: ObjectName, object: Option<Secret>) {
        self.with(|content| content.secrets.insert(key, object.map(Arc::new)));
    }

    pub(crate) fn set_claim(&self, key: ObjectName, object: Option<PersistentVolumeClaim>) {
        self.with(|content| content.claims.insert(key, object.map(Arc::new)));
    }

    pub(crate) fn set_volume(&self, key: ObjectName, object: Option<PersistentVolume>) {
        self.with(|content| content.volumes.insert(key, object.map(Arc::new)));
    }

    pub(crate) fn set_runtime_class(&self, key: ObjectName, object: Option<RuntimeClass>) {
        self.with(|content| content.runtime_classes.insert(key, object.map(Arc::new)));
    }

    pub(crate) fn set_service(&self, key: ObjectName, facts: Option<ServiceFacts>) {
        self.with(|content| match facts {
            Some(facts) => content.services.insert(key, facts),
            None => content.services.remove(&key),
        });
    }

    /// Forgets what a full state did not mention.
    pub(crate) fn retain(&self, mut keep: impl FnMut(Kind, &ObjectName) -> bool) {
        self.with(|content| {
            content
                .config_maps
                .retain(|key, _| keep(Kind::ConfigMap, key));
            content.secrets.retain(|key, _| keep(Kind::Secret, key));
            content.services.retain(|key, _| keep(Kind::Service, key));
            content.claims.retain(|key, _| keep(Kind::Claim, key));
            content.volumes.retain(|key, _| keep(Kind::Volume, key));
            content
                .runtime_classes
                .retain(|key, _| keep(Kind::RuntimeClass, key));
        });
    }

    /// Tells the workers that something changed; once per batch.
    pub(crate) fn announce(&self) {
        self.changed.send_modify(|counter| *counter += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
    Service,
    Claim,
    /// Of no namespace.
    Volume,
    /// Of no namespace.
    RuntimeClass,
}
