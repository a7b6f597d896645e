//! The planner against a plain reference model: after any sequence of events the tables say what Kubernetes
//! says, and at no step in between does a service point to slots that are not its own.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::cluster::{Endpoint, EndpointPort, Protocol, ServicePort, ServiceType};

const SLOTS: u32 = 64;
const SERVICES: usize = 12;

/// The two maps, as the kernel would hold them.
#[derive(Debug, Default, Clone)]
struct Maps {
    services: HashMap<ServiceKey, ServiceValue>,
    slots: BTreeMap<u32, Slot>,
}

impl Maps {
    fn execute(&mut self, operation: &Operation) {
        match operation {
            Operation::Slots { base, slots } => {
                for (index, slot) in slots.iter().enumerate() {
                    self.slots.insert(base + index as u32, *slot);
                }
            }
            Operation::Set { key, value } => {
                self.services.insert(*key, *value);
            }
            Operation::Remove { key } => {
                assert!(
                    self.services.remove(key).is_some(),
                    "removes what is not there"
                );
            }
        }
    }

    /// What a program would find for a key; panics if a slot is not the service's own.
    fn view(&self, key: &ServiceKey) -> Option<BTreeSet<Backend>> {
        let value = self.services.get(key)?;
        let slots = value.base..value.base + value.count;
        Some(
            slots
                .map(|index| {
                    let slot = &self.slots[&index];
                    assert_eq!(slot.set, value.set, "{key:?} points to foreign slots");
                    Backend {
                        address: slot.address,
                        port: u16::from_be(slot.port),
                    }
                })
                .collect(),
        )
    }

    fn all(&self) -> BTreeMap<ServiceKey, BTreeSet<Backend>> {
        self.services
            .keys()
            .map(|key| (*key, self.view(key).unwrap()))
            .collect()
    }
}

/// Services and slices by name, and nothing else: everything is computed from scratch.
#[derive(Debug, Default, Clone)]
struct Model {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
}

impl Model {
    fn apply(&mut self, batch: &Batch) {
        if batch.full {
            *self = Self::default();
        }
        for event in &batch.events {
            match event.clone() {
                Event::ServiceSet(name, service) => {
                    self.services.insert(name, service);
                }
                Event::ServiceRemoved(name) => {
                    self.services.remove(&name);
                }
                Event::SliceSet(name, slice) => {
                    self.slices.insert(name, slice);
                }
                Event::SliceRemoved(name) => {
                    self.slices.remove(&name);
                }
                Event::NodeSet(..) | Event::NodeRemoved(..) => {}
            }
        }
    }

    /// As the Kubernetes documentation says it, as plainly as possible.
    fn expected(&self, node: &str) -> BTreeMap<ServiceKey, BTreeSet<Backend>> {
        let mut expected = BTreeMap::new();
        // ClusterIPs win over external addresses, then the first name wins.
        for external in [false, true] {
            for (name, service) in &self.services {
                if service.headless || service.service_type == ServiceType::ExternalName {
                    continue;
                }
                let addresses = if external {
                    &service.external_ips
                } else {
                    &service.cluster_ips
                };
                for address in addresses {
                    for port in &service.ports {
                        let key = ServiceKey {
                            address: (*address).into(),
                            port: port.port.to_be(),
                            protocol: endpoints::number(port.protocol),
                            scope: 0,
                        };
                        expected
                            .entry(key)
                            .or_insert_with(|| self.targets(name, service, port, external, node));
                    }
                }
            }
        }
        expected
    }

    fn targets(
        &self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        external: bool,
        node: &str,
    ) -> BTreeSet<Backend> {
        let mut ready = BTreeSet::new();
        let mut draining = BTreeSet::new();
        for (slice_name, slice) in &self.slices {
            if slice_name.namespace != name.namespace || slice.service != name.name {
                continue;
            }
            for target in &slice.ports {
                if target.name != port.name || target.protocol != port.protocol {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let far = endpoint.node.as_deref() != Some(node);
                    if !external && service.internal_traffic_local && far {
                        continue;
                    }
                    let backend = Backend {
                        address: endpoint.addresses[0].into(),
                        port: target.port,
                    };
                    if endpoint.ready || service.publish_not_ready_addresses {
                        ready.insert(backend);
                    } else if endpoint.serving && endpoint.terminating {
                        draining.insert(backend);
                    }
                }
            }
        }
        if ready.is_empty() { draining } else { ready }
    }
}

