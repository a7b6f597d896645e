//! What the scheduler needs to know of a pod, worked out once per version. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAffinity, Pod, PodSpec, Toleration};

use super::resources::{self, Resources};
use super::selector::{Labels, Selector, Term, weighted};

/// Reason of the condition `DisruptionTarget` of a pod that is put out.
pub(super) const PREEMPTED: &str = "PreemptionByScheduler";

/// A port of the host that a container wants. An empty address is all addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    pub(super) address: String,
    pub(super) protocol: String,
    pub(super) port: i32,
}

impl HostPort {
    pub(super) fn collides(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_empty()
                || other.address.is_empty()
                || self.address == other.address)
    }
}

/// Pods that no selector tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) namespace: String,
    pub(super) labels: Labels,
    /// It is being deleted: it does not count when pods are spread.
    pub(super) going: bool,
}

/// What a pod says of other pods.
#[derive(Debug)]
pub(super) struct Affinity {
    /// Equal for pods that say the same.
    pub(super) identity: String,
    pub(super) required: Vec<Term>,
    pub(super) anti: Vec<Term>,
    /// With weights, which are negative for anti-affinity.
    pub(super) preferred: Vec<(i64, Term)>,
}

impl Affinity {
    /// The labels of nodes that its terms name.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let preferred = self.preferred.iter().map(|(_, term)| term);
        let all = self.required.iter().chain(&self.anti).chain(preferred);
        all.map(|term| term.key.as_str())
    }

    fn new(spec: &PodSpec, class: &Class) -> Option<Arc<Self>> {
        let affinity = spec.affinity.as_ref()?;
        let (near, far) = (
            affinity.pod_affinity.as_ref(),
            affinity.pod_anti_affinity.as_ref(),
        );
        if near.is_none() && far.is_none() {
            return None;
        }
        let term = |term| Term::new(term, &class.namespace, &class.labels);
        let required = near.and_then(|all| {
            all.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let anti = far.and_then(|all| {
            all.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let mut preferred = weighted(
            near.and_then(|all| {
                all.preferred_during_scheduling_ignored_during_execution
                    .as_ref()
            }),
            1,
            &class.namespace,
            &class.labels,
        );
        preferred.extend(weighted(
            far.and_then(|all| {
                all.preferred_during_scheduling_ignored_during_execution
                    .as_ref()
            }),
            -1,
            &class.namespace,
            &class.labels,
        ));
        let text = serde_json::to_string(&(near, far, &class.namespace)).unwrap_or_default();
        Some(Arc::new(Self {
            identity: text,
            required: required.into_iter().flatten().map(term).collect(),
            anti: anti.into_iter().flatten().map(term).collect(),
            preferred,
        }))
    }
}

/// One topology spread constraint.
#[derive(Debug, Clone)]
pub(super) struct Constraint {
    pub(super) key: String,
    pub(super) max_skew: i64,
    pub(super) min_domains: i64,
    pub(super) hard: bool,
    pub(super) selector: Selector,
    /// Whether nodes that the pod may not be on count as domains.
    pub(super) honor_affinity: bool,
    pub(super) honor_taints: bool,
}

fn constraints(spec: &PodSpec, labels: &Labels) -> Vec<Constraint> {
    let all = spec.topology_spread_constraints.iter().flatten();
    all.map(|constraint| {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        selector.with_keys(constraint.match_label_keys.as_ref(), labels, true);
        Constraint {
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            hard: constraint.when_unsatisfiable != "ScheduleAnyway",
            selector,
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    })
    .collect()
}

/// What a pod is to others on its node. It does not keep the pod itself: there are many, and who needs more reads the cache.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) standing: Standing,
    /// What it takes from a node.
    pub(super) resources: Resources,
    /// What it counts as when nodes are compared.
    pub(super) weight: Resources,
    pub(super) ports: Vec<HostPort>,
    /// Pods of one group are spread over nodes: those of one controller, else those with equal labels.
    pub(super) group: u64,
    pub(super) priority: i32,
    pub(super) class: Arc<Class>,
    pub(super) affinity: Option<Arc<Affinity>>,
    /// Its claims, as `namespace/name`.
    pub(super) claims: Vec<String>,
}

impl Load {
    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    pub(super) fn is_going(&self) -> bool {
        self.class.going
    }

    /// Whether it goes because another pod puts it out. Who ends for another reason makes no room for anybody in
    /// particular.
    pub(super) fn is_victim(&self) -> bool {
        self.is_going() && self.standing.put_out
    }
}

/// What of a pod changes while it is on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Since when it runs; what has not begun is the youngest.
    pub(super) started: jiff::Timestamp,
    /// It was told that it is put out for another.
    put_out: bool,
}

impl Standing {
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let mut conditions = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        Self {
            started: status
                .and_then(|status| status.start_time.as_ref())
                .map_or(jiff::Timestamp::MAX, |time| time.0),
            put_out: conditions.any(|condition| {
                condition.type_ == "DisruptionTarget"
                    && condition.status == "True"
                    && condition.reason.as_deref() == Some(PREEMPTED)
            }),
        }
    }
}

/// A pod that wants a node.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) load: Arc<Load>,
    pub(super) pod: Arc<Pod>,
    pub(super) constraints: Vec<Constraint>,
    /// Names of nodes, when it can be on no others.
    pub(super) only: Option<Vec<String>>,
    pub(super) images: Vec<String>,
}

