//! A new process takes over what the one before left, and sweeps what nothing refers to.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::generate::any_batch;
use super::model::Model;
use super::*;

fn state() -> Vec<Event> {
    let mut service = service();
    service.ports[0].node_port = Some(30_080);
    service.load_balancer_ips = vec![ip("203.0.113.8")];
    service.load_balancer_source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    vec![
        Event::ServiceSet(name("web"), service),
        Event::SliceSet(
            name("web-1"),
            slice([endpoint("10.77.0.1"), local("10.77.0.2")]),
        ),
    ]
}

fn restart(bench: &mut Bench) {
    bench.planner = Planner::new(HERE, false, Limits::default());
    bench.planner.adopt(&bench.maps.found());
}

#[test]
fn a_restart_changes_nothing() {
    let mut bench = Bench::new();
    bench.apply(true, state());
    let before = bench.maps.services.clone();
    restart(&mut bench);
    assert_eq!(
        bench.planner.node_ports(),
        (30_080, 30_080),
        "before any event is there"
    );
    bench.apply(true, state());
    assert_eq!(bench.plan, Plan::default());
    assert_eq!(bench.maps.services, before);
}

#[test]
fn what_changed_meanwhile_keeps_its_number_and_announces_what_has_gone() {
    let mut bench = Bench::new();
    bench.apply(true, state());
    let number = bench.maps.services[&inside("10.96.0.1", 80)].service;
    restart(&mut bench);
    let mut events = state();
    events[1] = Event::SliceSet(
        name("web-1"),
        slice([endpoint("10.77.0.1"), draining(local("10.77.0.3"))]),
    );
    bench.apply(true, events);
    assert!(
        bench
            .maps
            .services
            .values()
            .all(|value| value.service == number)
    );
    assert_eq!(bench.gone().len(), 5, "of each key");
    assert!(
        bench
            .gone()
            .iter()
            .all(|(_, address, state)| address == "10.77.0.2" && *state == GoneState::Removed)
    );
}

#[test]
fn a_set_number_is_not_borne_again() {
    let mut bench = Bench::new();
    bench.apply(true, state());
    bench.endpoints([endpoint("10.77.0.1")]);
    let latest = bench
        .maps
        .services
        .values()
        .map(|value| value.set)
        .max()
        .unwrap();
    bench.apply(false, vec![Event::ServiceRemoved(name("web"))]);
    bench.rest();
    restart(&mut bench);
    bench.apply(true, state());
    assert!(
        bench.maps.services.values().all(|value| value.set > latest),
        "its slots tell"
    );
}

#[test]
fn leftovers_of_a_crash_are_swept_once_everything_is_known() {
    let mut bench = Bench::new();
    bench.apply(true, state());
    let clean = bench.maps.clone();
    // Half a change: a table, ranges, but no key that names them.
    let crashed = clean.services[&inside("10.96.0.1", 80)].set + 5;
    bench.maps.execute(&Operation::Maglev {
        table: crashed,
        backends: Arc::from([backend("10.77.0.9")]),
    });
    bench.maps.tables.insert(crashed + 1, (Vec::new(), 3));
    bench.maps.execute(&Operation::Admit {
        range: Range::new(crashed, "11.0.0.0/8".parse().unwrap()),
    });
    restart(&mut bench);
    bench.apply(false, vec![]);
    assert_eq!(bench.plan.operations, [], "not before");
    bench.apply(true, state());
    assert_eq!(
        (&bench.maps.tables, &bench.maps.ranges),
        (&clean.tables, &clean.ranges)
    );
    assert_eq!(bench.maps.services, clean.services);
}

