//! Tests of `scheduler`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, NodeSpec, NodeStatus, PodSpec, PreferredSchedulingTerm, ResourceRequirements,
    Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proptest::prelude::*;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::condition::{Refusal, with_condition};
use super::decide::Decision;
use super::state::{Nomination, Outcome, node_of};
use super::*;

mod placement;
mod preemption;
mod storage;
mod waiting;

/// What there is besides nodes and pods.
#[derive(Default)]
struct Objects {
    claims: Vec<Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim>>,
    volumes: Vec<Arc<k8s_openapi::api::core::v1::PersistentVolume>>,
    classes: Vec<Arc<k8s_openapi::api::storage::v1::StorageClass>>,
    budgets: Vec<Arc<k8s_openapi::api::policy::v1::PodDisruptionBudget>>,
}

impl volumes::Lookup for Objects {
    fn claim(
        &self,
        _namespace: &str,
        name: &str,
    ) -> Option<Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim>> {
        let named = |claim: &&Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim>| {
            claim.metadata.name.as_deref() == Some(name)
        };
        self.claims.iter().find(named).cloned()
    }
    fn volume(&self, name: &str) -> Option<Arc<k8s_openapi::api::core::v1::PersistentVolume>> {
        let mut all = self.volumes.iter();
        all.find(|volume| volume.metadata.name.as_deref() == Some(name))
            .cloned()
    }
    fn volumes(&self) -> Vec<Arc<k8s_openapi::api::core::v1::PersistentVolume>> {
        self.volumes.clone()
    }
    fn class(&self, name: &str) -> Option<Arc<k8s_openapi::api::storage::v1::StorageClass>> {
        let mut all = self.classes.iter();
        all.find(|class| class.metadata.name.as_deref() == Some(name))
            .cloned()
    }
    fn budgets(
        &self,
        _namespace: &str,
    ) -> Vec<Arc<k8s_openapi::api::policy::v1::PodDisruptionBudget>> {
        self.budgets.clone()
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect()
}

fn node(name: &str, cpu: &str, memory: &str) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            allocatable: Some(quantities(&[
                ("cpu", cpu),
                ("memory", memory),
                ("pods", "110"),
            ])),
            ..NodeStatus::default()
        }),
    }
}

