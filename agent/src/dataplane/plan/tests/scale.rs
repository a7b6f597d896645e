//! Large clusters: what is planned, and that a small change stays small.

use std::net::Ipv4Addr;

use super::*;

fn numbered(number: u32) -> ObjectName {
    name(&format!("service{number}"))
}

fn cluster(services: u32, with_node_ports: bool) -> Batch {
    let mut events = Vec::new();
    for number in 0..services {
        let node_port = with_node_ports.then(|| 30_000 + number as u16);
        events.push(Event::ServiceSet(
            numbered(number),
            Service {
                cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + number + 1).into()],
                ports: vec![ServicePort {
                    node_port,
                    ..port(80)
                }],
                ..Service::default()
            },
        ));
        events.push(Event::SliceSet(numbered(number), endpoints_of(number, 3)));
    }
    Batch {
        revision: 1,
        full: true,
        events,
    }
}

fn endpoints_of(number: u32, count: u32) -> EndpointSlice {
    let address = |index| Ipv4Addr::from(0x0a80_0000 + 3 * number + index).to_string();
    EndpointSlice {
        service: numbered(number).name,
        ..slice((0..count).map(|index| endpoint(&address(index))))
    }
}

#[test]
fn thirty_thousand_services_are_planned_and_a_small_change_is_small() {
    let mut planner = Planner::new(HERE, false, Limits::default());
    let batch = cluster(30_000, false);
    let plan = planner.apply(&batch);
    assert_eq!(plan.operations.len(), 60_000);
    assert_eq!((planner.services(), planner.backends()), (30_000, 90_000));
    assert_eq!(planner.apply(&batch).operations.len(), 0);
    let change = Batch {
        revision: 2,
        full: false,
        events: vec![Event::SliceSet(numbered(7), endpoints_of(7, 2))],
    };
    assert_eq!(
        planner.apply(&change).operations.len(),
        2,
        "slots, then the flip"
    );
}

#[test]
fn ten_thousand_node_ports_have_a_table_each() {
    let mut planner = Planner::new(HERE, false, Limits::default());
    let plan = planner.apply(&cluster(10_000, true));
    let tables = plan
        .operations
        .iter()
        .filter(|operation| matches!(operation, Operation::Maglev { .. }));
    assert_eq!(
        (tables.count(), planner.maglev_tables_used()),
        (10_000, 10_000)
    );
    assert_eq!(planner.slots_used(), 30_000, "shared by the keys of a port");
    assert_eq!(planner.node_ports(), (30_000, 39_999));
}
