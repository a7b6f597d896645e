//! Tests of `controllers::replicaset::plan`.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::controllers::fixtures::{at, metadata, pod, pods, replica_set};

fn run(set: &ReplicaSet, list: &[Arc<Pod>], deleting: &[&str]) -> Plan {
    let deleting = deleting.iter().map(|uid| (*uid).to_owned()).collect();
    plan(&View {
        set,
        pods: list,
        deleting: &deleting,
        neighbours: &rank::neighbours(list.iter()),
        now: at(100),
    })
}

fn names(plan: &Plan) -> Vec<&str> {
    match plan {
        Plan::Delete(pods) => pods
            .iter()
            .map(|pod| pod.metadata.name.as_deref().unwrap())
            .collect(),
        _ => panic!("no deletion: {plan:?}"),
    }
}

#[test]
fn creates_what_is_missing_and_counts_only_active_pods() {
    let set = replica_set("s", 3);
    let mut finished = pod("b", Some("n"), None);
    finished.status.as_mut().unwrap().phase = Some("Failed".into());
    let mut terminating = pod("c", Some("n"), Some(1));
    terminating.metadata.deletion_timestamp = Some(Time(at(5)));
    let list = pods(vec![pod("a", Some("n"), Some(1)), finished, terminating]);
    assert_eq!(run(&set, &list, &[]), Plan::Create(2));
    assert_eq!(run(&replica_set("s", 1), &list, &[]), Plan::Keep);
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    let mut set = replica_set("s", 3);
    set.metadata.deletion_timestamp = Some(Time(at(1)));
    assert_eq!(run(&set, &[], &[]), Plan::Keep);
}

#[test]
fn pods_go_in_the_documented_order() {
    let mut cheap = pod("cheap", Some("n1"), Some(1));
    cheap.metadata.annotations = Some(crate::controllers::fixtures::labels(&[(
        "controller.kubernetes.io/pod-deletion-cost",
        "-5",
    )]));
    let list = pods(vec![
        pod("old", Some("n1"), Some(1)),
        cheap,
        pod("unbound", None, None),
        pod("not-ready", Some("n2"), None),
        pod("young", Some("n1"), Some(50)),
        pod("alone", Some("n3"), Some(90)),
    ]);
    let order = run(&replica_set("s", 0), &list, &[]);
    assert_eq!(
        names(&order),
        ["unbound", "not-ready", "cheap", "young", "old", "alone"]
    );
}

#[test]
fn those_of_about_the_same_age_go_in_no_order_of_age() {
    // The magnitude of 98 and of 99 seconds is the same.
    let list = pods(vec![
        pod("b", Some("n"), Some(2)),
        pod("a", Some("n"), Some(1)),
    ]);
    let order = |list: &[Arc<Pod>]| {
        let plan = run(&replica_set("s", 0), list, &[]);
        names(&plan).join(" ")
    };
    assert_eq!(order(&list), "a b");
    // Who was restarted more often still goes before.
    let restarted = |name: &str, containers: &str, restarts: i32| {
        let mut pod = pod(name, Some("n"), Some(1));
        pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(serde_json::json!([
            {"name": "sidecar", "restartPolicy": "Always"}, {"name": "init"}]))
        .unwrap();
        let mut status = serde_json::to_value(pod.status.as_ref().unwrap()).unwrap();
        let kind = if containers == "main" {
            "containerStatuses"
        } else {
            "initContainerStatuses"
        };
        status[kind] = serde_json::json!([{"name": containers, "image": "", "imageID": "", "ready": true,
            "restartCount": restarts}]);
        pod.status = serde_json::from_value(status).unwrap();
        pod
    };
    let list = pods(vec![
        restarted("a", "init", 9),
        restarted("b", "sidecar", 2),
        restarted("c", "main", 1),
    ]);
    assert_eq!(order(&list), "c b a");
}

#[test]
fn a_deletion_under_way_is_not_repeated_on_another_pod() {
    let list = pods(vec![
        pod("a", Some("n"), Some(1)),
        pod("b", Some("n"), Some(50)),
        pod("c", Some("n"), Some(90)),
    ]);
    let set = replica_set("s", 2);
    assert_eq!(names(&run(&set, &list, &[])), ["c"]);
    assert_eq!(run(&set, &list, &["uid-c"]), Plan::Keep);
}

#[test]
fn status_counts_and_says_when_to_look_again() {
    let mut set = replica_set("s", 3);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
    let list = pods(vec![
        pod("a", Some("n"), Some(0)),
        pod("b", Some("n"), Some(15)),
        pod("c", None, None),
    ]);
    let (status, recheck) = status(&set, &list, None, at(20));
    let status = status.unwrap();
    assert_eq!(status.replicas, 3);
    assert_eq!(status.ready_replicas, Some(2));
    assert_eq!(status.available_replicas, Some(1));
    assert_eq!(recheck, Some(Duration::from_secs(5)));
    set.status = Some(status);
    assert_eq!(super::status(&set, &list, None, at(20)).0, None);
}

#[test]
fn the_pod_carries_template_and_owner() {
    let pod = pod_from_template(
        &replica_set("s", 1),
        crate::controllers::owner::controller_reference(&replica_set("s", 1)),
    );
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("s-"));
    let owner = &pod.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str()),
        ("ReplicaSet", "uid-s")
    );
    assert_eq!(owner.controller, Some(true));
    assert_eq!(metadata("s").labels, pod.metadata.labels);
}
