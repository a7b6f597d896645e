//! The table of flows against a model of address translation: whatever packets come, from several CPUs, into a table
//! that may be full at any moment.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::layout::{FLOW_KIND_LOCAL, FLOW_KIND_REMOTE, PROTOCOL_UDP};
use crate::packet::Fragment;

/// A table with a bound, and something that happens on another CPU in the middle of an insertion.
#[derive(Default)]
struct Table {
    entries: RefCell<BTreeMap<FlowKey, FlowValue>>,
    size: usize,
    random: Cell<u32>,
    /// Before this many more insertions, the other CPU gets to run.
    until_race: Cell<Option<u32>>,
    race: Cell<Option<(Pair, Ports)>>,
}

impl Table {
    fn new(size: usize) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    fn raced(&self) {
        match self.until_race.get() {
            Some(0) => {
                self.until_race.set(None);
                if let Some((mut pair, ports)) = self.race.take() {
                    let _ = open(self, &mut pair, &ports);
                }
            }
            Some(left) => self.until_race.set(Some(left - 1)),
            None => {}
        }
    }

    /// What must hold of every table between packets.
    fn check(&self) {
        let entries = self.entries.borrow();
        assert!(entries.len() <= self.size);
        let mut given = BTreeSet::new();
        for (key, value) in entries.iter() {
            if value.flags & FLOW_ONE_WAY != 0 {
                continue;
            }
            let partner = entries
                .get(&value.to.reply())
                .unwrap_or_else(|| panic!("{key:?} leaked"));
            assert_eq!(partner.to, key.reply(), "the reply becomes the original's");
            assert_ne!(partner.is_reverse(), value.is_reverse());
            assert!(given.insert(value.to), "{:?} is two flows'", value.to);
        }
    }
}

impl Flows for Table {
    fn touch(&self, key: &FlowKey, flags: u16, into: &mut FlowValue) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(value) = entries.get_mut(key) else {
            return false;
        };
        value.flags = value.flags_with(flags);
        *into = *value;
        true
    }
    fn get(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        self.entries
            .borrow()
            .get(key)
            .map(|value| *into = *value)
            .is_some()
    }
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Insertion {
        self.raced();
        let mut entries = self.entries.borrow_mut();
        if entries.contains_key(key) {
            Insertion::Exists
        } else if entries.len() >= self.size {
            Insertion::Full
        } else {
            entries.insert(*key, *value);
            Insertion::Done
        }
    }
    fn remove(&self, key: &FlowKey) {
        self.entries.borrow_mut().remove(key);
    }
    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next
    }
    fn now(&self) -> u32 {
        7
    }
}

fn address(last: u8) -> Address {
    Address::from_v4([10, 0, 0, last])
}

const NODE: u8 = 200;

fn packet(key: &FlowKey, tcp_flags: u8) -> Packet {
    Packet {
        destination_mac: [0; 6],
        source_mac: [0; 6],
        source: key.source,
        destination: key.destination,
        v6: false,
        protocol: key.protocol,
        hop_limit: 64,
        fragment: Fragment::Whole,
        identification: 0,
        l4: 34,
        source_port: key.source_port,
        destination_port: key.destination_port,
        tcp_flags,
        icmp_type: 0,
    }
}

/// A flow that is wanted: who asks whom, and which backend it gets.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    client: u8,
    service: u8,
    port: u16,
    backend: u8,
    remote: bool,
    protocol: u8,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    // Few of each, so that they collide.
    (
        0u8..3,
        100u8..103,
        0u16..4,
        150u8..152,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(client, service, port, backend, remote, tcp)| Wanted {
            client,
            service,
            port,
            backend,
            remote,
            protocol: if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP },
        })
}

fn prepare(wanted: &Wanted) -> (Pair, Ports) {
    let key = FlowKey {
        source: address(wanted.client),
        destination: address(wanted.service),
        source_port: (20_000 + wanted.port).to_be(),
        destination_port: 80u16.to_be(),
        protocol: wanted.protocol,
        padding: [0; 3],
    };
    let mut to = key;
    to.destination = address(wanted.backend);
    to.destination_port = 8080u16.to_be();
    if wanted.remote {
        to.source = address(NODE);
    }
    let kind = if wanted.remote {
        FLOW_KIND_REMOTE
    } else {
        FLOW_KIND_LOCAL
    };
    let pair = Pair {
        key,
        value: FlowValue {
            to,
            kind,
            service: 9,
            ..FlowValue::default()
        },
        ..Pair::default()
    };
    let ports = Ports {
        minimum: 20_000,
        maximum: 20_007,
        any_own: !wanted.remote,
    };
    (pair, ports)
}

