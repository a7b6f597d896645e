//! The Endpoints object of a Service with a selector, for clients that know no slices. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoint;
use crate::controllers::podstate;

/// Addresses in one Endpoints object at most.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, PartialEq)]
pub(super) enum Change {
    Keep,
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
}

type PortKey = Vec<(Option<String>, i32, String, Option<String>)>;

/// Made here rather than by hand.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|by| by == "endpoint-controller")
}

pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], live: Option<&Endpoints>) -> Change {
    let (subsets, truncated) = subsets(service, pods);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if endpoint::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut annotations = live
        .and_then(|live| live.metadata.annotations.clone())
        .unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = (!annotations.is_empty()).then_some(annotations);
    let Some(live) = live else {
        return Change::Create(Box::new(Endpoints {
            metadata: ObjectMeta {
                namespace: service.metadata.namespace.clone(),
                name: service.metadata.name.clone(),
                labels: Some(labels),
                annotations,
                ..ObjectMeta::default()
            },
            subsets,
        }));
    };
    let same = live.subsets.as_deref().unwrap_or_default()
        == subsets.as_deref().unwrap_or_default()
        && live.metadata.labels.as_ref() == Some(&labels)
        && live.metadata.annotations.clone().unwrap_or_default()
            == annotations.clone().unwrap_or_default();
    if same {
        return Change::Keep;
    }
    let mut updated = live.clone();
    updated.subsets = subsets;
    updated.metadata.labels = Some(labels);
    updated.metadata.annotations = annotations;
    Change::Update(Box::new(updated))
}

/// Addresses grouped by the ports they serve, in a fixed order.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = endpoint::families(service)[0];
    let publish = endpoint::publishes_not_ready(service);
    let mut groups: BTreeMap<PortKey, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut count = 0;
    let mut truncated = false;
    // When not all have room, those that are ready come first.
    let (ready, others): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| podstate::is_ready(pod));
    for pod in ready.into_iter().chain(others) {
        if podstate::is_finished(pod) || (podstate::is_terminating(pod) && !publish) {
            continue;
        }
        let address = endpoint::addresses(pod)
            .into_iter()
            .find(|address| endpoint::is_of(*address, family));
        let Some(address) = address else { continue };
        let ports = ports(service, pod);
        if ports.is_empty() && !endpoint::is_headless(service) {
            continue;
        }
        count += 1;
        if count > CAPACITY {
            truncated = true;
            break;
        }
        let address = EndpointAddress {
            ip: address.to_string(),
            hostname: endpoint::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(endpoint::target(pod)),
        };
        let (ready, not_ready) = groups.entry(ports).or_default();
        if publish || podstate::is_ready(pod) {
            ready.push(address);
        } else {
            not_ready.push(address);
        }
    }
    let subsets = groups
        .into_iter()
        .map(|(ports, (mut ready, mut not_ready))| {
            ready.sort_by(|one, other| one.ip.cmp(&other.ip));
            not_ready.sort_by(|one, other| one.ip.cmp(&other.ip));
            let ports: Vec<_> = ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort {
                    name,
                    port,
                    protocol: Some(protocol),
                    app_protocol,
                })
                .collect();
            EndpointSubset {
                addresses: (!ready.is_empty()).then_some(ready),
                not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect();
    (subsets, truncated)
}

fn ports(service: &Service, pod: &Pod) -> PortKey {
    let mut ports: PortKey = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            Some((
                port.name.clone().filter(|name| !name.is_empty()),
                endpoint::target_port(pod, port)?,
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port.app_protocol.clone(),
            ))
        })
        .collect();
    ports.sort();
    ports
}
