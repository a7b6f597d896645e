//! When pods that fit nowhere are tried again.

use serde_json::{Value, json};

use super::*;

const ZONE: &str = "topology.kubernetes.io/zone";
/// More than any back-off.
const LONG: Duration = Duration::from_secs(11);

fn change(bench: &Bench, old: &mut Arc<Node>, how: impl FnOnce(&mut Node)) {
    let mut changed = old.as_ref().clone();
    how(&mut changed);
    let changed = Arc::new(changed);
    let name = changed.metadata.name.clone().unwrap();
    let mut state = bench.shared.lock();
    state.node_changed(&name, Some(old), Some(&changed));
    *old = changed;
}

fn cordon(node: &mut Node, is: bool) {
    node.spec.as_mut().unwrap().unschedulable = Some(is);
}

fn resize(node: &mut Node, cpu: &str) {
    let allocatable = &mut node.status.as_mut().unwrap().allocatable;
    let cpu = Quantity(cpu.to_owned());
    allocatable.as_mut().unwrap().insert("cpu".to_owned(), cpu);
}

fn taint(node: &mut Node, taints: Vec<Taint>) {
    node.spec.as_mut().unwrap().taints = Some(taints);
}

fn never() -> Taint {
    Taint {
        key: "k".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    }
}

#[test]
fn only_what_makes_room_on_a_node_wakes_pods_that_wait() {
    let mut first = Arc::new(node("a", "1", "8Gi"));
    let mut bench = Bench::new(vec![first.as_ref().clone()]);
    bench.add(pod("p", "2"));
    assert_eq!(bench.decide().len(), 1);
    let mut woken_by = |how: &dyn Fn(&mut Node)| {
        bench.now += LONG;
        change(&bench, &mut first, how);
        !bench.decide().is_empty()
    };
    assert!(!woken_by(&|node| {
        node.spec.as_mut().unwrap().pod_cidr = Some("10.0.0.0/24".into());
    }));
    assert!(!woken_by(&|node| resize(node, "1500m")), "it asks for more");
    assert!(!woken_by(&|node| cordon(node, true)));
    assert!(!woken_by(&|node| resize(node, "2")), "it is cordoned");
    assert!(!woken_by(&|node| taint(node, vec![never()])));
    assert!(!woken_by(&|node| cordon(node, false)), "it is tainted");
    assert!(!woken_by(
        &|node| node.spec.as_mut().unwrap().provider_id = Some("x".into())
    ));
    assert!(woken_by(&|node| taint(node, Vec::new())));
}

/// The decisions of which the loop gets all that it can, in the order in which they were made.
fn all(bench: &Bench) -> Vec<(String, Decision)> {
    let mut all = Vec::new();
    loop {
        let next = bench.decide();
        if next.is_empty() {
            return all;
        }
        all.extend(next);
    }
}

#[test]
fn as_many_are_tried_again_as_there_is_room_for() {
    let mut full = Arc::new(node("a", "0", "8Gi"));
    let mut bench = Bench::new(vec![full.as_ref().clone()]);
    for number in 0..1_000 {
        bench.add(pod(&format!("p{number:03}"), "1"));
    }
    let mut late = pod("late", "1");
    late.spec.as_mut().unwrap().priority = Some(1);
    bench.add(late);
    assert_eq!(all(&bench).len(), 1_001);
    bench.now += LONG;
    change(&bench, &mut full, |node| resize(node, "3"));
    let tried = all(&bench);
    let names: Vec<&str> = tried.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["late", "p000", "p001"],
        "the most important and the oldest"
    );
    assert!(tried.iter().all(|(_, decision)| *decision == on("a")));
    // What one leaves is room for one.
    let mut gone = pod("p000", "1");
    gone.spec.as_mut().unwrap().node_name = Some("a".into());
    let gone = Arc::new(gone);
    bench
        .shared
        .lock()
        .pod_changed(None, Some(&gone), bench.now);
    assert!(all(&bench).is_empty());
    bench
        .shared
        .lock()
        .pod_changed(Some(&gone), None, bench.now);
    assert_eq!(all(&bench), [("p002".to_owned(), on("a"))]);
}

