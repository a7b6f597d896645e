//! The names that one Service stands for. Pure.
//!
//! Tens of thousands of these are held: only what names need, and labels only where they are not made
//! from the address.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;

use crate::cluster::{Endpoint, EndpointSlice, ObjectName, Protocol, Service};

/// What names need of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    headless: bool,
    publish_not_ready: bool,
    external: Option<Box<Name>>,
    cluster_ips: Box<[IpAddr]>,
    ports: Box<[Port]>,
}

/// What names need of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub(crate) service: Arc<ObjectName>,
    ports: Box<[Port]>,
    hosts: Box<[(Host, bool)]>,
}

/// A named port; unnamed ones have no names in DNS either.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    protocol: &'static str,
    port: u16,
}

/// An endpoint's address and what it is called below its Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    /// Its host name; without one it is called by its address.
    pub(crate) label: Option<Box<str>>,
    pub(crate) address: IpAddr,
}

/// What is known below `<service>.<namespace>.svc.<domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceNames {
    pub(crate) object: Arc<ObjectName>,
    headless: bool,
    /// Where an ExternalName Service leads to.
    pub(crate) external: Option<Box<Name>>,
    pub(crate) cluster_ips: Box<[IpAddr]>,
    /// Endpoints, sorted, none twice.
    pub(crate) hosts: Box<[Host]>,
    ports: Vec<PortNames>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PortNames {
    name: Box<str>,
    protocol: &'static str,
    targets: Targets,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Targets {
    /// The Service itself.
    Service(u16),
    Hosts(Vec<(Host, u16)>),
}

/// Where a port of a Service is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortTarget {
    /// The endpoint's label; the Service itself when absent.
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
}

impl ServiceFacts {
    pub(crate) fn new(service: &Service) -> Self {
        let port = |p: &crate::cluster::ServicePort| named_port(&p.name, p.protocol, p.port);
        Self {
            headless: service.headless,
            publish_not_ready: service.publish_not_ready_addresses,
            external: external_name(service).map(Box::new),
            cluster_ips: service.cluster_ips.clone().into(),
            ports: service.ports.iter().filter_map(port).collect(),
        }
    }
}

impl SliceFacts {
    pub(crate) fn new(service: Arc<ObjectName>, slice: &EndpointSlice) -> Self {
        let port = |p: &crate::cluster::EndpointPort| named_port(&p.name, p.protocol, p.port);
        Self {
            service,
            ports: slice.ports.iter().filter_map(port).collect(),
            hosts: slice.endpoints.iter().flat_map(hosts).collect(),
        }
    }
}

fn named_port(name: &str, kind: Protocol, port: u16) -> Option<Port> {
    (!name.is_empty()).then(|| Port {
        name: name.to_ascii_lowercase().into(),
        protocol: protocol(kind),
        port,
    })
}

fn hosts(endpoint: &Endpoint) -> impl Iterator<Item = (Host, bool)> + '_ {
    let hostname = endpoint.hostname.as_deref().filter(|name| is_label(name));
    let label = hostname.map(|name| name.to_ascii_lowercase().into_boxed_str());
    endpoint.addresses.iter().map(move |address| {
        let host = Host {
            label: label.clone(),
            address: *address,
        };
        (host, endpoint.ready)
    })
}

impl Host {
    pub(crate) fn label(&self) -> Cow<'_, str> {
        match &self.label {
            Some(label) => Cow::Borrowed(label),
            None => Cow::Owned(dashed(self.address)),
        }
    }
}

