//! An upgrade over a change of the maps' layout: nothing that is connected notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;

use agent_ebpf::layout::{FlowKey, MAX_SERVICES, ServiceValue};
use aya::maps::{Array, HashMap, Map, MapData};

use super::super::migrate::layout1::{OldConfig, OldFlow, OldService};
use super::super::syscall::{object_get, object_pin};
use super::lab::{Feed, NODE, NODE_V6, run_program, service};
use super::services::{ask, serve_once};
use super::*;

type Services<V> = HashMap<MapData, Wire<ServiceKey>, Wire<V>>;

const GROWS: u32 = 1;
const SAME: [&str; 5] = ["SLOTS", "PODS", "SOURCES", "ORIGINS", "UDP_STATE"];

/// Pins what is pinned now as the layout 1 agent had it.
fn pin_as_layout_1(pins: &Path) {
    let (new, old) = (objects::map_directory(pins), pins.join("v1"));
    std::fs::create_dir(&old).unwrap();
    for name in SAME {
        let map = object_get(&new.join(name)).unwrap();
        object_pin(map.as_fd(), &old.join(name)).unwrap();
    }
    let pinned = MapData::from_pin(new.join("SERVICES")).unwrap();
    let services: Services<ServiceValue> = Map::HashMap(pinned).try_into().unwrap();
    let mut before: Services<OldService> = HashMap::create(MAX_SERVICES as u32, GROWS).unwrap();
    for (key, Wire(value)) in services.iter().flatten() {
        let value = OldService {
            base: value.base,
            count: value.count,
            set: value.set,
            service: value.service,
            affinity: value.affinity,
            flags: value.flags,
        };
        before.insert(key, Wire(value), 0).unwrap();
    }
    before.pin(old.join("SERVICES")).unwrap();
    let mut config = Array::<MapData, Wire<OldConfig>>::create(1, 0).unwrap();
    let uplink = |address: &str| Address::from(address.parse::<IpAddr>().unwrap());
    let old_config = OldConfig {
        before: [0; 14],
        uplink_v4: uplink(NODE),
        uplink_v6: uplink(NODE_V6),
        behind: [0; 96],
    };
    config.set(0, Wire(old_config), 0).unwrap();
    config.pin(old.join("CONFIG")).unwrap();
    let mut flows: HashMap<MapData, Wire<FlowKey>, Wire<OldFlow>> =
        HashMap::create(131_072, GROWS).unwrap();
    let table = super::super::flows::FlowTable::open(&new.join("FLOWS")).unwrap();
    for (key, value) in table.entries() {
        if !value.is_reverse() {
            let old = OldFlow {
                port: value.to.source_port,
                seen: value.seen,
                ..OldFlow::default()
            };
            flows.insert(Wire(key), Wire(old), 0).unwrap();
        }
    }
    flows.pin(old.join("FLOWS")).unwrap();
}

fn unpin(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    std::fs::remove_dir(directory).unwrap();
}

/// The state in which an agent of layout 1 that was killed leaves the node.
fn become_layout_1(pins: &Path) {
    pin_as_layout_1(pins);
    unpin(&objects::map_directory(pins));
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        stream.write_all(&byte).unwrap();
    }
}