impl Deref for Request {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.load
    }
}

impl Load {
    /// Its class is a known one where `known` has an equal one.
    pub(super) fn new(pod: &Pod, known: impl FnOnce(&Class) -> Option<Arc<Class>>) -> Self {
        let (resources, weight) = resources::requested(pod);
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let class = Class {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            going: pod.metadata.deletion_timestamp.is_some(),
        };
        let class = known(&class).unwrap_or_else(|| Arc::new(class));
        Self {
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            standing: Standing::of(pod),
            resources,
            weight,
            ports: ports(spec),
            group: group(pod),
            priority: spec.priority.unwrap_or(0),
            affinity: Affinity::new(spec, &class),
            claims: claims(pod, spec, &class.namespace),
            class,
        }
    }
}

impl Request {
    pub(super) fn new(pod: &Arc<Pod>, load: Load) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        Self {
            constraints: constraints(spec, &load.class.labels),
            only: only(spec),
            images: images(spec),
            load: Arc::new(load),
            pod: Arc::clone(pod),
        }
    }

    pub(super) fn tolerations(&self) -> &[Toleration] {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default()
    }

    pub(super) fn node_affinity(&self) -> Option<&NodeAffinity> {
        let affinity = self.pod.spec.as_ref()?.affinity.as_ref()?;
        affinity.node_affinity.as_ref()
    }

    /// Whether the other one can be where it can be, as long as nothing but nodes matters for either.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (Some(spec), Some(others)) = (&self.pod.spec, &other.pod.spec) else {
            return false;
        };
        self.resources == other.resources
            && self.ports == other.ports
            && self.priority == other.priority
            && self.preempts() == other.preempts()
            && self.nominated() == other.nominated()
            && self.claims == other.claims
            && spec.node_selector == others.node_selector
            && spec.tolerations == others.tolerations
            && spec.affinity == others.affinity
            && spec.topology_spread_constraints == others.topology_spread_constraints
    }

    /// Whether it may put others out.
    pub(super) fn preempts(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never")
    }

    /// Where room is being made for it.
    pub(super) fn nominated(&self) -> Option<&str> {
        let status = self.pod.status.as_ref()?;
        let node = status.nominated_node_name.as_deref()?;
        (!node.is_empty()).then_some(node)
    }
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let host_network = spec.host_network == Some(true);
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = match port.host_port {
                Some(number) if number > 0 => number,
                _ if host_network => port.container_port,
                _ => return None,
            };
            let address = port.host_ip.clone().unwrap_or_default();
            Some(HostPort {
                address: if address == "0.0.0.0" || address == "::" {
                    String::new()
                } else {
                    address
                },
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// Every term names nodes: those of all of them together.
fn only(spec: &PodSpec) -> Option<Vec<String>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut names = Vec::new();
    for term in &required.node_selector_terms {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let named = fields
            .iter()
            .find(|field| field.key == "metadata.name" && field.operator == "In")?;
        names.extend(named.values.iter().flatten().cloned());
    }
    Some(names)
}

/// Images as nodes name them: with a tag.
fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    containers
        .filter_map(|container| container.image.as_deref())
        .map(|image| {
            let name = image.rsplit('/').next().unwrap_or(image);
            if name.contains(':') || name.contains('@') {
                image.to_owned()
            } else {
                format!("{image}:latest")
            }
        })
        .collect()
}

fn claims(pod: &Pod, spec: &PodSpec, namespace: &str) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|volume| {
            let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => source.claim_name.clone(),
                (None, Some(_)) => format!("{name}-{}", volume.name),
                (None, None) => return None,
            };
            Some(format!("{namespace}/{claim}"))
        })
        .collect()
}

fn group(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.metadata.namespace.hash(&mut hasher);
    let owners = pod.metadata.owner_references.iter().flatten();
    match owners.clone().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid.hash(&mut hasher),
        None => pod.metadata.labels.hash(&mut hasher),
    }
    hasher.finish()
}
