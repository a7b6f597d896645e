//! The Services that every data plane is loaded with: the same ones, in the same order, from a number alone.
//!
//! The first and the last are under test; their endpoints are three ports of the server. All between are filler
//! with three endpoints each that nobody listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn matches(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// Ranges of the benchmark's own namespaces; nothing of them is seen outside.
pub(crate) const POD_RANGES: [&str; 2] = ["10.244.0.0/24", "fd00:244::/64"];
pub(crate) const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The node's addresses on its uplink, and those of the world behind it.
pub(crate) const NODE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Port of every Service.
pub(crate) const PORT: u16 = 80;
/// The last Service's TCP port at the node's own address.
pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const ENDPOINTS: usize = 3;
/// Ports of the server: those behind the first Service, those behind the last.
pub(crate) const FIRST_PORTS: [u16; ENDPOINTS] = [8091, 8092, 8093];
pub(crate) const LAST_PORTS: [u16; ENDPOINTS] = [8081, 8082, 8083];
/// The first and the last, and one between them to change.
pub(crate) const MINIMUM: u32 = 3;
/// What the Service range holds.
pub(crate) const MAXIMUM: u32 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One Service; all its ports are [`PORT`], named after their protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) protocols: &'static [Protocol],
    pub(crate) backends: [SocketAddr; ENDPOINTS],
    /// Of its TCP port.
    pub(crate) node_port: Option<u16>,
}

/// All Services of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) count: u32,
    /// Address of the server.
    pub(crate) server: IpAddr,
}

/// One endpoint of one Service is replaced by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) number: u32,
    pub(crate) before: Service,
    pub(crate) after: Service,
}

impl Table {
    pub(crate) fn services(&self) -> impl Iterator<Item = Service> + '_ {
        (0..self.count).map(|number| self.service(number, 0))
    }

    pub(crate) fn first(&self) -> SocketAddr {
        SocketAddr::new(self.address(0), PORT)
    }

    pub(crate) fn last(&self) -> SocketAddr {
        SocketAddr::new(self.address(self.count - 1), PORT)
    }

    pub(crate) fn node_port(&self) -> SocketAddr {
        SocketAddr::new(self.of(NODE), NODE_PORT)
    }

    /// Straight to a backend of the last Service.
    pub(crate) fn direct(&self) -> SocketAddr {
        SocketAddr::new(self.server, LAST_PORTS[0])
    }

    pub(crate) fn pod_range(&self) -> &'static str {
        POD_RANGES[self.index()]
    }

    pub(crate) fn service_range(&self) -> &'static str {
        SERVICE_RANGES[self.index()]
    }

    /// The `step`th change: another Service each time, until all between the two under test have had one.
    pub(crate) fn change(&self, step: u32) -> Change {
        let fillers = self.count - 2;
        let number = 1 + step % fillers;
        let version = step / fillers;
        Change {
            number,
            before: self.service(number, version),
            after: self.service(number, version + 1),
        }
    }

    fn index(&self) -> usize {
        usize::from(self.family == Family::V6)
    }

    pub(crate) fn of(&self, addresses: [&str; 2]) -> IpAddr {
        addresses[self.index()]
            .parse()
            .expect("a constant of this file")
    }

    fn address(&self, number: u32) -> IpAddr {
        // Past the address that the cluster's DNS would have.
        let number = 256 + number;
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(0x0a60_0000 + number).into(),
            Family::V6 => Ipv6Addr::from_bits((0xfd00_0096 << 96) | u128::from(number)).into(),
        }
    }

    /// An endpoint that does not exist.
    fn nobody(&self, number: u32) -> SocketAddr {
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::from_bits(0x0a80_0001 + number).into(),
            Family::V6 => Ipv6Addr::from_bits((0xfd00_0128 << 96) | u128::from(1 + number)).into(),
        };
        SocketAddr::new(address, 8080)
    }

    /// A filler's first endpoint alternates between two with its version.
    fn service(&self, number: u32, version: u32) -> Service {
        let name = format!("svc-{number:05}");
        let address = self.address(number);
        let under_test = |ports: [u16; ENDPOINTS], node_port| Service {
            name: name.clone(),
            address,
            protocols: &[Protocol::Tcp, Protocol::Udp],
            backends: ports.map(|port| SocketAddr::new(self.server, port)),
            node_port,
        };
        if number == 0 {
            under_test(FIRST_PORTS, None)
        } else if number == self.count - 1 {
            under_test(LAST_PORTS, Some(NODE_PORT))
        } else {
            let base = number * (ENDPOINTS as u32 + 1);
            let changing = base + if version.is_multiple_of(2) { 0 } else { 3 };
            Service {
                name,
                address,
                protocols: &[Protocol::Tcp],
                backends: [changing, base + 1, base + 2].map(|number| self.nobody(number)),
                node_port: None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    fn table(family: Family, count: u32) -> Table {
        let server = if family == Family::V4 {
            "10.244.0.3"
        } else {
            "fd00:244::3"
        };
        Table {
            family,
            count,
            server: server.parse().unwrap(),
        }
    }

    #[test]
    fn addresses_and_filler_endpoints_are_distinct_and_in_their_ranges() {
        for family in [Family::V4, Family::V6] {
            let table = table(family, 30_000);
            let range: ipnet::IpNet = table.service_range().parse().unwrap();
            let services: Vec<Service> = table.services().collect();
            let addresses: HashSet<IpAddr> = services.iter().map(|s| s.address).collect();
            assert_eq!(addresses.len(), 30_000);
            assert!(addresses.iter().all(|address| range.contains(address)));
            let backends: HashSet<SocketAddr> = services
                .iter()
                .flat_map(|service| service.backends)
                .collect();
            assert_eq!(backends.len(), 90_000);
            assert_eq!(services[0].address, table.first().ip());
            assert_eq!(services[29_999].address, table.last().ip());
        }
    }

    #[test]
    fn a_change_replaces_one_endpoint_and_follows_from_the_one_before() {
        let table = table(Family::V4, 4);
        let changes: Vec<Change> = (0..6).map(|step| table.change(step)).collect();
        for change in &changes {
            assert_ne!(change.before.backends[0], change.after.backends[0]);
            assert_eq!(change.before.backends[1..], change.after.backends[1..]);
        }
        assert_eq!(changes[0].number, 1);
        assert_eq!(changes[1].number, 2);
        assert_eq!(changes[2].number, 1);
        assert_eq!(changes[2].before, changes[0].after);
        assert_eq!(changes[0].before, table.services().nth(1).unwrap());
    }
}
