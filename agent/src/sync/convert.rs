//! Messages of node sync as neutral events. What makes no sense is left out, with its reason; the rest goes on.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proto::node::v1 as wire;

use crate::cluster::{
    Endpoint, EndpointPort, EndpointSlice, Event, Node, ObjectName, Protocol, Service, ServicePort,
    ServiceType,
};

/// Something in a message that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("{object}: an address of {length} bytes")]
    Address { object: String, length: usize },
    #[error("{object}: {text:?} is no address range")]
    Range { object: String, text: String },
    #[error("{object}: port {port}")]
    Port { object: String, port: u32 },
    #[error("{object}: protocol {number}")]
    Protocol { object: String, number: i32 },
    #[error("{object}: service type {text:?}")]
    ServiceType { object: String, text: String },
    #[error("{object}: address type {text:?}")]
    AddressType { object: String, text: String },
    #[error("an object of kind {0} without a name")]
    Nameless(&'static str),
}

/// Collects what was passed over while one object is converted.
struct Reader<'a> {
    object: String,
    nonsense: &'a mut Vec<Nonsense>,
}

impl Reader<'_> {
    fn drop<T>(&mut self, nonsense: Nonsense) -> Option<T> {
        self.nonsense.push(nonsense);
        None
    }

    fn address(&mut self, bytes: &[u8]) -> Option<IpAddr> {
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Some(IpAddr::from(v4));
        }
        if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            return Some(IpAddr::from(v6));
        }
        let object = self.object.clone();
        self.drop(Nonsense::Address {
            object,
            length: bytes.len(),
        })
    }

    fn addresses<B: AsRef<[u8]>>(&mut self, all: &[B]) -> Vec<IpAddr> {
        all.iter()
            .filter_map(|bytes| self.address(bytes.as_ref()))
            .collect()
    }

    fn ranges(&mut self, all: &[String]) -> Vec<IpNet> {
        all.iter()
            .filter_map(|text| match text.trim().parse() {
                Ok(range) => Some(range),
                Err(_) => {
                    let object = self.object.clone();
                    self.drop(Nonsense::Range {
                        object,
                        text: text.clone(),
                    })
                }
            })
            .collect()
    }

    /// Who may come: where ranges were named and none can be read, nobody.
    fn admitted(&mut self, all: &[String]) -> Vec<IpNet> {
        let read = self.ranges(all);
        if read.is_empty() && !all.is_empty() {
            // No packet that is let in has this source.
            return vec![IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))];
        }
        read
    }

    fn port(&mut self, port: u32) -> Option<u16> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                let object = self.object.clone();
                self.drop(Nonsense::Port { object, port })
            }
        }
    }

    fn protocol(&mut self, number: i32) -> Option<Protocol> {
        match wire::Protocol::try_from(number) {
            Ok(wire::Protocol::Tcp) => Some(Protocol::Tcp),
            Ok(wire::Protocol::Udp) => Some(Protocol::Udp),
            Ok(wire::Protocol::Sctp) => Some(Protocol::Sctp),
            Ok(wire::Protocol::Unspecified) | Err(_) => {
                let object = self.object.clone();
                self.drop(Nonsense::Protocol { object, number })
            }
        }
    }
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) fn service(change: wire::ServiceChange, nonsense: &mut Vec<Nonsense>) -> Option<Event> {
    let Some(name) = object_name(&change.namespace, &change.name) else {
        nonsense.push(Nonsense::Nameless("Service"));
        return None;
    };
    let Some(service) = change.service else {
        return Some(Event::ServiceRemoved(name));
    };
    let mut reader = Reader {
        object: format!("Service {}/{}", name.namespace, name.name),
        nonsense,
    };
    let service_type = match service.r#type.as_str() {
        "" | "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => {
            let object = reader.object.clone();
            let text = other.to_owned();
            return reader.drop(Nonsense::ServiceType { object, text });
        }
    };
    let ports = service
        .ports
        .into_iter()
        .filter_map(|port| {
            Some(ServicePort {
                protocol: reader.protocol(port.protocol)?,
                port: reader.port(port.port)?,
                node_port: match port.node_port {
                    0 => None,
                    node_port => reader.port(node_port),
                },
                name: port.name,
            })
        })
        .collect();
    let health_check_node_port = match service.health_check_node_port {
        0 => None,
        port => reader.port(port),
    };
    Some(Event::ServiceSet(
        name,
        Service {
            service_type,
            cluster_ips: reader.addresses(&service.cluster_ips),
            headless: service.headless,
            external_name: text(service.external_name),
            ports,
            external_ips: reader.addresses(&service.external_ips),
            load_balancer_ips: reader.addresses(&service.load_balancer_ips),
            load_balancer_source_ranges: reader.admitted(&service.load_balancer_source_ranges),
            session_affinity: (service.session_affinity_seconds > 0)
                .then_some(service.session_affinity_seconds),
            internal_traffic_local: service.internal_traffic_local,
            external_traffic_local: service.external_traffic_local,
            health_check_node_port,
            publish_not_ready_addresses: service.publish_not_ready_addresses,
            traffic_distribution: text(service.traffic_distribution),
        },
    ))
}

