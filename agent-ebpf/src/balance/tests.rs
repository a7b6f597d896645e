//! Which backend a packet gets.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::layout::{PROTOCOL_TCP, SCOPE_INSIDE, SCOPE_OUTSIDE};
use crate::packet::Fragment;

#[derive(Default)]
struct Tables {
    services: BTreeMap<ServiceKey, ServiceValue>,
    slots: BTreeMap<u32, Slot>,
    own: Vec<Address>,
    maglev: BTreeMap<MaglevKey, Vec<u16>>,
    ranges: Vec<(u32, Address)>,
    affinities: RefCell<BTreeMap<AffinityKey, AffinityValue>>,
    random: Cell<u32>,
    now: Cell<u32>,
}

impl Services for Tables {
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue> {
        self.services.get(key).copied()
    }
    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(&index).copied()
    }
    fn is_own(&self, address: &Address) -> bool {
        self.own.contains(address)
    }
    fn maglev(&self, block: &MaglevKey, entry: u32) -> Option<u16> {
        assert!(entry < MAGLEV_BLOCK as u32);
        self.maglev.get(block).map(|block| block[entry as usize])
    }
    fn is_in_ranges(&self, service: u32, client: &Address) -> bool {
        self.ranges.contains(&(service, *client))
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinities.borrow().get(key).copied()
    }
    fn keep(&self, key: &AffinityKey, value: &AffinityValue) {
        self.affinities.borrow_mut().insert(*key, *value);
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
        self.now.get()
    }
}

const SERVICE: u32 = 5;

fn address(last: u8) -> Address {
    Address::from_v4([192, 0, 2, last])
}

fn packet(client: u8, port: u16, to: Address, to_port: u16) -> Packet {
    Packet {
        destination_mac: [0; 6],
        source_mac: [0; 6],
        source: address(client),
        destination: to,
        v6: false,
        protocol: PROTOCOL_TCP,
        hop_limit: 64,
        fragment: Fragment::Whole,
        identification: 0,
        l4: 34,
        source_port: port.to_be(),
        destination_port: to_port.to_be(),
        tcp_flags: 2,
        icmp_type: 0,
    }
}

fn config() -> Config {
    Config {
        node_port_minimum: 30_000,
        node_port_maximum: 32_767,
        ..Config::default()
    }
}

/// A Service with that many backends at that key.
fn tables(key: ServiceKey, count: u32, value: ServiceValue) -> Tables {
    let mut tables = Tables::default();
    let value = ServiceValue {
        base: 10,
        count,
        set: 3,
        service: SERVICE,
        ..value
    };
    for index in 0..count {
        let slot = Slot {
            address: Address::from_v4([10, 1, (index >> 8) as u8, index as u8]),
            port: 8080u16.to_be(),
            flags: 0,
            set: 3,
        };
        tables.slots.insert(10 + index, slot);
    }
    tables.services.insert(key, value);
    tables
}

fn key(to: Address, port: u16, scope: u8) -> ServiceKey {
    ServiceKey {
        address: to,
        port: port.to_be(),
        protocol: PROTOCOL_TCP,
        scope,
    }
}

fn slot_of(choice: Result<Choice, DropReason>) -> Slot {
    match choice {
        Ok(Choice::Backend { slot, .. }) => slot,
        other => panic!("{other:?}"),
    }
}

#[test]
fn node_ports_are_ports_of_the_nodes_addresses_only() {
    let mut tables = tables(
        key(Address::ANY_V4, 30_080, SCOPE_OUTSIDE),
        3,
        ServiceValue::default(),
    );
    tables.own.push(address(2));
    let choose = |to, port, scope| choose(&tables, &config(), &packet(9, 1, to, port), scope);
    slot_of(choose(address(2), 30_080, SCOPE_OUTSIDE));
    for (to, port) in [(3, 30_080), (2, 30_081), (2, 80)] {
        assert_eq!(
            choose(address(to), port, SCOPE_OUTSIDE),
            Ok(Choice::Nothing)
        );
    }
    assert_eq!(
        choose(address(2), 30_080, SCOPE_INSIDE),
        Ok(Choice::Nothing)
    );
}

#[test]
fn another_nodes_node_port_is_found_in_the_local_scope() {
    let tables = tables(
        key(Address::ANY_V4, 30_080, SCOPE_LOCAL),
        1,
        ServiceValue::default(),
    );
    slot_of(choose(
        &tables,
        &config(),
        &packet(9, 1, address(77), 30_080),
        SCOPE_LOCAL,
    ));
}

#[test]
fn without_endpoints_it_depends_on_whose_address_it_is() {
    for (flags, expected) in [
        (0, Ok(Choice::Unserved)),
        (SERVICE_FOREIGN, Ok(Choice::Refuse)),
        (
            SERVICE_LOCAL | SERVICE_FOREIGN,
            Err(DropReason::NoLocalEndpoints),
        ),
        (SERVICE_HOST_ONLY, Ok(Choice::Nothing)),
        (SERVICE_SOURCE_RANGES, Err(DropReason::SourceRange)),
    ] {
        let value = ServiceValue {
            flags,
            ..ServiceValue::default()
        };
        let tables = tables(key(address(50), 80, SCOPE_OUTSIDE), 0, value);
        let packet = packet(9, 1, address(50), 80);
        assert_eq!(choose(&tables, &config(), &packet, SCOPE_OUTSIDE), expected);
    }
}

