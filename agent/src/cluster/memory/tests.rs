//! What is on the disk is read back, or refused.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Endpoint, EndpointPort, EndpointSlice, Node, ObjectName, Protocol, Service};

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn service(of: &str, address: u8) -> Event {
    let service = Service {
        cluster_ips: vec![[10, 96, 0, address].into(), "fd00::1".parse().unwrap()],
        load_balancer_source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        external_name: Some("a\nname \"quoted\"".to_owned()),
        ..Service::default()
    };
    Event::ServiceSet(name(of), service)
}

fn slice(of: &str) -> Event {
    let slice = EndpointSlice {
        service: of.to_owned(),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Udp,
            port: 53,
        }],
        endpoints: vec![Endpoint {
            addresses: vec![[10, 0, 0, 1].into()],
            ready: true,
            ..Endpoint::default()
        }],
    };
    Event::SliceSet(name(of), slice)
}

fn batch(revision: u64, full: bool, events: Vec<Event>) -> Arc<Batch> {
    Arc::new(Batch {
        revision,
        full,
        events,
    })
}

fn sorted(path: &Path) -> Vec<String> {
    let batch = read(path).unwrap().unwrap();
    assert!(batch.full && batch.is_remembered());
    let mut all: Vec<String> = batch.events.iter().map(|at| format!("{at:?}")).collect();
    all.sort();
    all
}

fn expected(events: &[Event]) -> Vec<String> {
    let mut all: Vec<String> = events.iter().map(|at| format!("{at:?}")).collect();
    all.sort();
    all
}

#[test]
fn what_was_told_last_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    assert!(read(&path).unwrap().is_none());
    let node = Event::NodeSet("node1".to_owned(), Node::default());
    let first = batch(
        5,
        true,
        vec![service("a", 1), service("b", 2), slice("a"), node.clone()],
    );
    let memory = note(None, &path, &first).unwrap();
    assert_eq!(sorted(&path), expected(&first.events));
    let change = batch(
        6,
        false,
        vec![Event::ServiceRemoved(name("b")), service("a", 9)],
    );
    let memory = note(memory, &path, &change).unwrap();
    let now = [service("a", 9), slice("a"), node];
    assert_eq!(sorted(&path), expected(&now));
    // A new full state forgets the rest.
    note(memory, &path, &batch(7, true, vec![service("c", 3)])).unwrap();
    assert_eq!(sorted(&path), expected(&[service("c", 3)]));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing beside it"
    );
}

#[test]
fn changes_before_a_full_state_are_nothing_to_remember() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    assert!(
        note(None, &path, &batch(6, false, vec![service("a", 1)]))
            .unwrap()
            .is_none()
    );
    assert!(read(&path).unwrap().is_none());
}

#[test]
fn the_file_does_not_grow_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let mut memory = note(
        None,
        &path,
        &batch(1, true, vec![service("a", 1), slice("b")]),
    )
    .unwrap();
    for revision in 2..10_000 {
        let event = if revision % 5 == 0 {
            Event::ServiceRemoved(name("a"))
        } else {
            service("a", (revision % 200) as u8)
        };
        memory = note(memory, &path, &batch(revision, false, vec![event])).unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 2 * SLACK);
    assert_eq!(
        sorted(&path),
        expected(&[service("a", (9999 % 200) as u8), slice("b")])
    );
}

#[test]
fn another_versions_file_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let mut text = Vec::new();
    write_line(&mut text, 0, &Line::Format::<Event>(FORMAT + 1)).unwrap();
    write_line(&mut text, 0, &Line::Revision::<Event>(4)).unwrap();
    std::fs::write(&path, text).unwrap();
    assert!(read(&path).unwrap().is_none());
    std::fs::write(&path, b"{\"nonsense\":").unwrap();
    assert!(read(&path).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Wherever the file is cut or damaged: what is read is what some batch had made of it, or nothing.
    #[test]
    fn damage_takes_whole_batches_only(cut in 0usize..4000, flip in proptest::option::of(0usize..4000)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let mut memory = None;
        let mut states = vec![Vec::new()];
        let mut now = BTreeMap::new();
        for round in 0..6u8 {
            let events = vec![service("a", round), service(&format!("s{round}"), round)];
            for event in &events {
                now.insert(key(event), event.clone());
            }
            memory = note(memory, &path, &batch(u64::from(round) + 1, round == 0, events)).unwrap();
            let state: Vec<Event> = now.values().cloned().collect();
            states.push(expected(&state));
        }
        drop(memory);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(cut);
        if let Some(at) = flip && at < bytes.len() {
            bytes[at] ^= 0x20;
        }
        std::fs::write(&path, bytes).unwrap();
        if read(&path).unwrap().is_some() {
            prop_assert!(states.contains(&sorted(&path)));
        }
    }
}
