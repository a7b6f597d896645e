//! Tests of `controllers::collector`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::graph::{FOREGROUND, ORPHAN};
use super::*;
use crate::controllers::fixtures::at;
use crate::kinds::{self, KindRef};

fn kind(plural: &str) -> KindRef {
    kinds::by_plural("", "v1", plural).unwrap().into()
}

fn owner(uid: &str, block: bool) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: uid.into(),
        uid: uid.into(),
        block_owner_deletion: Some(block),
        controller: None,
    }
}

fn item(uid: &str, owners: &[OwnerReference], deleting: bool, finalizers: &[&str]) -> Item {
    let metadata = ObjectMeta {
        namespace: Some("ns".into()),
        name: Some(uid.into()),
        uid: Some(uid.into()),
        owner_references: Some(owners.to_vec()),
        deletion_timestamp: deleting.then(|| Time(at(1))),
        finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
        ..ObjectMeta::default()
    };
    // As the store has it.
    let stored = serde_json::to_value(metadata).unwrap();
    Item::new(kind("pods"), serde_json::from_value(stored).unwrap())
}

fn shown(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Delete { propagation } => format!("delete {propagation}"),
            Action::DeleteDependent(item) => format!("delete dependent {}", item.uid),
            Action::RemoveFinalizer(name) => format!("finalizer {name}"),
            Action::RemoveOwners(uids) => format!("disown {uids:?}"),
            Action::Orphan(item) => format!("orphan {}", item.uid),
        })
        .collect()
}

fn plan_for(owners: &[(&str, Owner)], dependents: &[Item]) -> Vec<String> {
    let references: Vec<_> = owners
        .iter()
        .map(|(uid, state)| (owner(uid, true), *state))
        .collect();
    let own: Vec<_> = references
        .iter()
        .map(|(reference, _)| reference.clone())
        .collect();
    shown(&plan::plan(
        &item("x", &own, false, &[]),
        &references,
        dependents,
    ))
}

#[test]
fn an_object_goes_with_its_last_owner() {
    assert!(plan_for(&[], &[]).is_empty());
    assert!(plan_for(&[("a", Owner::Solid)], &[]).is_empty());
    assert_eq!(
        plan_for(&[("a", Owner::Absent)], &[]),
        ["delete Background"]
    );
    assert_eq!(
        plan_for(&[("a", Owner::Absent), ("b", Owner::Solid)], &[]),
        ["disown [\"a\"]"]
    );
    let dependent = item("d", &[owner("x", true)], false, &[]);
    assert_eq!(
        plan_for(&[("a", Owner::Waiting)], &[dependent]),
        ["delete Foreground"]
    );
    assert_eq!(
        plan_for(&[("a", Owner::Waiting)], &[]),
        ["delete Background"]
    );
}

#[test]
fn foreground_waits_for_what_blocks_and_orphan_lets_go() {
    let foreground = item("x", &[], true, &[FOREGROUND]);
    let blocking = item("d", &[owner("x", true)], false, &[]);
    let free = item("e", &[owner("x", false)], false, &[]);
    let shared = item("f", &[owner("x", true), owner("y", true)], false, &[]);
    let all = [blocking.clone(), free.clone(), shared];
    assert_eq!(
        shown(&plan::plan(&foreground, &[], &all)),
        ["delete dependent d", "delete dependent e"]
    );
    assert_eq!(
        shown(&plan::plan(&foreground, &[], &[free])),
        ["finalizer foregroundDeletion"]
    );
    let orphan = item("x", &[], true, &[ORPHAN]);
    assert_eq!(
        shown(&plan::plan(&orphan, &[], &[blocking])),
        ["orphan d", "finalizer orphan"]
    );
    let other = item("x", &[], true, &["someone/else"]);
    assert!(plan::plan(&other, &[], &[]).is_empty());
}

#[test]
fn the_graph_says_who_must_be_looked_at() {
    let mut graph = Graph::default();
    assert!(graph.put(item("a", &[], false, &[])).is_empty());
    assert!(
        graph
            .put(item("d", &[owner("a", true)], false, &[]))
            .is_empty()
    );
    assert_eq!(
        graph.put(item("lost", &[owner("none", true)], false, &[])),
        ["lost"]
    );
    // The owner begins a foreground deletion, its dependent goes, then the owner looks again.
    assert_eq!(graph.put(item("a", &[], true, &[FOREGROUND])), ["a"]);
    assert_eq!(graph.dependents("a").len(), 1);
    assert_eq!(graph.remove("d"), ["a"]);
    assert!(graph.dependents("a").is_empty());
    graph.put(item("e", &[owner("a", true)], false, &[]));
    assert_eq!(graph.remove("a"), ["e"]);
}

#[test]
fn what_has_another_owner_is_looked_at_when_one_begins_to_wait() {
    let mut graph = Graph::default();
    graph.put(item("a", &[], false, &[]));
    graph.put(item("b", &[], false, &[]));
    graph.put(item("own", &[owner("a", true)], false, &[]));
    let both = [owner("a", true), owner("b", false)];
    graph.put(item("shared", &both, false, &[]));
    let waiting = || item("a", &[], true, &[FOREGROUND]);
    assert_eq!(graph.put(waiting()), ["a", "shared"]);
    assert_eq!(graph.put(waiting()), ["a"]);
}