impl ServiceNames {
    pub(crate) fn new<'a>(
        object: Arc<ObjectName>,
        service: &ServiceFacts,
        slices: impl Iterator<Item = &'a SliceFacts>,
    ) -> Self {
        let mut hosts = BTreeSet::new();
        let mut ports: Vec<PortNames> = Vec::new();
        // An alias has neither endpoints nor ports.
        let slices = slices.filter(|_| service.external.is_none());
        for slice in slices {
            let named = slice.hosts.iter();
            let named = named.filter(|(_, ready)| *ready || service.publish_not_ready);
            for (host, _) in named {
                if service.headless {
                    slice
                        .ports
                        .iter()
                        .for_each(|port| add_target(&mut ports, port, host));
                }
                hosts.insert(host.clone());
            }
        }
        if !service.headless && service.external.is_none() {
            let own = |port: &Port| PortNames {
                name: port.name.clone(),
                protocol: port.protocol,
                targets: Targets::Service(port.port),
            };
            ports = service.ports.iter().map(own).collect();
        }
        ports.shrink_to_fit();
        Self {
            object,
            headless: service.headless,
            external: service.external.clone(),
            cluster_ips: service.cluster_ips.clone(),
            hosts: hosts.into_iter().collect(),
            ports,
        }
    }

    /// A name that stands for nothing does not exist.
    pub(crate) fn exists(&self) -> bool {
        let addresses = if self.headless {
            self.hosts.len()
        } else {
            self.cluster_ips.len()
        };
        self.external.is_some() || addresses > 0
    }

    /// Of the Service's own name: its ClusterIPs, or its endpoints when it is headless.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        if !self.headless {
            return self.cluster_ips.to_vec();
        }
        let all: BTreeSet<IpAddr> = self.hosts.iter().map(|host| host.address).collect();
        all.into_iter().collect()
    }

    /// Of an endpoint's label.
    pub(crate) fn host(&self, label: &str) -> Option<Vec<IpAddr>> {
        let address = undashed(label).filter(|address| dashed(*address) == label);
        let is_it = |host: &&Host| match &host.label {
            Some(name) => **name == *label,
            None => Some(host.address) == address,
        };
        let found: Vec<IpAddr> = self.hosts.iter().filter(is_it).map(|h| h.address).collect();
        (!found.is_empty()).then_some(found)
    }

    pub(crate) fn hosts_by_label(&self) -> BTreeMap<Cow<'_, str>, Vec<IpAddr>> {
        let mut all: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for host in &self.hosts {
            all.entry(host.label()).or_default().push(host.address);
        }
        all
    }

    pub(crate) fn has_protocol(&self, protocol: &str) -> bool {
        self.ports.iter().any(|port| port.protocol == protocol)
    }

    /// Where a named port is, none twice.
    pub(crate) fn port(&self, name: &str, protocol: &str) -> Option<Vec<PortTarget>> {
        let mut ports = self.ports.iter();
        let port = ports.find(|p| *p.name == *name && p.protocol == protocol)?;
        Some(match &port.targets {
            Targets::Service(port) => vec![PortTarget {
                host: None,
                port: *port,
            }],
            Targets::Hosts(hosts) => {
                let target = |(host, port): &(Host, u16)| PortTarget {
                    host: Some(host.label().into_owned()),
                    port: *port,
                };
                let all: BTreeSet<PortTarget> = hosts.iter().map(target).collect();
                all.into_iter().collect()
            }
        })
    }
}

fn add_target(ports: &mut Vec<PortNames>, port: &Port, host: &Host) {
    let same = |p: &&mut PortNames| p.name == port.name && p.protocol == port.protocol;
    let target = (host.clone(), port.port);
    match ports.iter_mut().find(same).map(|p| &mut p.targets) {
        Some(Targets::Hosts(hosts)) => hosts.push(target),
        _ => ports.push(PortNames {
            name: port.name.clone(),
            protocol: port.protocol,
            targets: Targets::Hosts(vec![target]),
        }),
    }
}

fn external_name(service: &Service) -> Option<Name> {
    let text = service.external_name.as_deref()?;
    let mut name = Name::from_ascii(text).ok().filter(|n| !n.is_root())?;
    name.set_fqdn(true);
    Some(name)
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// `10.0.0.1` as `10-0-0-1`, `fd00::1` as `fd00--1`.
pub(crate) fn dashed(address: IpAddr) -> String {
    let text = address.to_string().replace(['.', ':'], "-");
    // A label neither begins nor ends with a dash: `::1` is `0--1`, `fd00::` is `fd00--0`.
    let head = if text.starts_with('-') { "0" } else { "" };
    let tail = if text.ends_with('-') { "0" } else { "" };
    format!("{head}{text}{tail}")
}

/// The other way round.
pub(crate) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".");
    if let Ok(address) = v4.parse::<std::net::Ipv4Addr>() {
        return Some(address.into());
    }
    let v6 = label.replace('-', ":").parse::<std::net::Ipv6Addr>().ok()?;
    Some(v6.into())
}

pub(super) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
