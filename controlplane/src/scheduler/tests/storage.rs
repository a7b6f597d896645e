//! Pods with claims.

use serde_json::{Value, json};

use super::*;
use crate::scheduler::volumes::Step;

fn volume(name: &str, size: &str, host: &str) -> Arc<k8s_openapi::api::core::v1::PersistentVolume> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "slow", "local": {"path": "/x"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}},
            "status": {"phase": "Available"},
        }))
        .unwrap(),
    )
}

fn claim(more: Value) -> Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim> {
    let mut claim = json!({
        "metadata": {"namespace": "ns", "name": "data", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
            "resources": {"requests": {"storage": "5Gi"}}},
    });
    crate::patch::merge_patch(&claim.clone(), &more).clone_into(&mut claim);
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn class(provisioner: &str, mode: &str) -> Arc<k8s_openapi::api::storage::v1::StorageClass> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": "slow"}, "provisioner": provisioner,
            "volumeBindingMode": mode}),
        )
        .unwrap(),
    )
}

fn user(name: &str) -> Pod {
    let mut pod = pod(name, "10m");
    pod.spec.as_mut().unwrap().volumes = Some(vec![
        serde_json::from_value(
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}),
        )
        .unwrap(),
    ]);
    pod
}

fn bench(objects: Objects) -> Bench {
    Bench::with(vec![node("a", "8", "8Gi"), node("b", "8", "8Gi")], objects)
}

#[test]
fn the_smallest_volume_that_fits_decides_the_node() {
    let objects = Objects {
        claims: vec![claim(json!({}))],
        volumes: vec![
            volume("large", "50Gi", "a"),
            volume("right", "10Gi", "b"),
            volume("small", "1Gi", "a"),
        ],
        classes: vec![class(
            "kubernetes.io/no-provisioner",
            "WaitForFirstConsumer",
        )],
        ..Objects::default()
    };
    let bench = bench(objects);
    bench.add(user("p"));
    let outcome = bench.outcomes().remove(0);
    let Decision::Node(node) = &outcome.decision else {
        panic!("{outcome:?}")
    };
    let [Step::Bind { volume, .. }] = &outcome.steps[..] else {
        panic!("{outcome:?}")
    };
    let wanted = if node == "b" { "right" } else { "large" };
    assert_eq!(volume.metadata.name.as_deref(), Some(wanted));
}

#[test]
fn what_nobody_makes_is_missing() {
    let objects = Objects {
        claims: vec![claim(json!({}))],
        volumes: vec![volume("small", "1Gi", "a")],
        classes: vec![class(
            "kubernetes.io/no-provisioner",
            "WaitForFirstConsumer",
        )],
        ..Objects::default()
    };
    assert_eq!(
        bench(objects).one(user("p")),
        none(
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. preemption: \
             0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
    );
    let objects = Objects {
        claims: vec![claim(json!({}))],
        classes: vec![class("waggle.dev/local", "WaitForFirstConsumer")],
        ..Objects::default()
    };
    let bench = bench(objects);
    bench.add(user("p"));
    let outcome = bench.outcomes().remove(0);
    assert!(matches!(outcome.steps[..], [Step::Provision { .. }]));
}

#[test]
fn claims_that_are_not_ready_hold_the_pod_back() {
    let waiting = Objects {
        claims: vec![claim(json!({}))],
        classes: vec![class("waggle.dev/local", "Immediate")],
        ..Objects::default()
    };
    assert_eq!(
        bench(waiting).one(user("p")),
        none(
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/2 nodes \
             are available: 2 Preemption is not helpful for scheduling."
        )
    );
    let Decision::None(why) = bench(Objects::default()).one(user("p")) else {
        panic!("there is no claim");
    };
    assert!(why.contains("persistentvolumeclaim \"data\" not found"));
}

#[test]
fn a_bound_claim_keeps_the_pod_at_its_volume_and_may_be_for_one_pod() {
    let bound = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v", "accessModes": ["ReadWriteOncePod"]},
    });
    let objects = Objects {
        claims: vec![claim(bound)],
        volumes: vec![volume("v", "10Gi", "b")],
        ..Objects::default()
    };
    let bench = bench(objects);
    assert_eq!(bench.one(user("p")), on("b"));
    let Decision::None(why) = bench.one(user("q")) else {
        panic!("one pod has it already");
    };
    assert!(why.contains(
        "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
    ), "{why}");
}

#[test]
fn a_volume_with_zones_keeps_the_pod_in_one_of_them() {
    let bound = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v"},
    });
    let volume = json!({"metadata": {"name": "v", "labels": {
        "failure-domain.beta.kubernetes.io/zone": "z2__z3", "topology.kubernetes.io/region": "r"}}});
    let objects = Objects {
        claims: vec![claim(bound)],
        volumes: vec![Arc::new(serde_json::from_value(volume).unwrap())],
        ..Objects::default()
    };
    let zoned = |name: &str, zone: &str, region: &str| {
        let mut node = node(name, "8", "8Gi");
        let labels = node.metadata.labels.as_mut().unwrap();
        labels.insert("topology.kubernetes.io/zone".into(), zone.into());
        labels.insert("topology.kubernetes.io/region".into(), region.into());
        node
    };
    let nodes = vec![zoned("a", "z1", "r"), zoned("b", "z2", "other")];
    let bench = Bench::with(nodes, objects);
    assert_eq!(
        bench.one(user("p")),
        none(
            "0/2 nodes are available: 2 node(s) had no available volume zone. preemption: 0/2 nodes are available: \
             2 Preemption is not helpful for scheduling."
        )
    );
    let new = Arc::new(zoned("c", "z3", "r"));
    bench.shared.lock().node_changed("c", None, Some(&new));
    assert_eq!(bench.one(user("q")), on("c"));
}

#[test]
fn a_pod_that_waits_for_its_volume_is_counted_once() {
    let bench = Bench::new(vec![node("a", "2", "8Gi")]);
    let mut first = pod("first", "1");
    assert_eq!(bench.one(first.clone()), on("a"));
    // The node that it is about to have is in its status before it is bound.
    let old = Arc::new(first.clone());
    first.status.get_or_insert_default().nominated_node_name = Some("a".into());
    let new = Arc::new(first);
    let mut state = bench.shared.lock();
    state.pod_changed(Some(&old), Some(&new), bench.now);
    drop(state);
    assert_eq!(bench.one(pod("second", "1")), on("a"));
}
