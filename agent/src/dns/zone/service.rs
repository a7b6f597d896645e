//! The names that one Service stands for. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::rr::Name;

use crate::cluster::{EndpointSlice, ObjectName, Protocol, Service};

/// What is known below `<service>.<namespace>.svc.<domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceNames {
    pub(crate) object: ObjectName,
    /// Where an ExternalName Service leads to.
    pub(crate) external: Option<Name>,
    /// Of the Service's own name: its ClusterIPs, or its endpoints when it is headless.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Of the endpoints, by their label: host name or address with dashes.
    pub(crate) hosts: BTreeMap<Box<str>, Vec<IpAddr>>,
    /// Named ports, by name and protocol (without underscores).
    pub(crate) ports: BTreeMap<(Box<str>, &'static str), Vec<PortTarget>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortTarget {
    /// The endpoint's label; the Service itself when absent.
    pub(crate) host: Option<Box<str>>,
    pub(crate) port: u16,
}

impl ServiceNames {
    pub(crate) fn new<'a>(
        object: ObjectName,
        service: &Service,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut names = Self {
            object,
            external: external_name(service),
            addresses: service.cluster_ips.clone(),
            cluster_ips: service.cluster_ips.clone(),
            hosts: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        if service.external_name.is_some() {
            return names;
        }
        for slice in slices {
            names.add_slice(service, slice);
        }
        if service.headless {
            names.addresses = names.hosts.values().flatten().copied().collect();
            names.addresses.sort_unstable();
            names.addresses.dedup();
        } else {
            names.add_own_ports(service);
        }
        for targets in names.ports.values_mut() {
            targets.sort_unstable();
            targets.dedup();
        }
        names
    }

    /// A name that stands for nothing does not exist.
    pub(crate) fn exists(&self) -> bool {
        self.external.is_some() || !self.addresses.is_empty()
    }

    fn add_slice(&mut self, service: &Service, slice: &EndpointSlice) {
        for endpoint in &slice.endpoints {
            if !endpoint.ready && !service.publish_not_ready_addresses {
                continue;
            }
            for address in &endpoint.addresses {
                let label = match &endpoint.hostname {
                    Some(hostname) if is_label(hostname) => hostname.to_ascii_lowercase(),
                    _ => dashed(*address),
                };
                let label = label.into_boxed_str();
                let host = self.hosts.entry(label.clone()).or_default();
                if !host.contains(address) {
                    host.push(*address);
                }
                if service.headless {
                    self.add_endpoint_ports(slice, &label);
                }
            }
        }
    }

    fn add_endpoint_ports(&mut self, slice: &EndpointSlice, label: &str) {
        for port in slice.ports.iter().filter(|p| !p.name.is_empty()) {
            let key = (
                port.name.to_ascii_lowercase().into(),
                protocol(port.protocol),
            );
            self.ports.entry(key).or_default().push(PortTarget {
                host: Some(label.into()),
                port: port.port,
            });
        }
    }

    fn add_own_ports(&mut self, service: &Service) {
        for port in service.ports.iter().filter(|p| !p.name.is_empty()) {
            let key = (
                port.name.to_ascii_lowercase().into(),
                protocol(port.protocol),
            );
            self.ports.entry(key).or_default().push(PortTarget {
                host: None,
                port: port.port,
            });
        }
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

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