fn pod(name: &str, cpu: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            owner_references: Some(vec![OwnerReference {
                uid: "set".into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                image: Some("echo:1".into()),
                resources: Some(ResourceRequirements {
                    requests: Some(quantities(&[("cpu", cpu), ("memory", "64Mi")])),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

struct Bench {
    shared: Shared,
    now: Instant,
}

impl Bench {
    fn new(nodes: Vec<Node>) -> Self {
        Self::with(nodes, Objects::default())
    }

    fn with(nodes: Vec<Node>, objects: Objects) -> Self {
        let shared = Shared::new(7, Arc::new(objects));
        for node in nodes {
            let name = node.metadata.name.clone().unwrap();
            shared
                .lock()
                .node_changed(&name, None, Some(&Arc::new(node)));
        }
        let now = Instant::now();
        Self { shared, now }
    }

    fn add(&self, pod: Pod) {
        self.shared
            .lock()
            .pod_changed(None, Some(&Arc::new(pod)), self.now);
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.shared.lock().decide(self.now)
    }

    fn decide(&self) -> Vec<(String, Decision)> {
        self.outcomes()
            .into_iter()
            .map(|outcome| (outcome.request.uid().to_owned(), outcome.decision))
            .collect()
    }

    /// The only decision that is due.
    fn one(&self, pod: Pod) -> Decision {
        self.add(pod);
        let mut all = self.decide();
        assert_eq!(all.len(), 1);
        all.remove(0).1
    }
}

fn none(message: &str) -> Decision {
    Decision::None(message.to_owned())
}

fn on(node: &str) -> Decision {
    Decision::Node(node.to_owned())
}

#[test]
fn quantities_are_read_as_kubernetes_writes_them() {
    let milli = |text: &str| resources::milli(&Quantity(text.into()));
    assert_eq!(milli("1"), Some(1_000));
    assert_eq!(milli("100m"), Some(100));
    assert_eq!(milli("1.5"), Some(1_500));
    assert_eq!(milli("0.0001"), Some(1), "rounded up");
    assert_eq!(milli("1Ki"), Some(1_024_000));
    assert_eq!(milli("2e3"), Some(2_000_000));
    assert_eq!(milli("1500u"), Some(2));
    assert_eq!(milli("64Mi"), Some(64 * 1024 * 1024 * 1_000));
    for bad in ["", "x", "1x", "1e", "e5", "--1", "1e99"] {
        assert_eq!(milli(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_quantity_parser(text in ".{0,40}") {
        resources::milli(&Quantity(text));
    }
}

#[test]
fn nothing_fits_and_the_sentence_says_why() {
    let mut tainted = node("t", "8", "8Gi");
    tainted.spec.as_mut().unwrap().taints = Some(vec![Taint {
        key: "gpu".into(),
        value: Some("yes".into()),
        effect: "NoSchedule".into(),
        time_added: None,
    }]);
    let mut cordoned = node("c", "8", "8Gi");
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    let bench = Bench::new(vec![
        node("a", "1", "8Gi"),
        node("b", "1", "8Gi"),
        tainted,
        cordoned,
    ]);
    assert_eq!(
        bench.one(pod("p", "2")),
        none(
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/4 nodes are available: \
             4 Preemption is not helpful for scheduling."
        )
    );
    let bench = Bench::new(vec![node("a", "1", "8Gi")]);
    assert_eq!(
        bench.one(pod("p", "2")),
        none(
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
        )
    );
    let bench = Bench::new(vec![]);
    assert_eq!(
        bench.one(pod("p", "2")),
        none("no nodes available to schedule pods")
    );
}

#[test]
fn assumed_pods_take_their_room_and_their_end_makes_room() {
    let bench = Bench::new(vec![node("a", "1", "8Gi")]);
    assert_eq!(bench.one(pod("p", "700m")), on("a"));
    assert!(matches!(bench.one(pod("q", "700m")), Decision::None(_)));
    let bound = {
        let mut bound = pod("p", "700m");
        bound.spec.as_mut().unwrap().node_name = Some("a".into());
        Arc::new(bound)
    };
    let mut bench = bench;
    bench
        .shared
        .lock()
        .pod_changed(None, Some(&bound), bench.now);
    assert!(bench.decide().is_empty());
    bench
        .shared
        .lock()
        .pod_changed(Some(&bound), None, bench.now);
    assert!(bench.decide().is_empty(), "q still backs off");
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.decide(), [("q".to_owned(), on("a"))]);
}

#[test]
fn a_refused_binding_gives_the_room_back() {
    let mut bench = Bench::new(vec![node("a", "1", "8Gi")]);
    assert_eq!(bench.one(pod("p", "700m")), on("a"));
    bench.shared.lock().withdraw("p", bench.now);
    assert_eq!(bench.one(pod("q", "700m")), on("a"));
    bench.now += Duration::from_secs(1);
    assert!(matches!(bench.decide()[..], [(_, Decision::None(_))]));
}

#[test]
fn pods_of_one_owner_are_spread() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "8", "8Gi")).to_vec();
    let bench = Bench::new(nodes);
    for number in 0..9 {
        bench.add(pod(&format!("p{number}"), "10m"));
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, decision) in bench.decide() {
        let Decision::Node(node) = decision else {
            panic!("{decision:?}")
        };
        *counts.entry(node).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn the_emptier_node_wins() {
    let bench = Bench::new(vec![node("big", "16", "64Gi"), node("small", "2", "4Gi")]);
    assert_eq!(bench.one(pod("p", "1")), on("big"));
}

fn term(key: &str, operator: &str, values: &[&str]) -> NodeSelectorTerm {
    NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        }]),
        match_fields: None,
    }
}

#[test]
fn selectors_affinity_and_preferences() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "8", "8Gi")).to_vec();
    let bench = Bench::new(nodes);
    let mut selected = pod("p1", "10m");
    selected.spec.as_mut().unwrap().node_selector =
        Some([("kubernetes.io/hostname".to_owned(), "b".to_owned())].into());
    assert_eq!(bench.one(selected), on("b"));

    let with = |name: &str, affinity: NodeAffinity| {
        let mut pod = pod(name, "10m");
        pod.spec.as_mut().unwrap().affinity = Some(Affinity {
            node_affinity: Some(affinity),
            ..Affinity::default()
        });
        pod
    };
    let host = "kubernetes.io/hostname";
    let required = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![term(host, "In", &["c"])],
        }),
        ..NodeAffinity::default()
    };
    assert_eq!(bench.one(with("p2", required)), on("c"));
    let preferred = NodeAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![PreferredSchedulingTerm {
            weight: 100,
            preference: term(host, "In", &["b"]),
        }]),
        ..NodeAffinity::default()
    };
    let mut lonely = with("p3", preferred);
    lonely.metadata.owner_references = None;
    assert_eq!(bench.one(lonely), on("b"));
    let impossible = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![term(host, "NotIn", &["a", "b", "c"])],
        }),
        ..NodeAffinity::default()
    };
    assert_eq!(
        bench.one(with("p4", impossible)),
        none(
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        )
    );
}