#[derive(Debug, Clone)]
enum Step {
    Packet(Wanted, u8),
    /// Two CPUs get packets of new flows; the second one after so many insertions of the first.
    Race(Wanted, Wanted, u32),
    /// The answer to some flow's packet.
    Answer(prop::sample::Index, u8),
    Forget(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![
        Just(TCP_SYN),
        Just(TCP_ACK),
        Just(TCP_FIN | TCP_ACK),
        Just(TCP_RST)
    ];
    let step = prop_oneof![
        4 => (wanted(), flags.clone()).prop_map(|(wanted, flags)| Step::Packet(wanted, flags)),
        2 => (wanted(), wanted(), 0u32..3).prop_map(|(a, b, at)| Step::Race(a, b, at)),
        1 => (wanted(), 0u32..3).prop_map(|(a, at)| Step::Race(a, a, at)),
        3 => (any::<prop::sample::Index>(), flags).prop_map(|(at, flags)| Step::Answer(at, flags)),
        1 => any::<prop::sample::Index>().prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What the model knows of a flow: the forward key and what it was given.
type Model = BTreeMap<FlowKey, FlowKey>;

fn send(table: &Table, model: &mut Model, wanted: &Wanted, flags: u8) {
    let (mut pair, ports) = prepare(wanted);
    let key = pair.key;
    let packet = packet(&key, flags);
    let value = pair.value;
    if follow(table, &packet, &mut pair) {
        assert_eq!(
            model.get(&key),
            Some(&pair.value.to),
            "a flow stays what it is"
        );
        return;
    }
    // Unknown, or over and opened anew.
    if let Some(old) = model.remove(&key) {
        assert_eq!(flags, TCP_SYN, "only an opening ends a flow");
        assert!(!table.entries.borrow().contains_key(&old.reply()));
    }
    pair.value = value;
    let before = table.entries.borrow().clone();
    match open(table, &mut pair, &ports) {
        Ok(()) => {
            let mut expected = value.to;
            expected.source_port = pair.value.to.source_port;
            assert_eq!(
                pair.value.to, expected,
                "only the source port is ours to choose"
            );
            model.insert(key, pair.value.to);
        }
        Err(reason) => {
            assert!(matches!(
                reason,
                DropReason::FlowTableFull | DropReason::FlowPorts
            ));
            assert_eq!(*table.entries.borrow(), before, "nothing is left behind");
        }
    }
}

proptest! {
    #[test]
    fn replies_map_back_and_nothing_leaks(steps in steps(), size in 1usize..40) {
        let table = Table::new(size);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Packet(wanted, flags) => send(&table, &mut model, &wanted, flags),
                Step::Race(first, second, at) => {
                    let other = prepare(&second);
                    let (mut pair, ports) = prepare(&first);
                    if model.contains_key(&pair.key) || model.contains_key(&other.0.key) {
                        continue;
                    }
                    let key = pair.key;
                    table.until_race.set(Some(at));
                    table.race.set(Some(other));
                    let opened = open(&table, &mut pair, &ports);
                    table.until_race.set(None);
                    table.race.set(None);
                    let entries = table.entries.borrow();
                    if opened.is_ok() {
                        prop_assert_eq!(entries[&key].to, pair.value.to, "both CPUs do the same");
                    }
                    for key in [key, other.0.key] {
                        if let Some(value) = entries.get(&key) {
                            model.insert(key, value.to);
                        }
                    }
                }
                Step::Answer(at, flags) if !model.is_empty() => {
                    let (key, to) = model.iter().nth(at.index(model.len())).unwrap();
                    let mut pair = Pair::default();
                    prop_assert!(follow(&table, &packet(&to.reply(), flags), &mut pair));
                    prop_assert_eq!(pair.value.to, key.reply());
                    prop_assert!(pair.value.flags & FLOW_REPLIED != 0);
                    // An error about what was sent, from the backend and from a router.
                    for from in [to.destination, address(99)] {
                        let mut error = packet(&to.reply(), 0);
                        (error.protocol, error.icmp_type) = (PROTOCOL_ICMP, 3);
                        error.source = from;
                        let inner = Embedded {
                            source: to.source, destination: to.destination, protocol: to.protocol,
                            source_port: to.source_port, destination_port: to.destination_port, l3: 42, port: 62,
                        };
                        let blame = blame(&table, &error, &inner, &mut pair);
                        let known = if from == address(99) { from } else { key.destination };
                        prop_assert_eq!(blame, Concern::Sender(Blame { source: known, destination: key.source, inner: *key }));
                    }
                }
                Step::Forget(at) if !model.is_empty() => {
                    let (key, to) = model.iter().nth(at.index(model.len())).map(|(a, b)| (*a, *b)).unwrap();
                    table.remove(&key);
                    table.remove(&to.reply());
                    model.remove(&key);
                }
                Step::Answer(..) | Step::Forget(_) => {}
            }
            table.check();
            prop_assert_eq!(table.entries.borrow().len(), 2 * model.len());
        }
    }
}

#[test]
fn a_syn_on_a_closed_connection_opens_another_one() {
    let table = Table::new(16);
    let one = Wanted {
        client: 1,
        service: 100,
        port: 1,
        backend: 150,
        remote: false,
        protocol: PROTOCOL_TCP,
    };
    let (mut pair, ports) = prepare(&one);
    let (key, to) = (pair.key, pair.value.to);
    open(&table, &mut pair, &ports).unwrap();
    let mut seen = |key: &FlowKey, flags| follow(&table, &packet(key, flags), &mut pair);
    assert!(seen(&key, TCP_SYN), "sent again");
    assert!(seen(&key, TCP_FIN | TCP_ACK));
    assert!(seen(&key, TCP_SYN), "the other side has not ended");
    assert!(seen(&to.reply(), TCP_FIN | TCP_ACK));
    assert!(seen(&key, TCP_ACK), "the last acknowledgement");
    assert!(!seen(&key, TCP_SYN));
    assert_eq!(table.entries.borrow().len(), 0);
}

#[test]
fn two_services_with_one_backend_and_one_source_port_are_told_apart() {
    let table = Table::new(16);
    let one = Wanted {
        client: 1,
        service: 100,
        port: 1,
        backend: 150,
        remote: false,
        protocol: PROTOCOL_TCP,
    };
    let (mut first, ports) = prepare(&one);
    let (mut second, _) = prepare(&Wanted {
        service: 101,
        ..one
    });
    open(&table, &mut first, &ports).unwrap();
    open(&table, &mut second, &ports).unwrap();
    assert_eq!(first.value.to.source_port, first.key.source_port);
    assert_ne!(second.value.to.source_port, first.value.to.source_port);
    table.check();
}

#[test]
fn sctp_keeps_its_port_or_is_refused() {
    let table = Table::new(16);
    let one = Wanted {
        client: 1,
        service: 100,
        port: 1,
        backend: 150,
        remote: true,
        protocol: PROTOCOL_SCTP,
    };
    let (mut first, ports) = prepare(&one);
    first.key.source_port = 9u16.to_be();
    first.value.to.source_port = 9u16.to_be();
    let mut other_port = first;
    first.value.to.destination_port = first.key.destination_port;
    assert_eq!(
        open(&table, &mut other_port, &ports),
        Err(DropReason::SctpPort)
    );
    let mut second = first;
    second.key.source = address(2);
    open(&table, &mut first, &ports).unwrap();
    assert_eq!(
        first.value.to.source_port,
        9u16.to_be(),
        "out of range, and kept"
    );
    assert_eq!(
        open(&table, &mut second, &ports),
        Err(DropReason::FlowPorts)
    );
    table.check();
}

#[test]
fn echo_requests_of_both_ends_with_one_identifier_are_no_answers() {
    let table = Table::new(16);
    let key = FlowKey {
        source: address(1),
        destination: address(2),
        source_port: 77,
        destination_port: 0,
        protocol: PROTOCOL_ICMP,
        padding: [0; 3],
    };
    let mut to = key;
    to.source = address(NODE);
    let mut pair = Pair {
        key,
        value: FlowValue {
            to,
            ..FlowValue::default()
        },
        ..Pair::default()
    };
    let ports = Ports {
        minimum: 1,
        maximum: u16::MAX,
        any_own: true,
    };
    open(&table, &mut pair, &ports).unwrap();
    let mut echo = packet(&to.reply(), 0);
    echo.icmp_type = 8;
    assert!(!follow(&table, &echo, &mut pair));
    echo.icmp_type = 0;
    assert!(follow(&table, &echo, &mut pair));
    assert_eq!(pair.value.to, key.reply());
}

#[test]
fn a_one_way_flow_is_one_entry() {
    let table = Table::new(1);
    let (mut pair, ports) = prepare(&Wanted {
        client: 1,
        service: 100,
        port: 1,
        backend: 150,
        remote: false,
        protocol: PROTOCOL_UDP,
    });
    pair.value.flags = FLOW_ONE_WAY;
    open(&table, &mut pair, &ports).unwrap();
    let mut again = pair;
    open(&table, &mut again, &ports).unwrap();
    assert_eq!(table.entries.borrow().len(), 1);
    let mut error = packet(&pair.key, 0);
    (error.protocol, error.icmp_type) = (PROTOCOL_ICMP, 3);
    let inner = Embedded {
        source: pair.key.destination,
        destination: pair.key.source,
        protocol: pair.key.protocol,
        source_port: pair.key.destination_port,
        destination_port: pair.key.source_port,
        l3: 42,
        port: 62,
    };
    let concern = blame(&table, &error, &inner, &mut pair);
    assert_eq!(concern, Concern::Elsewhere);
}
