//! From a Service and its pods to endpoints, grouped by address family and ports. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::hints;
use super::pack::{self, Changes, Group, Manager};
use crate::controllers::owner::controller_reference;
use crate::controllers::podstate;

/// Whether a pod's change matters to the Services that select it.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    let seen = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            addresses(pod),
            podstate::is_ready(pod),
            podstate::is_finished(pod),
            podstate::is_terminating(pod),
            spec.and_then(|spec| spec.node_name.clone()),
            spec.and_then(|spec| spec.hostname.clone()),
            pod.metadata.uid.clone(),
        )
    };
    old.metadata.labels != new.metadata.labels || seen(old) != seen(new)
}

pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref() else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if all.is_empty() {
        all.extend(
            status
                .pod_ip
                .as_deref()
                .and_then(|ip| ip.parse::<IpAddr>().ok()),
        );
    }
    all
}

/// `IPv4`, `IPv6`: the families of the Service, in its order.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.clone().unwrap_or_default();
    let named: Vec<&'static str> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    match spec.cluster_ip.as_deref().map(str::parse) {
        Some(Ok(IpAddr::V6(_))) => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

pub(super) fn is_of(address: IpAddr, family: &str) -> bool {
    address.is_ipv4() == (family == "IPv4")
}

/// The number that a Service's port has in this pod; `None` when the pod has no port of that name.
pub(super) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let name = match &port.target_port {
        Some(IntOrString::Int(0)) | None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|found| found.container_port)
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                // A port without a name is "" in slices, never absent.
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// The pod's hostname when the Service gives it a name in DNS.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then(|| named.clone())
}

pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

pub(super) fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    addresses: Vec<String>,
    zone: Option<String>,
) -> Endpoint {
    let serving = podstate::is_ready(pod);
    let terminating = podstate::is_terminating(pod);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, ready, node.as_deref(), zone.as_deref()),
        hostname: hostname(service, pod),
        target_ref: Some(target(pod)),
        node_name: node,
        zone,
        deprecated_topology: None,
    }
}

/// What `trafficDistribution` asks for.
fn hints(
    service: &Service,
    ready: bool,
    node: Option<&str>,
    zone: Option<&str>,
) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let zones = zone.map(|name| {
        vec![ForZone {
            name: name.to_owned(),
        }]
    });
    match wanted {
        "PreferClose" | "PreferSameZone" => zones.map(|zones| EndpointHints {
            for_zones: Some(zones),
            for_nodes: None,
        }),
        "PreferSameNode" => node.map(|name| EndpointHints {
            for_nodes: Some(vec![ForNode {
                name: name.to_owned(),
            }]),
            for_zones: zones,
        }),
        _ => None,
    }
}

/// Where a node is that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) zone: Option<String>,
}

/// What the plan needs of the nodes.
pub(super) struct Topology<'a> {
    /// A node, by its name.
    pub(super) node: &'a dyn Fn(&str) -> Option<Place>,
    /// Looked at for Services that leave the hints to us.
    pub(super) cpus: Option<hints::Cpus>,
}

pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    topology: &Topology<'_>,
) -> Changes {
    let mut groups: Vec<Group> = Vec::new();
    let families = families(service);
    for pod in pods.iter().filter(|pod| !podstate::is_finished(pod)) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let place = node.map(topology.node);
        // Nobody would say that it has ended: it has gone with its node.
        if place == Some(None) && !publishes_not_ready(service) {
            continue;
        }
        let zone = place.flatten().and_then(|place| place.zone);
        let all = addresses(pod);
        for family in &families {
            let of_family: Vec<String> = all
                .iter()
                .filter(|address| is_of(**address, family))
                .map(ToString::to_string)
                .collect();
            if of_family.is_empty() {
                continue;
            }
            let endpoint = endpoint(service, pod, of_family, zone.clone());
            pack::add(&mut groups, family, ports(service, pod), endpoint);
        }
    }
    if hints::is_auto(service) {
        for group in &mut groups {
            hints::give(&mut group.endpoints, topology.cpus.as_ref());
        }
    }
    let manager = Manager {
        name: "endpointslice-controller.k8s.io",
        owner: controller_reference(service),
        labels: service.metadata.labels.clone().unwrap_or_default(),
        annotations: std::collections::BTreeMap::new(),
        headless: is_headless(service),
        keep_empty: families,
    };
    pack::plan(&service.metadata, &manager, groups, existing)
}

pub(super) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}