#[test]
fn room_that_the_first_one_does_not_take_is_for_the_next() {
    let mut bench = Bench::new(vec![node("a", "1", "8Gi")]);
    let mut full = Arc::new(node("b", "0", "8Gi"));
    bench.shared.lock().node_changed("b", None, Some(&full));
    let host_port = |name: &str, cpu: &str| {
        let mut pod = pod(name, cpu);
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            container_port: 80,
            host_port: Some(80),
            ..ContainerPort::default()
        }]);
        pod
    };
    // It takes all of one node, and the port of the other is taken.
    let mut there = host_port("there", "0");
    there.spec.as_mut().unwrap().node_name = Some("b".into());
    bench.add(there);
    assert_eq!(bench.one(pod("first", "1")), on("a"));
    bench.add(host_port("wants", "1"));
    bench.add(pod("next", "1"));
    assert_eq!(all(&bench).len(), 2);
    bench.now += LONG;
    change(&bench, &mut full, |node| resize(node, "1"));
    let tried = all(&bench);
    assert!(matches!(&tried[0], (name, Decision::None(_)) if name == "wants"));
    assert_eq!(tried[1], ("next".to_owned(), on("b")));
}

#[test]
fn pods_that_are_alike_are_refused_alike() {
    let bench = Bench::new(vec![node("a", "2", "8Gi"), node("b", "1", "8Gi")]);
    let tolerant = |name: &str| {
        let mut pod = pod(name, "3");
        pod.spec.as_mut().unwrap().tolerations = Some(vec![Toleration {
            operator: Some("Exists".into()),
            ..Toleration::default()
        }]);
        pod
    };
    let mut tainted = node("t", "4", "8Gi");
    taint(&mut tainted, vec![never()]);
    let tainted = Arc::new(tainted);
    bench.shared.lock().node_changed("t", None, Some(&tainted));
    for name in ["p", "q"] {
        bench.add(pod(name, "3"));
    }
    bench.add(tolerant("r"));
    bench.add(pod("s", "2"));
    let all = all(&bench);
    assert_eq!(all[0].1, all[1].1);
    assert_eq!(all[2].1, on("t"));
    assert_eq!(all[3].1, on("a"));
}

/// A world in which things happen, and the scheduler.
struct World {
    bench: Bench,
    nodes: Vec<Arc<Node>>,
    running: Vec<Arc<Pod>>,
    /// By uid.
    waiting: BTreeMap<String, Arc<Pod>>,
}

