//! Where pods go because of other pods, labels and topologies.

use serde_json::{Value, json};

use super::*;
use crate::scheduler::selector::Labels;

fn from(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

/// A pod with labels and a spec.
fn labeled(name: &str, app: &str, spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    from(
        json!({"metadata": {"name": name, "uid": name, "namespace": "ns", "labels": {"app": app}}, "spec": spec}),
    )
}

fn running(name: &str, app: &str, node: &str) -> Pod {
    labeled(name, app, json!({"nodeName": node}))
}

fn zoned(name: &str, zone: &str) -> Node {
    let mut node = node(name, "8", "8Gi");
    let labels = node.metadata.labels.as_mut().unwrap();
    labels.insert("topology.kubernetes.io/zone".into(), zone.into());
    node
}

fn three() -> Vec<Node> {
    vec![zoned("a", "x"), zoned("b", "x"), zoned("c", "y")]
}

fn near(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

#[test]
fn a_pod_goes_where_its_friends_are() {
    let bench = Bench::new(three());
    bench.add(running("db", "db", "c"));
    let wish = json!({"affinity": {"podAffinity": {(REQUIRED): [near("db", ZONE)]}}});
    assert_eq!(bench.one(labeled("web", "web", wish)), on("c"));
    let nobody = json!({"affinity": {"podAffinity": {(REQUIRED): [near("none", ZONE)]}}});
    assert_eq!(
        bench.one(labeled("lonely", "web", nobody)),
        none(
            "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. preemption: 0/3 nodes \
             are available: 3 Preemption is not helpful for scheduling."
        )
    );
    // The first of those that want each other.
    let own = json!({"affinity": {"podAffinity": {(REQUIRED): [near("new", ZONE)]}}});
    assert!(matches!(
        bench.one(labeled("first", "new", own)),
        Decision::Node(_)
    ));
}

#[test]
fn a_parked_pod_follows_its_friend() {
    let mut bench = Bench::new(three());
    let wish = json!({"affinity": {"podAffinity": {(REQUIRED): [near("db", HOST)]}}});
    assert!(matches!(
        bench.one(labeled("web", "web", wish)),
        Decision::None(_)
    ));
    bench.add(running("db", "db", "b"));
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.decide(), [("web".to_owned(), on("b"))]);
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let bench = Bench::new(three());
    let alone = json!({"nodeName": "c", "affinity": {"podAntiAffinity": {(REQUIRED): [near("web", ZONE)]}}});
    bench.add(labeled("hermit", "hermit", alone));
    for number in 0..4 {
        let Decision::Node(node) = bench.one(labeled(&format!("w{number}"), "web", json!({})))
        else {
            panic!("there is room in zone x");
        };
        assert_ne!(node, "c");
    }
    let apart = json!({"affinity": {"podAntiAffinity": {(REQUIRED): [near("web", ZONE)]}}});
    assert_eq!(bench.one(labeled("far", "far", apart)), on("c"));
    let spread = json!({"affinity": {"podAntiAffinity": {(REQUIRED): [near("x", HOST)]}}});
    for number in 0..3 {
        let name = format!("x{number}");
        assert!(matches!(
            bench.one(labeled(&name, "x", spread.clone())),
            Decision::Node(_)
        ));
    }
    assert_eq!(
        bench.one(labeled("x3", "x", spread)),
        none(
            "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 \
             nodes are available: 3 No preemption victims found for incoming pod."
        )
    );
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    let bench = Bench::new(three());
    let team = Labels::from([("team".to_owned(), "a".to_owned())]);
    bench.shared.lock().namespace_changed("other", Some(team));
    let mut db = running("db", "db", "b");
    db.metadata.namespace = Some("other".into());
    bench.add(db);
    let mut term = near("db", HOST);
    let wish = |term: &Value| json!({"affinity": {"podAffinity": {(REQUIRED): [term]}}});
    assert!(matches!(
        bench.one(labeled("no", "web", wish(&term))),
        Decision::None(_)
    ));
    term["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
    assert_eq!(bench.one(labeled("yes", "web", wish(&term))), on("b"));
}

#[test]
fn preferences_between_pods_are_symmetric() {
    let bench = Bench::new(three());
    bench.add(running("db", "db", "b"));
    let wish = |weight: i64, kind: &str, app: &str| {
        json!({"affinity": {(kind): {(PREFERRED): [
            {"weight": weight, "podAffinityTerm": near(app, HOST)}]}}})
    };
    assert_eq!(
        bench.one(labeled("w", "web", wish(100, "podAffinity", "db"))),
        on("b")
    );
    // Those that run want nobody else there.
    let mut shy = wish(100, "podAntiAffinity", "guest");
    shy["nodeName"] = "b".into();
    bench.add(labeled("shy", "shy", shy.clone()));
    shy["nodeName"] = "a".into();
    bench.add(labeled("shy2", "shy", shy));
    assert_eq!(bench.one(labeled("guest", "guest", json!({}))), on("c"));
}

fn spread(key: &str, when: &str, more: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (name, value) in more.as_object().unwrap() {
        constraint[name] = value.clone();
    }
    json!({"topologySpreadConstraints": [constraint]})
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let bench = Bench::new(three());
    bench.add(running("w0", "web", "a"));
    let hard = spread(ZONE, "DoNotSchedule", json!({}));
    assert_eq!(bench.one(labeled("w1", "web", hard.clone())), on("c"));
    // c is closed now: the next would make it two more in x, unless it is not counted.
    assert!(matches!(
        bench.one(labeled("w2", "web", hard.clone())),
        Decision::Node(_)
    ));
    let mut only_x = hard;
    only_x["nodeSelector"] = json!({(ZONE): "x"});
    assert!(matches!(
        bench.one(labeled("w3", "web", only_x.clone())),
        Decision::Node(_)
    ));
    only_x["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Ignore".into();
    assert_eq!(
        bench.one(labeled("w4", "web", only_x)),
        none(
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't \
             match pod topology spread constraints. preemption: 0/3 nodes are available: 1 Preemption is not \
             helpful for scheduling, 2 No preemption victims found for incoming pod."
        )
    );
}

#[test]
fn domains_that_are_missing_count_as_empty() {
    let bench = Bench::new(three());
    let hard = spread(ZONE, "DoNotSchedule", json!({"minDomains": 3}));
    for name in ["w0", "w1"] {
        assert!(matches!(
            bench.one(labeled(name, "web", hard.clone())),
            Decision::Node(_)
        ));
    }
    assert!(matches!(
        bench.one(labeled("w2", "web", hard)),
        Decision::None(_)
    ));
    let other = spread("rack", "DoNotSchedule", json!({}));
    let Decision::None(why) = bench.one(labeled("w3", "web", other)) else {
        panic!("no node has the label");
    };
    assert!(why.contains(
        "3 node(s) didn't match pod topology spread constraints (missing required label)"
    ));
}

#[test]
fn soft_spreading_evens_out() {
    let bench = Bench::new(three());
    bench.add(running("w0", "web", "a"));
    bench.add(running("w1", "web", "b"));
    let soft = spread(ZONE, "ScheduleAnyway", json!({}));
    assert_eq!(bench.one(labeled("w2", "web", soft)), on("c"));
}

#[test]
fn a_pod_that_names_its_node_goes_nowhere_else() {
    let bench = Bench::new(three());
    let named = |name: &str| {
        json!({"affinity": {"nodeAffinity": {(REQUIRED): {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}})
    };
    assert_eq!(bench.one(labeled("d", "d", named("b"))), on("b"));
    let Decision::None(why) = bench.one(labeled("e", "d", named("z"))) else {
        panic!("there is no such node");
    };
    assert!(why.starts_with(
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]. "
    ));
}

#[test]
fn large_images_draw_their_pods() {
    let mut nodes = three();
    for (node, size) in nodes.iter_mut().zip([800_000_000_i64, 0, 0]) {
        if size > 0 {
            node.status.as_mut().unwrap().images = Some(vec![
                serde_json::from_value(json!({"names": ["i:1"], "sizeBytes": size})).unwrap(),
            ]);
        }
    }
    let bench = Bench::new(nodes);
    assert_eq!(bench.one(labeled("p", "p", json!({}))), on("a"));
}

#[test]
fn pod_level_resources_replace_the_sum() {
    let mut pod = pod("p", "1");
    pod.spec.as_mut().unwrap().resources = Some(ResourceRequirements {
        requests: Some(quantities(&[("cpu", "3")])),
        ..ResourceRequirements::default()
    });
    let (amount, _) = resources::requested(&pod);
    assert_eq!(amount.milli_cpu, 3_000);
    assert_eq!(amount.memory, 64 * 1024 * 1024);
}

/// Thousands of nodes: how many decisions a second there are. Prints; asserts only that all find a place.
#[test]
fn many_nodes() {
    let size = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (nodes, pods) = (
        size("WAGGLE_BENCH_NODES", 200),
        size("WAGGLE_BENCH_PODS", 600),
    );
    let all = (0..nodes)
        .map(|n| {
            let mut one = zoned(&format!("n{n}"), &format!("z{}", n % 3));
            one.status.as_mut().unwrap().allocatable = Some(quantities(&[
                ("cpu", "32"),
                ("memory", "64Gi"),
                ("pods", "110"),
            ]));
            one
        })
        .collect();
    let bench = Bench::new(all);
    for n in 0..pods {
        let mut pod = pod(&format!("p{n}"), "100m");
        let owner = pod.metadata.owner_references.as_mut().unwrap();
        owner[0].uid = format!("set{}", n % 20);
        bench.add(pod);
    }
    let started = Instant::now();
    let mut placed = 0;
    while placed < pods {
        let outcomes = bench.outcomes();
        assert!(!outcomes.is_empty());
        for outcome in outcomes {
            assert!(matches!(outcome.decision, Decision::Node(_)));
            placed += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{nodes} nodes: {:.0} pods/s",
        f64::from(u32::try_from(pods).unwrap()) / seconds
    );
}
