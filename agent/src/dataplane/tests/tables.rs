//! What the planner's operations leave in the kernel's maps, and what a restart makes of it.

use agent_ebpf::layout::{MAGLEV_BLOCKS, MaglevBlock, MaglevKey, SCOPE_OUTSIDE, SourceRange};
use aya::maps::lpm_trie::Key;

use super::lab::{Feed, service};
use super::*;
use crate::cluster::Event;

fn state() -> Vec<Event> {
    let pod = |last| std::net::IpAddr::from([10, 77, 9, last]);
    let mut events = service("web", "10.96.0.1", 80, &[(pod(1), 8080), (pod(2), 8080)]);
    if let Event::ServiceSet(_, service) = &mut events[0] {
        service.ports[0].node_port = Some(30_080);
        service.load_balancer_ips = vec!["203.0.113.8".parse().unwrap()];
        service.load_balancer_source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    }
    events
}

fn node_ports(plane: &DataPlane) -> (u16, u16) {
    let Wire(config) = plane.inner.state().objects.config.get(&0, 0).unwrap();
    (config.node_port_minimum, config.node_port_maximum)
}

#[test]
fn tables_are_written_adopted_and_swept() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        feed.apply(true, state()).await;
        assert_eq!(node_ports(&plane), (30_080, 30_080));
        let key = ServiceKey {
            address: "203.0.113.8".parse::<IpAddr>().unwrap().into(),
            port: 80u16.to_be(),
            protocol: PROTOCOL_TCP,
            scope: SCOPE_OUTSIDE,
        };
        let admits = |plane: &DataPlane, service: u32, client: &str| {
            let address = client.parse::<IpAddr>().unwrap().into();
            let data = SourceRange { service, address };
            let state = plane.inner.state();
            state
                .objects
                .source_ranges
                .get(&Key::new(160, Wire(data)), 0)
                .is_ok()
        };
        let value = {
            let state = plane.inner.state();
            let Wire(value) = state.objects.services.get(&Wire(key), 0).unwrap();
            let blocks = (0..MAGLEV_BLOCKS).map(|block| MaglevKey {
                table: value.maglev,
                block,
            });
            for key in blocks {
                let Wire(MaglevBlock { slots }) = state.objects.maglev.get(&Wire(key), 0).unwrap();
                assert!(slots.iter().all(|slot| *slot < 2) && slots.contains(&1));
            }
            value
        };
        assert!(admits(&plane, value.service, "198.51.100.9"));
        assert!(!admits(&plane, value.service, "198.51.101.9"));
        // Half a change of a process that is no more.
        {
            let mut state = plane.inner.state();
            let stray = MaglevKey {
                table: value.set + 7,
                block: 3,
            };
            let block = MaglevBlock { slots: [0; 64] };
            state
                .objects
                .maglev
                .insert(Wire(stray), Wire(block), 0)
                .unwrap();
            let data = SourceRange {
                service: value.set + 7,
                address: key.address,
            };
            state
                .objects
                .source_ranges
                .insert(&Key::new(160, Wire(data)), 1, 0)
                .unwrap();
        }
        drop((feed, plane));
        let plane = lab.load().await;
        assert_eq!(
            node_ports(&plane),
            (30_080, 30_080),
            "before anything is told"
        );
        let mut feed = Feed::new(&plane);
        feed.apply(true, state()).await;
        {
            let mut state = plane.inner.state();
            let Wire(now) = state.objects.services.get(&Wire(key), 0).unwrap();
            assert_eq!(now, value);
            assert!(
                state
                    .objects
                    .maglev
                    .keys()
                    .flatten()
                    .all(|Wire(key)| key.table != value.set + 7)
            );
            assert_eq!(state.objects.source_ranges.iter().flatten().count(), 2);
            occupancy::count(&mut state);
            let used = |table| {
                occupancy::fills(&state)
                    .iter()
                    .find(|fill| fill.table == table)
                    .unwrap()
                    .used
            };
            // Slots are shared by the keys of a port: two ports with two backends, and the DNS entries.
            assert_eq!(
                (used("maglev_blocks"), used("source_ranges"), used("slots")),
                (32, 2, 6)
            );
            assert_eq!((used("affinities"), used("fragments")), (0, 0));
        }
        plane.unload().await.unwrap();
    });
}

/// What a change that could not be made would have ended goes on, and ends when the change is made.
#[test]
fn nothing_is_gone_before_the_maps_say_so() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let pod = |last| std::net::IpAddr::from([10, 77, 9, last]);
        let batch = |full, events| Batch {
            revision: 1,
            full,
            events,
        };
        let mut guard = plane.inner.state();
        let State {
            tables,
            objects,
            settings,
            ..
        } = &mut *guard;
        let two = service("web", "10.96.0.1", 80, &[(pod(1), 8080), (pod(2), 8080)]);
        tables.apply(objects, settings, &batch(true, two.clone()));
        let Event::SliceSet(second, _) = two[2].clone() else {
            panic!("a slice for each backend");
        };
        let slots = objects.slots_fd.try_clone().unwrap();
        objects.slots_fd = std::fs::File::open("/dev/null").unwrap().into();
        let change = batch(false, vec![Event::SliceRemoved(second)]);
        let (outcome, gone) = tables.apply(objects, settings, &change);
        assert_eq!((outcome, gone), (Outcome::Incomplete, Vec::new()));
        objects.slots_fd = slots;
        let (outcome, gone) = tables.retry(objects, settings);
        assert_eq!(outcome, Outcome::InForce);
        assert!(!gone.is_empty());
        assert!(
            gone.iter()
                .all(|gone| gone.backend.address == pod(2).into())
        );
        drop(guard);
        plane.unload().await.unwrap();
    });
}
