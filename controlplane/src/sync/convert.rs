//! From Kubernetes objects to what nodes need of them. Pure. What cannot be read (an address that is none)
//! is left out.

use std::net::IpAddr;

use bytes::Bytes;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use proto::node::v1::{
    Endpoint, EndpointPort, EndpointSlice, Node, Protocol, Service, ServicePort,
};

const ZONE: &str = "topology.kubernetes.io/zone";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds.
const AFFINITY_SECONDS: i32 = 10_800;

fn address(text: &str) -> Option<Bytes> {
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    })
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Bytes> {
    texts.into_iter().filter_map(|text| address(text)).collect()
}

fn protocol(name: Option<&str>) -> i32 {
    let protocol = match name {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => Protocol::Unspecified,
    };
    protocol.into()
}

fn number(port: Option<i32>) -> u32 {
    port.and_then(|port| u32::try_from(port).ok()).unwrap_or(0)
}

/// Those of the field, or of the annotation that came before it.
fn source_ranges(from: &v1::Service, listed: Option<Vec<String>>) -> Vec<String> {
    let listed = listed.unwrap_or_default();
    if !listed.is_empty() {
        return listed.iter().map(|range| range.trim().to_owned()).collect();
    }
    let annotations = from.metadata.annotations.as_ref();
    let noted = annotations.and_then(|annotations| annotations.get(SOURCE_RANGES));
    let noted = noted.iter().flat_map(|noted| noted.split(','));
    noted
        .map(|range| range.trim().to_owned())
        .filter(|range| !range.is_empty())
        .collect()
}

pub(super) fn service(from: &v1::Service) -> Service {
    let spec = from.spec.clone().unwrap_or_default();
    let first = spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
    let headless = first.as_deref() == Some("None");
    let mut cluster_ips = addresses(spec.cluster_ips.iter().flatten());
    if cluster_ips.is_empty() {
        cluster_ips = addresses(&first);
    }
    let ingress = from
        .status
        .iter()
        .flat_map(|status| status.load_balancer.iter())
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    let affinity = if spec.session_affinity.as_deref() == Some("ClientIP") {
        let configured = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref())
            .and_then(|client| client.timeout_seconds);
        number(Some(configured.unwrap_or(AFFINITY_SECONDS)))
    } else {
        0
    };
    Service {
        uid: from.metadata.uid.clone().unwrap_or_default(),
        r#type: spec.type_.unwrap_or_else(|| "ClusterIP".to_owned()),
        cluster_ips,
        headless,
        external_name: spec.external_name.unwrap_or_default(),
        ports: spec
            .ports
            .iter()
            .flatten()
            .map(|port| ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: number(Some(port.port)),
                node_port: number(port.node_port),
            })
            .collect(),
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: addresses(ingress.filter_map(|ingress| {
            // Behind a proxy, clients inside have to pass it too: the address is not ours to serve.
            let proxied = ingress.ip_mode.as_deref() == Some("Proxy");
            ingress.ip.as_ref().filter(|_| !proxied)
        })),
        session_affinity_seconds: affinity,
        internal_traffic_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_traffic_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: number(spec.health_check_node_port),
        publish_not_ready_addresses: spec.publish_not_ready_addresses == Some(true),
        traffic_distribution: spec.traffic_distribution.unwrap_or_default(),
        load_balancer_source_ranges: source_ranges(from, spec.load_balancer_source_ranges),
    }
}

pub(super) fn endpoint_slice(from: &discovery::EndpointSlice) -> EndpointSlice {
    EndpointSlice {
        service: from
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("kubernetes.io/service-name"))
            .cloned()
            .unwrap_or_default(),
        address_type: from.address_type.clone(),
        ports: from
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: number(port.port),
            })
            .collect(),
        endpoints: from.endpoints.iter().flatten().map(endpoint).collect(),
    }
}

/// Conditions that are absent have the documented meaning: ready, serving as ready, not terminating.
fn endpoint(from: &discovery::Endpoint) -> Endpoint {
    let conditions = from.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = from.hints.clone().unwrap_or_default();
    let target = from.target_ref.as_ref();
    Endpoint {
        addresses: addresses(&from.addresses),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: from.hostname.clone().unwrap_or_default(),
        node_name: from.node_name.clone().unwrap_or_default(),
        zone: from.zone.clone().unwrap_or_default(),
        hints_zones: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name)
            .collect(),
        hints_nodes: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|node| node.name)
            .collect(),
        target_pod: target
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name.clone())
            .unwrap_or_default(),
    }
}

pub(super) fn node(from: &v1::Node) -> Node {
    let internal = from
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| address.type_ == "InternalIP")
        .map(|address| &address.address);
    let spec = from.spec.clone().unwrap_or_default();
    let ranges = spec.pod_cidrs.unwrap_or_default();
    Node {
        internal_ips: addresses(internal),
        pod_cidrs: if ranges.is_empty() {
            spec.pod_cidr.into_iter().collect()
        } else {
            ranges
        },
        zone: from
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(ZONE))
            .cloned()
            .unwrap_or_default(),
    }
}