fn object(index: u8) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: format!("object{index}"),
    }
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, last).into()
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn any_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    // Names are unique within a Service, and so are pairs of port and protocol.
    proptest::collection::btree_set((0u16..2, any_protocol_number()), 0..3).prop_map(|ports| {
        ports
            .into_iter()
            .enumerate()
            .map(|(index, (port, udp))| ServicePort {
                name: format!("port{index}"),
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                port: 80 + port,
                node_port: None,
            })
            .collect()
    })
}

fn any_protocol_number() -> impl Strategy<Value = bool> {
    any::<bool>()
}

fn any_service() -> impl Strategy<Value = Service> {
    (
        proptest::collection::btree_set(1u8..5, 0..2),
        proptest::collection::btree_set(1u8..5, 0..2),
        any_ports(),
        any::<[bool; 3]>(),
        prop_oneof![Just(None), Just(Some(10u32))],
    )
        .prop_map(
            |(cluster, external, ports, [headless, local, publish], affinity)| Service {
                cluster_ips: cluster.into_iter().map(ip).collect(),
                external_ips: external.into_iter().map(ip).collect(),
                headless: headless && affinity.is_some(),
                ports,
                internal_traffic_local: local,
                publish_not_ready_addresses: publish,
                session_affinity: affinity,
                ..Service::default()
            },
        )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (1u8..6, any::<[bool; 3]>(), any::<bool>()).prop_map(
        |(last, [ready, serving, terminating], here)| Endpoint {
            addresses: vec![Ipv4Addr::new(10, 77, 0, last).into()],
            ready,
            serving,
            terminating,
            node: Some(if here { "here" } else { "there" }.to_owned()),
            ..Endpoint::default()
        },
    );
    (
        0u8..4,
        proptest::collection::vec((0u8..2, any_protocol(), 8080u16..8082), 0..3),
        proptest::collection::vec(endpoint, 0..5),
    )
        .prop_map(|(service, ports, endpoints)| {
            let mut seen = BTreeSet::new();
            EndpointSlice {
                service: object(service).name,
                ports: ports
                    .into_iter()
                    .filter(|(name, protocol, _)| seen.insert((*name, *protocol)))
                    .map(|(name, protocol, port)| EndpointPort {
                        name: format!("port{name}"),
                        protocol,
                        port,
                    })
                    .collect(),
                endpoints,
            }
        })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u8..4, any_service()).prop_map(|(index, service)| Event::ServiceSet(object(index), service)),
        1 => (0u8..4).prop_map(|index| Event::ServiceRemoved(object(index))),
        6 => (0u8..6, any_slice()).prop_map(|(index, slice)| Event::SliceSet(object(index), slice)),
        2 => (0u8..6).prop_map(|index| Event::SliceRemoved(object(index))),
    ]
}

fn any_batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (
        proptest::bool::weighted(0.15),
        proptest::collection::vec(any_event(), 0..5),
    )
        .prop_map(|(full, events)| Batch {
            revision: 0,
            full,
            events,
        });
    proptest::collection::vec(batch, 1..25)
}