#[test]
fn source_ranges_let_in_whom_they_name() {
    let value = ServiceValue {
        flags: SERVICE_SOURCE_RANGES,
        ..ServiceValue::default()
    };
    let mut tables = tables(key(address(50), 80, SCOPE_OUTSIDE), 1, value);
    tables.ranges.push((SERVICE, address(9)));
    let choose = |client| {
        let packet = packet(client, 1, address(50), 80);
        choose(&tables, &config(), &packet, SCOPE_OUTSIDE)
    };
    slot_of(choose(9));
    assert_eq!(choose(8), Err(DropReason::SourceRange));
}

#[test]
fn a_set_that_changes_all_the_time_is_refused_by_name() {
    let mut tables = tables(
        key(address(50), 80, SCOPE_INSIDE),
        1,
        ServiceValue::default(),
    );
    tables.slots.get_mut(&10).unwrap().set = 4;
    let packet = packet(9, 1, address(50), 80);
    assert_eq!(
        choose(&tables, &config(), &packet, SCOPE_INSIDE),
        Err(DropReason::ServiceChanging)
    );
}

#[test]
fn maglev_depends_on_the_client_and_is_used_evenly() {
    let value = ServiceValue {
        maglev: 6,
        ..ServiceValue::default()
    };
    let mut tables = tables(key(address(50), 80, SCOPE_OUTSIDE), 8, value);
    for block in 0..crate::layout::MAGLEV_BLOCKS {
        let entries = (0..MAGLEV_BLOCK as u32).map(|entry| (block * 64 + entry) as u16 % 8);
        tables
            .maglev
            .insert(MaglevKey { table: 6, block }, entries.collect());
    }
    let mut hits = BTreeMap::new();
    for port in 1..8001 {
        let packet = packet(9, port, address(50), 80);
        let slot = slot_of(choose(&tables, &config(), &packet, SCOPE_OUTSIDE));
        let again = slot_of(choose(&tables, &config(), &packet, SCOPE_OUTSIDE));
        assert_eq!(slot, again);
        *hits.entry(slot.address).or_insert(0u32) += 1;
    }
    assert_eq!(hits.len(), 8);
    assert!(
        hits.values().all(|count| (800..1200).contains(count)),
        "{hits:?}"
    );
}

#[test]
fn a_damaged_maglev_table_leads_to_no_foreign_slot() {
    let value = ServiceValue {
        maglev: 6,
        ..ServiceValue::default()
    };
    let mut tables = tables(key(address(50), 80, SCOPE_OUTSIDE), 2, value);
    for block in 0..crate::layout::MAGLEV_BLOCKS {
        tables
            .maglev
            .insert(MaglevKey { table: 6, block }, vec![u16::MAX; MAGLEV_BLOCK]);
    }
    slot_of(choose(
        &tables,
        &config(),
        &packet(9, 1, address(50), 80),
        SCOPE_OUTSIDE,
    ));
}

/// At every node the same backend at first, and any once the time is over, as with kube-proxy.
#[test]
fn a_client_whose_affinity_is_over_is_balanced_anew() {
    let value = ServiceValue {
        maglev: 6,
        affinity: 10,
        ..ServiceValue::default()
    };
    let mut tables = tables(key(address(50), 80, SCOPE_OUTSIDE), 3, value);
    for block in 0..crate::layout::MAGLEV_BLOCKS {
        let entries = (0..MAGLEV_BLOCK).map(|entry| (entry % 3) as u16).collect();
        tables.maglev.insert(MaglevKey { table: 6, block }, entries);
    }
    let mut chosen = HashSet::new();
    for round in 0..40 {
        let mut of_round = HashSet::new();
        for (seconds, port) in [(0, 1), (5, 2), (10, 3)] {
            tables.now.set(round * 100 + seconds);
            let packet = packet(9, port, address(50), 80);
            let slot = slot_of(choose(&tables, &config(), &packet, SCOPE_OUTSIDE));
            of_round.insert(slot.address.words);
        }
        assert_eq!(of_round.len(), 1, "kept while its time lasts");
        chosen.extend(of_round);
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}

proptest! {
    /// A client stays with its backend while that is in the set and the time is not over.
    #[test]
    fn affinity_holds(count in 1u32..400, pause in 0u32..20, gone in any::<prop::sample::Index>()) {
        let value = ServiceValue { affinity: 10, ..ServiceValue::default() };
        let mut tables = tables(key(address(50), 80, SCOPE_INSIDE), count, value);
        let first = slot_of(choose(&tables, &config(), &packet(9, 1, address(50), 80), SCOPE_INSIDE));
        // One of the backends goes; those behind it move up, as the planner writes them.
        let gone = gone.index(count as usize) as u32;
        let left: Vec<Slot> = (0..count).filter(|index| *index != gone).map(|index| tables.slots[&(10 + index)]).collect();
        tables.slots = left.iter().enumerate()
            .map(|(at, slot)| (1000 + at as u32, Slot { set: 4, ..*slot })).collect();
        for value in tables.services.values_mut() {
            *value = ServiceValue { base: 1000, count: count - 1, set: 4, ..*value };
        }
        tables.now.set(pause);
        let choice = choose(&tables, &config(), &packet(9, 2, address(50), 80), SCOPE_INSIDE);
        if count == 1 {
            prop_assert_eq!(choice, Ok(Choice::Unserved));
        } else {
            let second = slot_of(choice);
            let stays = pause <= 10 && left.iter().any(|slot| slot.address == first.address);
            if stays {
                prop_assert_eq!(second.address, first.address);
            }
            prop_assert!(left.iter().any(|slot| slot.address == second.address));
        }
    }
}