#[test]
fn tolerations_open_tainted_nodes_and_soft_taints_are_avoided() {
    let taint = |effect: &str| Taint {
        key: "k".into(),
        value: Some("v".into()),
        effect: effect.into(),
        time_added: None,
    };
    let mut hard = node("hard", "8", "8Gi");
    hard.spec.as_mut().unwrap().taints = Some(vec![taint("NoExecute")]);
    let mut soft = node("soft", "8", "8Gi");
    soft.spec.as_mut().unwrap().taints = Some(vec![taint("PreferNoSchedule")]);
    let bench = Bench::new(vec![hard, soft, node("plain", "8", "8Gi")]);
    assert_eq!(bench.one(pod("p", "10m")), on("plain"));
    let mut tolerant = pod("q", "10m");
    let spec = tolerant.spec.as_mut().unwrap();
    spec.tolerations = Some(vec![Toleration {
        operator: Some("Exists".into()),
        ..Toleration::default()
    }]);
    spec.node_selector = Some([("kubernetes.io/hostname".to_owned(), "hard".to_owned())].into());
    assert_eq!(bench.one(tolerant), on("hard"));
}

#[test]
fn host_ports_collide_by_address_and_protocol() {
    let bench = Bench::new(vec![node("a", "8", "8Gi")]);
    let with = |name: &str, address: &str, protocol: &str| {
        let mut pod = pod(name, "10m");
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            container_port: 80,
            host_port: Some(8080),
            host_ip: Some(address.into()),
            protocol: Some(protocol.into()),
            name: None,
        }]);
        pod
    };
    assert_eq!(bench.one(with("p1", "127.0.0.1", "TCP")), on("a"));
    assert_eq!(bench.one(with("p2", "127.0.0.2", "TCP")), on("a"));
    assert_eq!(bench.one(with("p3", "", "UDP")), on("a"));
    assert_eq!(
        bench.one(with("p4", "0.0.0.0", "TCP")),
        none(
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
             preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
    );
}

#[test]
fn init_containers_and_sidecars_count_as_documented() {
    let container = |cpu: &str, policy: Option<&str>| Container {
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", cpu)])),
            ..ResourceRequirements::default()
        }),
        restart_policy: policy.map(Into::into),
        ..Container::default()
    };
    let mut pod = pod("p", "1");
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers = Some(vec![
        container("100m", Some("Always")),
        container("1500m", None),
    ]);
    spec.overhead = Some(quantities(&[("cpu", "10m")]));
    // max(1000 + 100, 1500 + 100) + 10
    assert_eq!(resources::requested(&pod).0.milli_cpu, 1_610);
}

#[test]
fn higher_priority_goes_first() {
    let bench = Bench::new(vec![node("a", "1", "8Gi")]);
    bench.add(pod("low", "800m"));
    let mut high = pod("high", "800m");
    high.spec.as_mut().unwrap().priority = Some(10);
    bench.add(high);
    let decisions = bench.decide();
    assert_eq!(decisions[0], ("high".to_owned(), on("a")));
    assert!(matches!(decisions[1].1, Decision::None(_)));
}

#[test]
fn pods_of_a_node_that_is_not_known_yet_are_counted_when_it_is() {
    let bench = Bench::new(vec![]);
    let mut early = pod("early", "700m");
    early.spec.as_mut().unwrap().node_name = Some("a".into());
    bench.add(early);
    bench
        .shared
        .lock()
        .node_changed("a", None, Some(&Arc::new(node("a", "1", "8Gi"))));
    assert!(matches!(bench.one(pod("p", "700m")), Decision::None(_)));
}

