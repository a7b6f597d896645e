//! Tests of `controllers::daemonset::plan`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::controllers::fixtures::{at, labels, metadata, selector, template};

fn set(strategy: &str, unavailable: i32, surge: i32) -> DaemonSet {
    let rolling = RollingUpdateDaemonSet {
        max_unavailable: Some(IntOrString::Int(unavailable)),
        max_surge: Some(IntOrString::Int(surge)),
    };
    DaemonSet {
        metadata: metadata("agent"),
        spec: Some(DaemonSetSpec {
            selector: selector(),
            template: template(),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some(strategy.into()),
                rolling_update: (strategy == "RollingUpdate").then_some(rolling),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn node(name: &str, taints: &[(&str, &str)]) -> Arc<Node> {
    let taints = taints.iter().map(|(key, effect)| Taint {
        key: (*key).into(),
        effect: (*effect).into(),
        ..Taint::default()
    });
    Arc::new(Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(labels(&[("kubernetes.io/hostname", name)])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints.collect()),
            ..NodeSpec::default()
        }),
        status: None,
    })
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    let mut pod = crate::controllers::fixtures::pod(name, Some(node), ready.then_some(0));
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(HASH_LABEL.into(), hash.into());
    Arc::new(pod)
}

fn planned(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>) {
    let plan = plan(&View {
        set,
        nodes,
        pods,
        deleting: &HashSet::new(),
        held: &HashSet::new(),
        hash: "new",
        now: at(100),
    });
    let names = plan
        .delete
        .iter()
        .map(|pod| pod.metadata.name.clone().unwrap());
    (plan.create.clone(), names.collect())
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_node_that_it_is_meant_for_gets_one_pod() {
    let mut set = set("RollingUpdate", 1, 0);
    let nodes = [
        node("a", &[]),
        node("tainted", &[("mine", "NoSchedule")]),
        node("down", &[("node.kubernetes.io/unreachable", "NoExecute")]),
        node("evicting", &[("mine", "NoExecute")]),
    ];
    assert_eq!(planned(&set, &nodes, &[]).0, ["a", "down"]);
    // What runs already stays where new ones would not come, but not where it is not stood.
    let pods = [
        pod("p", "tainted", "new", true),
        pod("q", "evicting", "new", true),
        pod("r", "a", "new", true),
        pod("s", "down", "new", true),
    ];
    assert_eq!(planned(&set, &nodes, &pods), (vec![], list(&["q"])));
    let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    spec.node_selector = Some(labels(&[("kubernetes.io/hostname", "a")]));
    assert_eq!(planned(&set, &nodes, &[]).0, ["a"]);
}

#[test]
fn of_two_pods_the_one_that_is_bound_stays() {
    let set = set("RollingUpdate", 1, 0);
    let mut waits = pod("a", "n", "new", false).as_ref().clone();
    waits.spec = Some(
        pods::pod_for(&set, &pods::pod_spec(&set), "new", "n")
            .spec
            .unwrap(),
    );
    let pods = [Arc::new(waits), pod("b", "n", "new", true)];
    assert_eq!(planned(&set, &[node("n", &[])], &pods).1, ["a"]);
}

#[test]
fn a_pod_is_for_one_node_and_stands_its_troubles() {
    let set = set("RollingUpdate", 1, 0);
    let made = pods::pod_for(&set, &pods::pod_spec(&set), "h", "a");
    assert_eq!(pods::node_of(&made), Some("a"));
    assert_eq!(made.metadata.labels.as_ref().unwrap()[HASH_LABEL], "h");
    let tolerations = made.spec.unwrap().tolerations.unwrap();
    assert_eq!(tolerations.len(), 6);
}

#[test]
fn what_ended_goes_and_of_two_the_younger() {
    let set = set("RollingUpdate", 1, 0);
    let nodes = [node("a", &[]), node("b", &[])];
    let mut failed = pod("failed", "a", "new", false).as_ref().clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let mut younger = pod("younger", "b", "new", true).as_ref().clone();
    younger.metadata.creation_timestamp = Some(Time(at(5)));
    let pods = [
        Arc::new(failed),
        pod("older", "b", "new", true),
        Arc::new(younger),
    ];
    assert_eq!(
        planned(&set, &nodes, &pods),
        (vec![], list(&["failed", "younger"]))
    );
}

#[test]
fn a_rolling_update_takes_as_many_as_may_be_unavailable() {
    let nodes = [node("a", &[]), node("b", &[]), node("c", &[])];
    let old = [
        pod("p", "a", "old", true),
        pod("q", "b", "old", true),
        pod("r", "c", "old", true),
    ];
    assert_eq!(
        planned(&set("RollingUpdate", 2, 0), &nodes, &old).1,
        ["p", "q"]
    );
    assert_eq!(
        planned(&set("OnDelete", 0, 0), &nodes, &old),
        (vec![], vec![])
    );
    // The new one is not up yet; what does not work anyway goes all the same.
    let half = [
        pod("p", "a", "new", false),
        pod("q", "b", "old", true),
        pod("r", "c", "old", false),
    ];
    assert_eq!(planned(&set("RollingUpdate", 1, 0), &nodes, &half).1, ["r"]);
}

#[test]
fn with_surge_the_new_pod_stands_beside_the_old_until_it_is_available() {
    let set = set("RollingUpdate", 0, 1);
    let nodes = [node("a", &[]), node("b", &[])];
    let old = [pod("p", "a", "old", true), pod("q", "b", "old", true)];
    assert_eq!(planned(&set, &nodes, &old), (list(&["a"]), vec![]));
    let mut both = vec![pod("new", "a", "new", false)];
    both.extend(old.clone());
    assert_eq!(planned(&set, &nodes, &both), (vec![], vec![]));
    both[0] = pod("new", "a", "new", true);
    assert_eq!(planned(&set, &nodes, &both), (vec![], list(&["p"])));
    let done = [both[0].clone(), old[1].clone()];
    assert_eq!(planned(&set, &nodes, &done), (list(&["b"]), vec![]));
}

#[test]
fn the_status_counts_nodes() {
    let set = set("RollingUpdate", 1, 0);
    let nodes = [
        node("a", &[]),
        node("b", &[]),
        node("c", &[("x", "NoSchedule")]),
    ];
    let pods = [
        pod("p", "a", "new", true),
        pod("q", "b", "old", false),
        pod("r", "c", "old", true),
    ];
    let view = View {
        set: &set,
        nodes: &nodes,
        pods: &pods,
        deleting: &HashSet::new(),
        held: &HashSet::new(),
        hash: "new",
        now: at(100),
    };
    let (status, _) = super::super::status::status(&view, None);
    let counts = (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_misscheduled,
        status.number_ready,
    );
    assert_eq!(counts, (2, 2, 1, 1));
    assert_eq!(
        (status.updated_number_scheduled, status.number_available),
        (Some(1), Some(1))
    );
}