#[test]
fn an_upgrade_from_layout_1_keeps_connections_services_pods_and_flows() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let listener = lab.in_pod(&server, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let names = lab.in_pod(&server, || UdpSocket::bind("0.0.0.0:8080").unwrap());
        let outside = lab.outside(|| TcpListener::bind("203.0.113.9:80").unwrap());
        let backends = [(server.addresses[0], 8080)];
        feed.apply(true, service("web", "10.96.0.80", 80, &backends))
            .await;
        let at: SocketAddr = "10.96.0.80:80".parse().unwrap();
        let far: SocketAddr = "203.0.113.9:80".parse().unwrap();
        let (mut streams, datagrams) = lab.in_pod(&client, move || {
            let streams = [at, far].map(|to| TcpStream::connect(to).unwrap());
            let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
            datagrams.send_to(b"x", at).unwrap();
            (streams, datagrams)
        });
        let served = [listener.accept().unwrap().0, outside.accept().unwrap().0]
            .map(|stream| std::thread::spawn(move || echo(stream)));
        let asker = names.recv_from(&mut [0]).unwrap().1;
        let mut talk = |what: &str| {
            for stream in &mut streams {
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                stream.write_all(b"x").unwrap();
                stream
                    .read_exact(&mut [0])
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        };
        drop(feed);
        drop(plane);
        let pins = lab.config().pin_dir;
        become_layout_1(&pins);
        talk("before the upgrade");

        let plane = lab.load().await;
        talk("after the upgrade");
        assert!(!pins.join("v1").exists(), "the old pins go");
        names.send_to(b"y", asker).unwrap();
        datagrams
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let (_, from) = datagrams.recv_from(&mut [0]).unwrap();
        assert_eq!(from, at, "what a socket was told is kept");
        assert_eq!(plane.inner.state().objects.pods.keys().count(), 4);

        // No batch yet, and it serves.
        let listening = std::thread::spawn(move || serve_once(&listener, "again"));
        let (peer, text) = lab.in_pod(&client, move || ask(at).unwrap());
        assert_eq!((peer, text.as_str()), (at, "again"));
        listening.join().unwrap();
        let mut feed = Feed::new(&plane);
        feed.apply(true, Vec::new()).await;
        lab.in_pod(&client, move || ask(at).unwrap_err());
        talk("after its service is gone");
        drop(streams);
        for thread in served {
            thread.join().unwrap();
        }
        plane.unload().await.unwrap();
    });
}

/// Which ports of a Service the maps of this layout have.
fn ports(plane: &DataPlane, address: &str) -> Vec<u16> {
    let address: Address = address.parse::<IpAddr>().unwrap().into();
    let state = plane.inner.state();
    let keys = state.objects.services.keys().flatten();
    let mut ports: Vec<u16> = keys
        .filter(|Wire(key)| key.address == address && key.protocol == PROTOCOL_TCP)
        .map(|Wire(key)| u16::from_be(key.port))
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn an_upgrade_that_was_cut_short_is_begun_again_or_finished() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        feed.apply(true, service("web", "10.96.0.80", 80, &[]))
            .await;
        drop((feed, plane));
        let pins = lab.config().pin_dir;
        become_layout_1(&pins);
        // Killed before a program was attached: what it made is thrown away.
        drop(Objects::load(&pins).unwrap());
        assert!(pins.join("v1").exists() && objects::map_directory(&pins).exists());
        {
            let pinned = MapData::from_pin(objects::map_directory(&pins).join("SERVICES")).unwrap();
            let mut services: Services<ServiceValue> = Map::HashMap(pinned).try_into().unwrap();
            let (Wire(key), value) = services.iter().flatten().next().unwrap();
            let stale = ServiceKey {
                address: "10.96.0.80".parse::<IpAddr>().unwrap().into(),
                port: 81u16.to_be(),
                protocol: PROTOCOL_TCP,
                ..key
            };
            services.insert(Wire(stale), value, 0).unwrap();
        }
        let plane = lab.load().await;
        assert_eq!(ports(&plane, "10.96.0.80"), [80]);

        // Killed after programs were attached: what the new maps say stays.
        let mut feed = Feed::new(&plane);
        pin_as_layout_1(&pins);
        feed.apply(true, service("web", "10.96.0.80", 82, &[]))
            .await;
        drop((feed, plane));
        let plane = lab.load().await;
        assert!(ports(&plane, "10.96.0.80").contains(&82));
        assert!(!pins.join("v1").exists());
        plane.unload().await.unwrap();
    });
}

#[test]
fn layouts_that_are_foreign_or_newer_are_left_behind() {
    lab(|lab| async move {
        let pins = lab.config().pin_dir;
        bpffs::ensure(&pins).unwrap();
        for directory in ["v1", "v99", "vine"] {
            let directory = pins.join(directory);
            std::fs::create_dir(&directory).unwrap();
            for name in ["SERVICES", "SLOTS"] {
                run_program(&format!(
                    "bpftool map create {}/{name} type hash key 4 value 4 entries 1 name foreign",
                    directory.display()
                ));
            }
        }
        let plane = lab.load().await;
        assert!(!pins.join("v1").exists() && !pins.join("v99").exists());
        assert!(pins.join("vine").exists(), "no layout's");
        plane.unload().await.unwrap();
    });
}