#[test]
fn a_host_port_waits_for_its_pod_and_goes_if_the_pod_is_gone() {
    let mut bench = Bench::new();
    let ports = |address: &str| {
        vec![HostPort {
            host_ip: None,
            port: 8000,
            protocol: Protocol::Tcp,
            addresses: vec![ip(address)],
            container_port: 8080,
        }]
    };
    bench.host_ports("a", &ports("10.88.0.1"));
    let before = bench.maps.services.clone();
    restart(&mut bench);
    bench.apply(true, state());
    bench
        .planner
        .forget_orphans(|address| *address == ip("10.88.0.1").into());
    bench.host_ports("a", &ports("10.88.0.1"));
    for (key, value) in &before {
        assert_eq!(bench.maps.services.get(key), Some(value));
    }
    restart(&mut bench);
    bench.apply(true, state());
    assert_eq!(bench.at(node_port(8000, SCOPE_INSIDE)), some(["10.88.0.1"]));
    bench.planner.forget_orphans(|_| false);
    let plan = bench.planner.retry();
    bench.run(plan);
    assert_eq!(bench.at(node_port(8000, SCOPE_INSIDE)), None);
}

#[test]
fn without_direct_server_return_scope_local_goes() {
    let mut bench = Bench::with(true, Limits::default());
    bench.apply(true, state());
    assert_eq!(
        bench
            .maps
            .services
            .keys()
            .filter(|key| key.scope == 2)
            .count(),
        2
    );
    restart(&mut bench);
    bench.apply(true, state());
    assert_eq!(
        bench
            .maps
            .services
            .keys()
            .filter(|key| key.scope == 2)
            .count(),
        0
    );
}

fn any_entry() -> impl Strategy<
    Value = (
        ServiceKey,
        agent_ebpf::layout::ServiceValue,
        Vec<agent_ebpf::layout::Slot>,
    ),
> {
    (1u8..6, 0u8..2, any::<(u8, u8, u8)>(), 0u32..5).prop_map(
        |(last, scope, (base, count, set), mismatch)| {
            let key = key(&format!("10.96.0.{last}"), 80, scope);
            let value = agent_ebpf::layout::ServiceValue {
                base: u32::from(base) * mismatch.max(1),
                count: u32::from(count % 5),
                set: u32::from(set % 8),
                service: 1,
                maglev: u32::from(set % 8) * (mismatch % 2),
                ..Default::default()
            };
            let slot = agent_ebpf::layout::Slot {
                set: u32::from(set % 8) + mismatch / 3,
                ..Default::default()
            };
            (key, value, vec![slot; usize::from(count % 4)])
        },
    )
}

proptest! {
    /// Whatever an earlier or foreign program left in the maps, the first full batch puts it right.
    #[test]
    fn nonsense_is_adopted_without_harm(
        found in proptest::collection::vec(any_entry(), 0..12),
        tables in proptest::collection::btree_map(0u32..8, 0u32..20, 0..4),
        ranges in proptest::collection::btree_set(0u32..8, 0..4),
        batch in any_batch(),
    ) {
        let mut bench = Bench::new();
        for (key, value, slots) in &found {
            bench.maps.services.insert(*key, *value);
            for (index, slot) in (value.base..).zip(slots) {
                bench.maps.slots.insert(index, *slot);
            }
        }
        for (table, blocks) in &tables {
            bench.maps.tables.insert(*table, (Vec::new(), *blocks));
        }
        bench.maps.ranges = ranges.iter().map(|service| Range::new(*service, "10.0.0.0/8".parse().unwrap())).collect();
        restart(&mut bench);
        bench.maps.node_ports = Some(bench.planner.node_ports());
        let mut model = Model::new(false);
        let batch = Batch { full: true, ..batch };
        model.apply(&batch);
        let plan = tell(&mut bench.planner, &batch);
        for operation in &plan.operations {
            bench.maps.execute(operation);
        }
        bench.rest();
        let named: BTreeSet<u32> = bench.maps.services.values().map(|value| value.maglev).filter(|table| *table != 0).collect();
        prop_assert_eq!(bench.maps.tables.keys().copied().collect::<BTreeSet<u32>>(), named);
        prop_assert_eq!(bench.maps.all(), model.expected());
    }
}