fn of(name: &str, kind: u8, milli: i64) -> Pod {
    let mut pod = pod(name, &format!("{milli}m"));
    let app = if kind.is_multiple_of(2) { "x" } else { "y" };
    pod.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
    let selector = json!({"matchLabels": {"app": app}});
    let more: Value = match kind {
        0 | 1 => json!({}),
        2 => json!({"tolerations": [{"operator": "Exists"}]}),
        3 => json!({"priority": 5}),
        4 => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {"matchLabels": {"app": "y"}}, "topologyKey": ZONE}]}}})
        }
        5 => json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": ZONE}]}}}),
        6 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": ZONE,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
        _ => json!({"nodeSelector": {(ZONE): "z1"}}),
    };
    let mut whole = serde_json::to_value(&pod).unwrap();
    for (key, value) in more.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(Vec::new()),
            nodes: Vec::new(),
            running: Vec::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn gone(&mut self, uid: &str) {
        let Some(position) = self
            .running
            .iter()
            .position(|pod| pod.metadata.uid.as_deref() == Some(uid))
        else {
            return;
        };
        let gone = self.running.swap_remove(position);
        let mut state = self.bench.shared.lock();
        state.pod_changed(Some(&gone), None, self.bench.now);
    }

    fn step(&mut self, number: usize, what: u8, kind: u8, amount: i64) {
        let pick = |of: usize| usize::try_from(amount).unwrap() % of.max(1);
        let at = pick(self.nodes.len());
        match what {
            0..=3 => {
                let pod = of(&format!("p{number:02}"), kind, amount);
                self.waiting
                    .insert(pod.metadata.uid.clone().unwrap(), Arc::new(pod.clone()));
                self.bench.add(pod);
            }
            4 | 5 if !self.running.is_empty() => {
                let gone = &self.running[pick(self.running.len())];
                let uid = gone.metadata.uid.clone().unwrap();
                self.gone(&uid);
            }
            6 if !self.nodes.is_empty() => change(&self.bench, &mut self.nodes[at], |node| {
                let was = node.spec.as_ref().unwrap().unschedulable == Some(true);
                cordon(node, !was);
            }),
            7 if !self.nodes.is_empty() => change(&self.bench, &mut self.nodes[at], |node| {
                let taints = if amount % 2 == 0 {
                    vec![never()]
                } else {
                    Vec::new()
                };
                taint(node, taints);
            }),
            8 if !self.nodes.is_empty() => {
                change(&self.bench, &mut self.nodes[at], |node| {
                    resize(node, &format!("{}m", amount * 2))
                });
            }
            9 if !self.nodes.is_empty() => change(&self.bench, &mut self.nodes[at], |node| {
                let labels = node.metadata.labels.as_mut().unwrap();
                labels.insert(ZONE.to_owned(), format!("z{}", amount % 3));
            }),
            _ => {
                let mut new = node(
                    &format!("n{number:02}"),
                    &format!("{}m", amount * 2),
                    "64Gi",
                );
                let labels = new.metadata.labels.as_mut().unwrap();
                labels.insert(ZONE.to_owned(), format!("z{}", amount % 3));
                let new = Arc::new(new);
                let name = new.metadata.name.clone().unwrap();
                self.bench
                    .shared
                    .lock()
                    .node_changed(&name, None, Some(&new));
                self.nodes.push(new);
            }
        }
    }

    /// Does what the scheduler says until it says nothing more.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.bench.now += LONG;
            let outcomes = self.bench.outcomes();
            if outcomes.is_empty() {
                return;
            }
            for outcome in outcomes {
                let uid = outcome.request.uid().to_owned();
                if let Some(made) = &outcome.preemption {
                    for victim in &made.victims {
                        self.gone(victim.uid());
                    }
                }
                let mut now = self.waiting[&uid].as_ref().clone();
                match &outcome.decision {
                    Decision::Node(node) => {
                        now.spec.as_mut().unwrap().node_name = Some(node.clone())
                    }
                    Decision::None(_) => {
                        let node = match outcome.nomination() {
                            Nomination::Of(node) => Some(node.to_owned()),
                            Nomination::Lost => None,
                            Nomination::Kept => continue,
                        };
                        now.status.get_or_insert_default().nominated_node_name = node;
                    }
                }
                let now = Arc::new(now);
                let old = self.waiting.insert(uid.clone(), Arc::clone(&now));
                let mut state = self.bench.shared.lock();
                state.pod_changed(old.as_ref(), Some(&now), self.bench.now);
                drop(state);
                if node_of(&now).is_some() {
                    self.waiting.remove(&uid);
                    self.running.push(now);
                }
            }
        }
        panic!("it comes to no end");
    }

    /// What a scheduler that comes anew would decide for one of those that wait.
    fn anew(&self, waiting: &Pod) -> Decision {
        let bench = Bench::new(
            self.nodes
                .iter()
                .map(|node| node.as_ref().clone())
                .collect(),
        );
        for running in &self.running {
            bench.add(running.as_ref().clone());
        }
        bench.one(waiting.clone())
    }
}

proptest! {
    /// Nobody waits for what is there: whatever happens, whom it helps is tried again.
    #[test]
    fn who_waits_fits_nowhere(
        steps in proptest::collection::vec((0_u8..11, 0_u8..8, 1_i64..1_500), 1..24),
    ) {
        let mut world = World::new();
        for (number, (what, kind, amount)) in steps.into_iter().enumerate() {
            world.step(number, what, kind, amount);
            world.settle();
            for waiting in world.waiting.values() {
                let decision = world.anew(waiting);
                prop_assert!(matches!(decision, Decision::None(_)), "{:?}: {decision:?}", waiting.metadata.name);
            }
        }
    }
}
