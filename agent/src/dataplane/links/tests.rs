//! What follows from a node's interfaces and addresses.
#![allow(clippy::unwrap_used)]

use super::super::config::{NorthSouth, SETTLE_AFTER, VXLAN_PORT, Xdp};
use super::*;

fn config(routing: Routing) -> DataPlaneConfig {
    DataPlaneConfig {
        node_name: "own".to_owned(),
        pin_dir: "/nowhere".into(),
        cgroup: "/nowhere".into(),
        uplink: Some("eth0".to_owned()),
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        dns_listen: "169.254.20.10:53".parse().unwrap(),
        routing,
        north_south: NorthSouth::Snat,
        xdp: Xdp::Off,
        vxlan_port: VXLAN_PORT,
        node_addresses: Vec::new(),
        pod_mtu: None,
        settle_after: SETTLE_AFTER,
    }
}

fn links(mtu: u32, addresses: &[(u32, &str)]) -> Links {
    let link = |index: u32, name: &str, mtu, ethernet| Link {
        interface: Interface {
            index,
            name: name.to_owned(),
        },
        mtu,
        ethernet,
    };
    Links {
        links: vec![
            link(1, "lo", 65_536, false),
            link(2, "eth0", mtu, true),
            link(3, "eth1", 9000, true),
        ],
        addresses: addresses
            .iter()
            .map(|(interface, net)| Assigned {
                interface: *interface,
                net: net.parse().unwrap(),
                global: !net.starts_with("fe80") && !net.starts_with("127."),
                deprecated: net.starts_with("2001:db8:dead"),
                temporary: net.starts_with("2001:db8:7e"),
            })
            .collect(),
    }
}

const USUAL: [(u32, &str); 7] = [
    (1, "127.0.0.1/8"),
    (2, "192.0.2.5/24"),
    (2, "192.0.2.6/24"),
    (2, "fe80::1/64"),
    (2, "2001:db8:dead::5/64"),
    (2, "2001:db8::5/64"),
    (3, "198.51.100.5/32"),
];

#[test]
fn the_uplinks_oldest_usable_address_of_each_family_is_the_nodes() {
    let here = links(1500, &USUAL).here(&config(Routing::Overlay), &Here::default());
    let expected: [IpAddr; 2] = ["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    assert_eq!(here.node_addresses(), expected);
    assert_eq!(here.uplink_v4.map(IpAddr::V4), Some(expected[0]));
    assert_eq!(here.locals.len(), 6, "all but loopback: {:?}", here.locals);
    let near: Vec<String> = here.networks.iter().map(ToString::to_string).collect();
    assert_eq!(
        near,
        [
            "192.0.2.0/24",
            "192.0.2.0/24",
            "2001:db8:dead::/64",
            "2001:db8::/64"
        ],
        "an address alone is no link that somebody else could be on"
    );
}

#[test]
fn an_address_that_comes_later_is_not_the_nodes_unless_it_was_a_temporary_one() {
    let of = |addresses: &[(u32, &str)]| {
        let here = links(1500, addresses).here(&config(Routing::Overlay), &Here::default());
        let texts = here.node_addresses().into_iter();
        texts.map(|address| address.to_string()).collect::<Vec<_>>()
    };
    // As the kernel lists them.
    let later = [
        (2, "192.0.2.5/24"),
        (2, "192.0.2.6/24"),
        (2, "2001:db8:7e::8/64"),
        (2, "2001:db8::6/64"),
        (2, "2001:db8::5/64"),
        (2, "2001:db8:7e::7/64"),
    ];
    assert_eq!(of(&later), ["192.0.2.5", "2001:db8::5"]);
    let temporary = [(2, "2001:db8:7e::8/64")];
    assert_eq!(of(&temporary), ["2001:db8:7e::8"], "better than none");
}

#[test]
fn given_addresses_are_the_nodes_if_it_has_them() {
    let config = DataPlaneConfig {
        node_addresses: ["203.0.113.1", "198.51.100.5"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
        ..config(Routing::Overlay)
    };
    let here = links(1500, &USUAL).here(&config, &Here::default());
    assert_eq!(here.node_v4, Some("198.51.100.5".parse().unwrap()));
    assert_eq!(here.node_v6, None);
    assert_eq!(here.uplink_v4, Some("192.0.2.5".parse().unwrap()));
}

#[test]
fn sizes_follow_the_uplink_the_mode_and_the_family_between_nodes() {
    let v6_only = [(2, "2001:db8::5/64")];
    let sizes = |mtu, routing, addresses: &[(u32, &str)]| {
        let here = links(mtu, addresses).here(&config(routing), &Here::default());
        (here.overlay_mtu, here.pod_mtu)
    };
    assert_eq!(sizes(1500, Routing::Overlay, &USUAL), (1450, 1450));
    assert_eq!(sizes(1500, Routing::Overlay, &v6_only), (1430, 1430));
    assert_eq!(sizes(9000, Routing::Overlay, &USUAL), (8950, 8950));
    assert_eq!(sizes(1500, Routing::Native, &USUAL), (1450, 1500));
    assert_eq!(
        sizes(1300, Routing::Overlay, &USUAL),
        (1280, 1280),
        "IPv6 needs as much"
    );
    let asked = DataPlaneConfig {
        pod_mtu: Some(1400),
        ..config(Routing::Overlay)
    };
    let here = links(1500, &USUAL).here(&asked, &Here::default());
    assert_eq!((here.overlay_mtu, here.pod_mtu), (1450, 1400));
}

#[test]
fn an_uplink_that_is_gone_leaves_the_sizes_as_they_were() {
    let config = config(Routing::Overlay);
    let before = links(9000, &USUAL).here(&config, &Here::default());
    let mut without = links(9000, &USUAL[..1]);
    without.links.remove(1);
    let here = without.here(&config, &before);
    assert_eq!(here.uplink, None);
    assert_eq!(here.node_addresses(), Vec::<IpAddr>::new());
    assert_eq!(here.pod_mtu, 8950);
    let mut settings = Config::default();
    here.fill(&mut settings);
    assert_eq!(settings.uplink, 0);
    assert!(without.ethernet("eth0").is_err() && without.ethernet("lo").is_err());
}