/// Carries out a plan one operation at a time; after each, every service has its old or its new backends.
fn run(maps: &mut Maps, plan: &Plan) {
    let before = maps.all();
    let mut end = maps.clone();
    for operation in &plan.operations {
        end.execute(operation);
    }
    let after = end.all();
    for operation in &plan.operations {
        maps.execute(operation);
        for (key, backends) in maps.all() {
            let known = before.get(&key) == Some(&backends) || after.get(&key) == Some(&backends);
            assert!(
                known,
                "{key:?} has backends of neither before nor after: {backends:?}"
            );
        }
    }
    for Gone { key, backend, .. } in &plan.gone {
        assert!(before[key].contains(backend));
        assert!(!after.get(key).is_some_and(|now| now.contains(backend)));
    }
    for (key, backends) in &before {
        for backend in backends {
            let kept = after.get(key).is_some_and(|now| now.contains(backend));
            assert!(
                kept || plan
                    .gone
                    .iter()
                    .any(|gone| (gone.key, gone.backend) == (*key, *backend)),
                "{backend:?} went unannounced"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tables_follow_the_cluster(batches in any_batches(), restart_at in 0usize..25) {
        let mut planner = Planner::new("here", SERVICES * 8, SLOTS * 16);
        let mut maps = Maps::default();
        let mut model = Model::default();
        for (step, batch) in batches.iter().enumerate() {
            let mut batch = batch.clone();
            if step == restart_at {
                // A new process adopts the maps, and is told everything there is.
                planner = Planner::new("here", SERVICES * 8, SLOTS * 16);
                planner.adopt(adoptable(&maps));
                batch.full = true;
            }
            model.apply(&batch);
            let plan = planner.apply(&batch);
            prop_assert_eq!(&plan.problems, &[]);
            run(&mut maps, &plan);
            prop_assert_eq!(maps.all(), model.expected("here"));
            prop_assert_eq!(planner.services(), maps.services.len());
            // Slots may be reused as soon as the plan after the next.
            planner.reclaim(planner.epoch() - 1);
        }
        // Saying it all again changes nothing.
        let again = Batch {
            revision: 0,
            full: true,
            events: model
                .services
                .into_iter()
                .map(|(name, service)| Event::ServiceSet(name, service))
                .chain(model.slices.into_iter().map(|(name, slice)| Event::SliceSet(name, slice)))
                .collect(),
        };
        let plan = planner.apply(&again);
        prop_assert_eq!(plan, Plan::default());
    }

    /// Tables so small that they overflow: what does not fit keeps what it had, and what fits is right.
    #[test]
    fn full_tables_break_nothing(batches in any_batches()) {
        let mut planner = Planner::new("here", 3, 8);
        let mut maps = Maps::default();
        let mut model = Model::default();
        for batch in &batches {
            model.apply(batch);
            let plan = planner.apply(batch);
            run(&mut maps, &plan);
            prop_assert!(maps.services.len() <= 3);
            let expected = model.expected("here");
            let refused: BTreeSet<ServiceKey> = plan
                .problems
                .iter()
                .map(|problem| match problem {
                    Problem::Slots { key, .. } | Problem::Services { key, .. } => *key,
                })
                .collect();
            for (key, backends) in maps.all() {
                prop_assert!(refused.contains(&key) || expected.get(&key) == Some(&backends));
            }
            for key in expected.keys() {
                prop_assert!(refused.contains(key) || maps.services.contains_key(key));
            }
            prop_assert_eq!(planner.is_pending(), !refused.is_empty());
            planner.reclaim(planner.epoch());
        }
        // Once there is room, trying again completes it.
        let plan = planner.apply(&Batch { revision: 0, full: true, events: Vec::new() });
        run(&mut maps, &plan);
        prop_assert!(maps.services.is_empty());
        prop_assert!(!planner.is_pending());
        planner.reclaim(planner.epoch());
        prop_assert_eq!(planner.slots_used(), 0);
    }

    /// Operations that fail are tried again until the kernel holds what it should.
    #[test]
    fn failures_are_made_good(batches in any_batches(), fail in proptest::collection::vec(any::<bool>(), 64)) {
        let mut planner = Planner::new("here", SERVICES * 8, SLOTS * 16);
        let mut maps = Maps::default();
        let mut model = Model::default();
        let mut fail = fail.into_iter();
        for batch in &batches {
            model.apply(batch);
            let plan = planner.apply(batch);
            let mut failed = Vec::new();
            for operation in &plan.operations {
                match operation {
                    Operation::Set { key, .. } if fail.next().unwrap_or(false) => failed.push(*key),
                    operation => maps.execute_leniently(operation),
                }
            }
            planner.failed(failed);
            while planner.is_pending() {
                let plan = planner.retry();
                for operation in &plan.operations {
                    maps.execute_leniently(operation);
                }
            }
            prop_assert_eq!(maps.all(), model.expected("here"));
        }
    }

    /// Whatever an earlier or foreign program left in the maps, the first full batch puts it right.
    #[test]
    fn nonsense_is_adopted_without_harm(
        found in proptest::collection::vec(any_entry(), 0..12),
        batch in any_batches(),
    ) {
        let mut maps = Maps::default();
        for (key, value, slots) in &found {
            maps.services.insert(*key, *value);
            for (index, slot) in slots.iter().enumerate() {
                maps.slots.insert(value.base.wrapping_add(index as u32) % SLOTS, *slot);
            }
        }
        let mut planner = Planner::new("here", SERVICES * 8, SLOTS * 16);
        planner.adopt(adoptable(&maps));
        let mut model = Model::default();
        let batch = Batch { full: true, ..batch[0].clone() };
        model.apply(&batch);
        for operation in &planner.apply(&batch).operations {
            maps.execute(operation);
        }
        prop_assert_eq!(maps.all(), model.expected("here"));
    }
}

impl Maps {
    fn execute_leniently(&mut self, operation: &Operation) {
        if let Operation::Remove { key } = operation {
            self.services.remove(key);
        } else {
            self.execute(operation);
        }
    }
}

fn any_entry() -> impl Strategy<Value = (ServiceKey, ServiceValue, Vec<Slot>)> {
    (1u8..9, any::<(u8, u8, u8)>(), 0u32..4).prop_map(|(last, (base, count, set), mismatch)| {
        let key = ServiceKey {
            address: ip(last).into(),
            port: 80u16.to_be(),
            protocol: 6,
            scope: 0,
        };
        let value = ServiceValue {
            base: u32::from(base) * mismatch.max(1),
            count: u32::from(count % 5),
            set: u32::from(set),
            service: 1,
            ..ServiceValue::default()
        };
        let slot = Slot {
            set: u32::from(set) + mismatch / 3,
            ..Slot::default()
        };
        (key, value, vec![slot; usize::from(count % 4)])
    })
}

fn adoptable(maps: &Maps) -> impl Iterator<Item = (ServiceKey, ServiceValue, Vec<Slot>)> + use<> {
    let found: Vec<_> = maps
        .services
        .iter()
        .map(|(key, value)| {
            let slots = (value.base..value.base.saturating_add(value.count))
                .filter_map(|index| maps.slots.get(&index).copied())
                .collect();
            (*key, *value, slots)
        })
        .collect();
    found.into_iter()
}

#[test]
fn addresses_and_ports_that_make_no_sense_are_left_out() {
    let service = Service {
        cluster_ips: [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "10.96.0.1",
        ]
        .map(|address| address.parse().unwrap())
        .to_vec(),
        ports: vec![
            ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            },
            ServicePort {
                name: "zero".to_owned(),
                protocol: Protocol::Tcp,
                port: 0,
                node_port: None,
            },
        ],
        ..Service::default()
    };
    let slice = EndpointSlice {
        service: object(0).name,
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: [
            "0.0.0.0",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "239.1.1.1",
            "10.77.0.3",
        ]
        .map(|address| Endpoint {
            addresses: vec![address.parse().unwrap()],
            ready: true,
            ..Endpoint::default()
        })
        .into_iter()
        .chain([Endpoint {
            ready: true,
            ..Endpoint::default()
        }])
        .collect(),
    };
    let mut planner = Planner::new("here", 10, 10);
    let plan = planner.apply(&Batch {
        revision: 1,
        full: true,
        events: vec![
            Event::ServiceSet(object(0), service),
            Event::SliceSet(object(1), slice),
        ],
    });
    let mut maps = Maps::default();
    run(&mut maps, &plan);
    let all = maps.all();
    assert_eq!(all.len(), 1);
    let (key, backends) = all.into_iter().next().unwrap();
    assert_eq!(IpAddr::from(key.address), ip(1));
    let backends: Vec<IpAddr> = backends
        .iter()
        .map(|backend| backend.address.into())
        .collect();
    assert_eq!(backends, ["10.77.0.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn thirty_thousand_services_are_planned_quickly() {
    let mut events = Vec::new();
    for number in 0..30_000u32 {
        let name = ObjectName {
            namespace: "default".to_owned(),
            name: format!("service{number}"),
        };
        let port = |port| ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port,
            node_port: None,
        };
        events.push(Event::ServiceSet(
            name.clone(),
            Service {
                cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + number + 1).into()],
                ports: vec![port(80)],
                ..Service::default()
            },
        ));
        events.push(Event::SliceSet(
            name.clone(),
            EndpointSlice {
                service: name.name,
                ports: vec![EndpointPort {
                    name: String::new(),
                    protocol: Protocol::Tcp,
                    port: 8080,
                }],
                endpoints: (0..3)
                    .map(|index| Endpoint {
                        addresses: vec![Ipv4Addr::from(0x0a80_0000 + 3 * number + index).into()],
                        ready: true,
                        ..Endpoint::default()
                    })
                    .collect(),
            },
        ));
    }
    let mut planner = Planner::new("here", 131_072, 262_144);
    let batch = Batch {
        revision: 1,
        full: true,
        events,
    };
    let plan = planner.apply(&batch);
    assert_eq!(plan.operations.len(), 60_000);
    assert_eq!((planner.services(), planner.backends()), (30_000, 90_000));
    assert_eq!(planner.apply(&batch).operations.len(), 0);
}
