//! The claims of a pod: on which nodes their volumes can be, which volume a claim without one gets there, or
//! that one has to be made. Pure; the objects are looked up through [`Lookup`].

pub(crate) mod matching;
mod zone;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;

use super::affinity::selects;
use super::request::Request;
use crate::cache::Cache;

/// Objects besides nodes and pods that decisions need.
pub(super) trait Lookup: Send + Sync {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn volumes(&self) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>>;
}

impl Lookup for Cache {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }
    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.list("")
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.storage_classes.get("", name)
    }
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        self.disruption_budgets.list(namespace)
    }
}

/// Why a node is not for the pod's volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Obstacle {
    NodeAffinity,
    NoVolume,
    /// A volume is in another zone or region.
    Zone,
}

/// What has to be done for a claim before its pod is bound.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Bind {
        claim: Arc<PersistentVolumeClaim>,
        volume: Arc<PersistentVolume>,
    },
    Provision {
        claim: Arc<PersistentVolumeClaim>,
    },
}

/// A claim that has no volume yet.
#[derive(Debug)]
struct Open {
    claim: Arc<PersistentVolumeClaim>,
    /// Volumes that it could have, the smallest first.
    candidates: Vec<Arc<PersistentVolume>>,
    class: Arc<StorageClass>,
}

#[derive(Debug, Default)]
pub(super) struct Needs {
    bound: Vec<NodeSelector>,
    zones: Vec<zone::Place>,
    open: Vec<Open>,
    /// Claims that only one pod may use.
    pub(super) exclusive: Vec<String>,
}

/// A class whose volumes are not made by anybody.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

impl Needs {
    /// What the claims of the pod need; an error is the reason why it can be on no node.
    pub(super) fn new(request: &Request, lookup: &dyn Lookup) -> Result<Option<Self>, String> {
        if request.claims.is_empty() {
            return Ok(None);
        }
        let mut needs = Self::default();
        let mut waiting = false;
        for key in &request.claims {
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            let claim = lookup
                .claim(namespace, name)
                .ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if matching::modes(&claim).any(|mode| mode == "ReadWriteOncePod") {
                needs.exclusive.push(key.clone());
            }
            match matching::volume_name(&claim) {
                Some(volume) if matching::is_bound(&claim) => {
                    let volume = lookup
                        .volume(volume)
                        .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
                    needs.bound.extend(node_selector(&volume).cloned());
                    needs.zones.extend(zone::places(&volume));
                }
                Some(_) => waiting = true,
                None => match wait_for_consumer(&claim, lookup) {
                    Some(class) => needs.open(claim, class, lookup),
                    None => waiting = true,
                },
            }
        }
        if waiting {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        Ok(Some(needs))
    }

    fn open(
        &mut self,
        claim: Arc<PersistentVolumeClaim>,
        class: Arc<StorageClass>,
        lookup: &dyn Lookup,
    ) {
        let mut candidates = lookup.volumes();
        candidates.retain(|volume| matching::fits(volume, &claim));
        candidates.sort_by_key(|volume| (matching::size(volume), volume.metadata.name.clone()));
        self.open.push(Open {
            claim,
            candidates,
            class,
        });
    }

    /// What has to be done when the pod goes to the node.
    pub(super) fn on(&self, node: &Node) -> Result<Vec<Step>, Obstacle> {
        if !self.bound.iter().all(|selector| selects(selector, node)) {
            return Err(Obstacle::NodeAffinity);
        }
        let mut steps = Vec::new();
        let mut taken: Vec<Option<&str>> = Vec::new();
        for open in &self.open {
            let found = open.candidates.iter().find(|volume| {
                !taken.contains(&volume.metadata.name.as_deref())
                    && node_selector(volume).is_none_or(|selector| selects(selector, node))
            });
            match found {
                Some(volume) => {
                    taken.push(volume.metadata.name.as_deref());
                    steps.push(Step::Bind {
                        claim: Arc::clone(&open.claim),
                        volume: Arc::clone(volume),
                    });
                }
                None if can_be_made(&open.class, node) => steps.push(Step::Provision {
                    claim: Arc::clone(&open.claim),
                }),
                None => return Err(Obstacle::NoVolume),
            }
        }
        if !zone::all_at(&self.zones, node) {
            return Err(Obstacle::Zone);
        }
        Ok(steps)
    }
}

fn node_selector(volume: &PersistentVolume) -> Option<&NodeSelector> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    affinity.required.as_ref()
}

fn wait_for_consumer(
    claim: &PersistentVolumeClaim,
    lookup: &dyn Lookup,
) -> Option<Arc<StorageClass>> {
    let class = lookup.class(matching::class_of(claim)?)?;
    (class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")).then_some(class)
}

fn can_be_made(class: &StorageClass, node: &Node) -> bool {
    if class.provisioner == NO_PROVISIONER {
        return false;
    }
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    topologies.is_empty()
        || topologies.iter().any(|term| {
            term.match_label_expressions.iter().flatten().all(|expr| {
                labels
                    .and_then(|labels| labels.get(&expr.key))
                    .is_some_and(|value| expr.values.contains(value))
            })
        })
}