pub(crate) fn slice(
    change: wire::EndpointSliceChange,
    nonsense: &mut Vec<Nonsense>,
) -> Option<Event> {
    let Some(name) = object_name(&change.namespace, &change.name) else {
        nonsense.push(Nonsense::Nameless("EndpointSlice"));
        return None;
    };
    let Some(slice) = change.slice else {
        return Some(Event::SliceRemoved(name));
    };
    let mut reader = Reader {
        object: format!("EndpointSlice {}/{}", name.namespace, name.name),
        nonsense,
    };
    let fits: fn(&IpAddr) -> bool = match slice.address_type.as_str() {
        "IPv4" => IpAddr::is_ipv4,
        "IPv6" => IpAddr::is_ipv6,
        // A slice of names takes no traffic; one that held addresses before holds them no more.
        "FQDN" => return Some(Event::SliceRemoved(name)),
        other => {
            let object = reader.object.clone();
            let text = other.to_owned();
            reader.nonsense.push(Nonsense::AddressType { object, text });
            return Some(Event::SliceRemoved(name));
        }
    };
    let ports = slice
        .ports
        .into_iter()
        .filter_map(|port| {
            Some(EndpointPort {
                protocol: reader.protocol(port.protocol)?,
                port: reader.port(port.port)?,
                name: port.name,
            })
        })
        .collect();
    let endpoints = slice
        .endpoints
        .into_iter()
        .filter_map(|endpoint| {
            let mut addresses = reader.addresses(&endpoint.addresses);
            addresses.retain(fits);
            (!addresses.is_empty()).then(|| Endpoint {
                addresses,
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
                hostname: text(endpoint.hostname),
                node: text(endpoint.node_name),
                zone: text(endpoint.zone),
                hints_zones: endpoint.hints_zones,
                hints_nodes: endpoint.hints_nodes,
                pod: text(endpoint.target_pod),
            })
        })
        .collect();
    Some(Event::SliceSet(
        name,
        EndpointSlice {
            service: slice.service,
            ports,
            endpoints,
        },
    ))
}

pub(crate) fn node(change: wire::NodeChange, nonsense: &mut Vec<Nonsense>) -> Option<Event> {
    if change.name.is_empty() {
        nonsense.push(Nonsense::Nameless("Node"));
        return None;
    }
    let Some(node) = change.node else {
        return Some(Event::NodeRemoved(change.name));
    };
    let mut reader = Reader {
        object: format!("Node {}", change.name),
        nonsense,
    };
    Some(Event::NodeSet(
        change.name,
        Node {
            internal_ips: reader.addresses(&node.internal_ips),
            pod_cidrs: reader.ranges(&node.pod_cidrs),
            zone: text(node.zone),
        },
    ))
}

pub(crate) fn object_name(namespace: &str, name: &str) -> Option<ObjectName> {
    (!namespace.is_empty() && !name.is_empty()).then(|| ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests;
