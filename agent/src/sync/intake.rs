//! Hands on what the control plane says: objects and pods to the pods, services, endpoints and nodes to the
//! data plane and DNS. Owned by the client's task.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use proto::node::v1 as wire;
use tokio::sync::{mpsc, watch};

use super::convert::{self, Nonsense};
use super::outbox::Outbox;
use crate::cluster::{Batch, Event, ObjectName, Protocol};
use crate::pods::{Kind, Machine, Objects, Pods, Refused, ServiceFacts};

pub(crate) struct Intake<M: Machine> {
    pub(crate) node_name: String,
    pub(crate) pods: Arc<Pods<M>>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) outbox: Arc<Outbox>,
    /// The data plane and DNS.
    pub(crate) consumers: Vec<mpsc::Sender<Arc<Batch>>>,
    /// The ranges that this node's pods get their addresses from.
    pub(crate) pod_cidrs: watch::Sender<Vec<IpNet>>,
    full: Option<Full>,
}

/// A full state that is coming in.
#[derive(Default)]
struct Full {
    events: Vec<Event>,
    pods: BTreeSet<String>,
    objects: BTreeMap<Kind, BTreeSet<ObjectName>>,
}

impl<M: Machine> Intake<M> {
    pub(crate) fn new(
        node_name: String,
        pods: Arc<Pods<M>>,
        objects: Arc<Objects>,
        outbox: Arc<Outbox>,
        consumers: Vec<mpsc::Sender<Arc<Batch>>>,
        pod_cidrs: watch::Sender<Vec<IpNet>>,
    ) -> Self {
        Self {
            node_name,
            pods,
            objects,
            outbox,
            consumers,
            pod_cidrs,
            full: None,
        }
    }

    /// A new stream begins with a full state; what an earlier one had begun is void.
    pub(crate) fn begin(&mut self) {
        self.full = None;
    }

    pub(crate) async fn batch(&mut self, batch: wire::Batch) {
        let mut nonsense = Vec::new();
        if batch.full && self.full.is_none() {
            self.full = Some(Full::default());
        }
        let objects_changed = !batch.objects.is_empty() || !batch.services.is_empty();
        for object in batch.objects {
            self.object(object, &mut nonsense);
        }
        let mut events = Vec::new();
        events.extend(
            batch
                .services
                .into_iter()
                .filter_map(|change| convert::service(change, &mut nonsense)),
        );
        events.extend(
            batch
                .endpoint_slices
                .into_iter()
                .filter_map(|change| convert::slice(change, &mut nonsense)),
        );
        events.extend(
            batch
                .nodes
                .into_iter()
                .filter_map(|change| convert::node(change, &mut nonsense)),
        );
        for nonsense in nonsense {
            tracing::warn!("passed over: {nonsense}");
        }
        self.facts(&events);
        let last = batch.full && batch.last;
        if last {
            self.retain_objects();
        }
        if objects_changed || last {
            self.objects.announce();
        }
        match &mut self.full {
            Some(full) if batch.full => {
                full.events.append(&mut events);
                if last {
                    let events = std::mem::take(&mut full.events);
                    self.hand_on(batch.revision, true, events).await;
                }
            }
            _ => self.hand_on(batch.revision, false, events).await,
        }
        for (change, pod) in in_order(batch.pods) {
            self.pod(change, pod).await;
        }
        if last && let Some(full) = self.full.take() {
            self.outbox.retain(&full.pods);
            self.objects.tokens.retain(&full.pods);
            self.pods.retain(&full.pods).await;
        }
    }

    async fn hand_on(&self, revision: u64, full: bool, events: Vec<Event>) {
        let batch = Arc::new(Batch {
            revision,
            full,
            events,
        });
        for consumer in &self.consumers {
            // A consumer that is gone ended with the agent.
            let _ = consumer.send(Arc::clone(&batch)).await;
        }
    }

    async fn pod(&mut self, change: wire::PodChange, pod: Option<serde_json::Result<Pod>>) {
        let Some(pod) = pod else {
            self.outbox.forget(&change.uid);
            self.objects.tokens.forget(&change.uid);
            self.pods.gone(&change.uid).await;
            return;
        };
        match pod {
            Ok(pod) => {
                if let Some(full) = &mut self.full
                    && let Some(uid) = &pod.metadata.uid
                {
                    full.pods.insert(uid.clone());
                }
                if change.held {
                    self.pods.set_held(pod).await;
                } else if let Some(refused) = Refused::misplaced(&change.misplaced) {
                    self.pods.set_refused(pod, refused).await;
                } else {
                    self.pods.set(pod).await;
                }
            }
            Err(error) => {
                // Known all the same: it must not count as gone because it cannot be read.
                if let Some(full) = &mut self.full {
                    full.pods.insert(change.uid.clone());
                }
                tracing::warn!(namespace = %change.namespace, pod = %change.name, %error,
                    "passed over: a pod that cannot be read");
            }
        }
    }

    /// A token came, or why there is none.
    pub(crate) fn token(&self, response: wire::TokenResponse) {
        let now = jiff::Timestamp::now().as_second();
        let answer = if response.token.is_empty() {
            tracing::warn!(error = response.error, "a token was refused");
            Err(response.error)
        } else {
            // Clocks differ: never so long or so short that a token is asked for all the time.
            let lives = (response.expiration - now).clamp(60, 1 << 32);
            let lives = u64::try_from(lives).unwrap_or(60);
            Ok((response.token, Duration::from_secs(lives)))
        };
        if self.objects.tokens.answered(response.id, answer) {
            self.objects.announce();
        }
    }

