//! Hand-made Endpoints of a Service without selector, as slices. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::endpoint;
use super::pack::{self, Changes, Group, Manager};
use crate::controllers::owner::controller_reference;

const NAME: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of one subset that are mirrored; Kubernetes' default.
const MOST: usize = 1000;
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The Service is gone: what was mirrored for it goes too.
pub(super) fn none(existing: &[Arc<EndpointSlice>]) -> Changes {
    Changes {
        delete: existing
            .iter()
            .filter(|slice| pack::is_managed_by(slice, NAME))
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect(),
        ..Changes::default()
    }
}

/// Made by the Service's own selector (which it has lost since), locked by a leader election, or marked.
fn is_to_be_mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let annotations = endpoints.metadata.annotations.as_ref();
    endpoints.metadata.deletion_timestamp.is_none()
        && labels
            .and_then(|labels| labels.get(SKIP))
            .is_none_or(|skip| skip != "true")
        && annotations.is_none_or(|annotations| !annotations.contains_key(LEADER))
}

pub(super) fn plan(
    service: &Service,
    endpoints: Option<&Endpoints>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let Some(endpoints) = endpoints.filter(|endpoints| is_to_be_mirrored(endpoints)) else {
        return none(existing);
    };
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten();
        let all = ready.chain(not_ready.map(|address| (address, false)));
        for (address, ready) in all.take(MOST) {
            let Ok(ip) = address.ip.parse::<std::net::IpAddr>() else {
                continue;
            };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            pack::add(&mut groups, family, ports.clone(), mirrored(address, ready));
        }
    }
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let manager = Manager {
        name: NAME,
        owner: controller_reference(endpoints),
        labels: endpoints.metadata.labels.clone().unwrap_or_default(),
        annotations,
        headless: endpoint::is_headless(service),
        keep_empty: Vec::new(),
    };
    pack::plan(&service.metadata, &manager, groups, existing)
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