#[test]
fn gated_foreign_and_finished_pods_are_left_alone() {
    let bench = Bench::new(vec![node("a", "1", "8Gi")]);
    let mut foreign = pod("foreign", "1m");
    foreign.spec.as_mut().unwrap().scheduler_name = Some("other".into());
    bench.add(foreign);
    let mut gated = pod("gated", "1m");
    gated.spec.as_mut().unwrap().scheduling_gates = Some(vec![Default::default()]);
    bench.add(gated);
    assert!(bench.decide().is_empty());
}

#[test]
fn the_condition_is_written_once() {
    let now = jiff::Timestamp::from_second(1).unwrap();
    let write = |pod: &Pod, refusal, why| with_condition(pod, refusal, why, Nomination::Kept, now);
    let mut pod = pod("p", "1");
    pod.metadata.generation = Some(3);
    let mut changed = write(&pod, Refusal::Unschedulable, "why").unwrap();
    assert!(write(&changed, Refusal::Unschedulable, "why").is_none());
    assert!(write(&changed, Refusal::Unschedulable, "other").is_some());
    let failed = write(&changed, Refusal::Error, "why").unwrap();
    let status = failed.status.unwrap();
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("SchedulerError"));
    assert_eq!(condition.observed_generation, Some(3));
    changed.metadata.generation = Some(4);
    assert!(write(&changed, Refusal::Unschedulable, "why").is_some());
}

#[test]
fn a_pod_that_asks_for_nothing_goes_where_most_is_left() {
    let bench = Bench::new(vec![node("uneven", "4", "4Gi"), node("even", "4", "4Gi")]);
    let alone = |name: &str| {
        let mut pod = pod(name, "0");
        pod.metadata.owner_references = None;
        pod
    };
    for (on, cpu, memory) in [("uneven", "2", "0"), ("even", "1", "1424Mi")] {
        let mut pod = alone(on);
        let spec = pod.spec.as_mut().unwrap();
        spec.node_name = Some(on.into());
        spec.containers[0].resources.as_mut().unwrap().requests =
            Some(quantities(&[("cpu", cpu), ("memory", memory)]));
        bench.add(pod);
    }
    let mut nothing = alone("nothing");
    nothing.spec.as_mut().unwrap().containers[0].resources = None;
    assert_eq!(bench.one(nothing), on("uneven"));
}

proptest! {
    /// No node is ever filled beyond what it has, whatever comes and goes.
    #[test]
    fn nodes_are_never_overfull(
        cpus in proptest::collection::vec(1_i64..4, 1..5),
        steps in proptest::collection::vec((0_u8..3, 1_i64..1_500), 1..60),
    ) {
        let nodes = cpus.iter().enumerate()
            .map(|(number, cpu)| node(&format!("n{number}"), &cpu.to_string(), "64Gi"))
            .collect();
        let mut bench = Bench::new(nodes);
        let mut running: Vec<Arc<Pod>> = Vec::new();
        for (number, (what, milli)) in steps.into_iter().enumerate() {
            bench.now += Duration::from_secs(20);
            if what == 0 && !running.is_empty() {
                let gone = running.remove(usize::try_from(milli).unwrap() % running.len());
                bench.shared.lock().pod_changed(Some(&gone), None, bench.now);
            } else {
                bench.add(pod(&format!("p{number}"), &format!("{milli}m")));
            }
            let decisions = bench.shared.lock().decide(bench.now);
            for Outcome { request, decision, .. } in decisions {
                if let Decision::Node(name) = decision {
                    let mut bound = request.pod.as_ref().clone();
                    bound.spec.as_mut().unwrap().node_name = Some(name);
                    let bound = Arc::new(bound);
                    bench.shared.lock().pod_changed(Some(&request.pod), Some(&bound), bench.now);
                    running.push(bound);
                }
            }
            let state = bench.shared.lock();
            for (_, info) in state.snapshot.nodes() {
                prop_assert!(info.usage.requested.milli_cpu <= info.allocatable.milli_cpu);
                let real: i64 = running.iter()
                    .filter(|pod| node_of(pod) == Some(info.name.as_str()))
                    .map(|pod| resources::requested(pod).0.milli_cpu)
                    .sum();
                prop_assert_eq!(info.usage.requested.milli_cpu, real);
            }
        }
    }
}