    fn object(&mut self, change: wire::ObjectChange, nonsense: &mut Vec<Nonsense>) {
        let unscoped = matches!(change.kind.as_str(), "PersistentVolume" | "RuntimeClass");
        let name = if unscoped && !change.name.is_empty() {
            Some(ObjectName {
                namespace: String::new(),
                name: change.name.clone(),
            })
        } else {
            convert::object_name(&change.namespace, &change.name)
        };
        let Some(name) = name else {
            nonsense.push(Nonsense::Nameless("object"));
            return;
        };
        let kind = match change.kind.as_str() {
            "ConfigMap" => Kind::ConfigMap,
            "Secret" => Kind::Secret,
            "PersistentVolumeClaim" => Kind::Claim,
            "PersistentVolume" => Kind::Volume,
            "RuntimeClass" => Kind::RuntimeClass,
            // Of a service account a pod needs its tokens, which come when they are asked for.
            _ => return,
        };
        self.mention(kind, &name);
        let json = &change.object_json;
        let result = match kind {
            Kind::ConfigMap => read::<ConfigMap>(json)
                .map(|object| self.objects.set_config_map(name.clone(), object)),
            Kind::Secret => {
                read::<Secret>(json).map(|object| self.objects.set_secret(name.clone(), object))
            }
            Kind::Claim => read(json).map(|object| self.objects.set_claim(name.clone(), object)),
            Kind::Volume => read(json).map(|object| self.objects.set_volume(name.clone(), object)),
            Kind::RuntimeClass => {
                read(json).map(|object| self.objects.set_runtime_class(name.clone(), object))
            }
            Kind::Service => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(kind = %change.kind, name = %name.name, %error,
                "passed over: an object that cannot be read");
        }
    }

    fn mention(&mut self, kind: Kind, name: &ObjectName) {
        if let Some(full) = &mut self.full {
            full.objects.entry(kind).or_default().insert(name.clone());
        }
    }

    /// What pods need of services, and the node of itself.
    fn facts(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::ServiceSet(name, service) => {
                    self.mention(Kind::Service, name);
                    let facts = service.cluster_ips.first().map(|ip| ServiceFacts {
                        cluster_ip: *ip,
                        ports: service
                            .ports
                            .iter()
                            .map(|port| (port.name.clone(), upper(port.protocol), port.port))
                            .collect(),
                    });
                    self.objects.set_service(name.clone(), facts);
                }
                Event::ServiceRemoved(name) => self.objects.set_service(name.clone(), None),
                Event::NodeSet(name, node) if *name == self.node_name => {
                    self.pod_cidrs.send_if_modified(|known| {
                        let changed = *known != node.pod_cidrs;
                        known.clone_from(&node.pod_cidrs);
                        changed
                    });
                }
                _ => {}
            }
        }
    }

    fn retain_objects(&self) {
        if let Some(full) = &self.full {
            self.objects.retain(|kind, name| {
                full.objects
                    .get(&kind)
                    .is_some_and(|names| names.contains(name))
            });
        }
    }
}

/// `None`: the pod is gone.
type Change = (wire::PodChange, Option<serde_json::Result<Pod>>);

/// Pods in the order in which they were made: where two want the same of the node, the older one has it. They come in
/// that of their names. What happened before and after an end stays so, because one batch may have several changes of a pod.
fn in_order(changes: Vec<wire::PodChange>) -> Vec<Change> {
    let mut all: Vec<Change> = changes
        .into_iter()
        .map(|change| {
            let json = &change.pod_json;
            let pod = (!json.is_empty()).then(|| serde_json::from_slice(json));
            (change, pod)
        })
        .collect();
    for run in all.chunk_by_mut(|(_, a), (_, b)| a.is_some() && b.is_some()) {
        run.sort_by_cached_key(|(_, pod)| match pod {
            Some(Ok(pod)) => {
                let version = pod.metadata.resource_version.as_deref();
                let version = version.and_then(|version| version.parse::<u64>().ok());
                Some((pod.metadata.creation_timestamp.clone(), version))
            }
            _ => None,
        });
    }
    all
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<Option<T>, serde_json::Error> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json).map(Some)
}

fn upper(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, made: &str, version: &str) -> wire::PodChange {
        let metadata = serde_json::json!({
            "name": name, "uid": name, "creationTimestamp": made, "resourceVersion": version,
        });
        wire::PodChange {
            name: name.to_owned(),
            uid: name.to_owned(),
            pod_json: match made {
                "" => Vec::new().into(),
                _ => serde_json::json!({"metadata": metadata}).to_string().into(),
            },
            ..wire::PodChange::default()
        }
    }

    #[test]
    fn pods_come_in_the_order_in_which_they_were_made() {
        let (early, late) = ("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z");
        let changes = vec![
            change("a", late, "7"),
            change("b", early, "6"),
            change("c", early, "5"),
            change("a", "", ""),
            change("d", late, "9"),
            change("e", early, "10"),
        ];
        let order: Vec<String> = in_order(changes)
            .into_iter()
            .map(|(change, _)| change.name)
            .collect();
        assert_eq!(order, ["c", "b", "a", "a", "e", "d"]);
    }
}
