//! Distributes endpoints over slices with as few writes as can be. Pure.
//!
//! An endpoint stays in the slice it is in. New ones fill slices that must be written anyway, then those
//! with room, then new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Endpoints in one slice at most.
const SLICE: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints that can share slices.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) family: &'static str,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// In whose name slices are written.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) name: &'static str,
    pub(super) owner: OwnerReference,
    /// Labels that slices inherit.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) headless: bool,
    /// Families that have a slice even without any endpoint.
    pub(super) keep_empty: Vec<&'static str>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

pub(super) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(SERVICE_NAME).map(String::as_str)
}

pub(super) fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|name| name == manager)
}

pub(super) fn add(
    groups: &mut Vec<Group>,
    family: &'static str,
    mut ports: Vec<EndpointPort>,
    endpoint: Endpoint,
) {
    ports.sort_by(|one, other| (&one.name, one.port).cmp(&(&other.name, other.port)));
    let same = groups
        .iter_mut()
        .find(|group| group.family == family && group.ports == ports);
    match same {
        Some(group) => group.endpoints.push(endpoint),
        None => groups.push(Group {
            family,
            ports,
            endpoints: vec![endpoint],
        }),
    }
}

/// All slices that we manage go.
pub(super) fn nothing(existing: &[Arc<EndpointSlice>]) -> Changes {
    Changes {
        delete: existing
            .iter()
            .filter(|slice| {
                is_managed_by(slice, "endpointslice-controller.k8s.io")
                    || is_managed_by(slice, "endpointslicemirroring-controller.k8s.io")
            })
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect(),
        ..Changes::default()
    }
}

/// What tells one endpoint from another across changes of its conditions.
fn identity(endpoint: &Endpoint) -> (&str, &[String]) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.as_deref())
        .unwrap_or_default();
    (uid, &endpoint.addresses)
}

fn labels(service: &str, manager: &Manager) -> BTreeMap<String, String> {
    let mut labels = manager.labels.clone();
    labels.remove(HEADLESS);
    if manager.headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.to_owned());
    labels.insert(MANAGED_BY.to_owned(), manager.name.to_owned());
    labels
}

fn sorted_ports(slice: &EndpointSlice) -> Vec<EndpointPort> {
    let mut ports = slice.ports.clone().unwrap_or_default();
    ports.sort_by(|one, other| (&one.name, one.port).cmp(&(&other.name, other.port)));
    ports
}

/// `service` is the metadata of the Service (or of the Endpoints with its name).
pub(super) fn plan(
    service: &ObjectMeta,
    manager: &Manager,
    mut groups: Vec<Group>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    for family in &manager.keep_empty {
        if !groups.iter().any(|group| group.family == *family) {
            groups.push(Group {
                family,
                ports: Vec::new(),
                endpoints: Vec::new(),
            });
        }
    }
    let name = service.name.as_deref().unwrap_or_default();
    let labels = labels(name, manager);
    let mut changes = Changes::default();
    let mut ours: Vec<&Arc<EndpointSlice>> = existing
        .iter()
        .filter(|slice| is_managed_by(slice, manager.name))
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .collect();
    for group in groups {
        let (mine, rest): (Vec<_>, Vec<_>) = ours.into_iter().partition(|slice| {
            slice.address_type == group.family && sorted_ports(slice) == group.ports
        });
        ours = rest;
        place(service, manager, &labels, group, mine, &mut changes);
    }
    changes.delete.extend(ours.into_iter().cloned());
    changes
}

/// One group into the slices that are there for it and new ones.
fn place(
    service: &ObjectMeta,
    manager: &Manager,
    labels: &BTreeMap<String, String>,
    group: Group,
    mine: Vec<&Arc<EndpointSlice>>,
    changes: &mut Changes,
) {
    let keep_empty = group.endpoints.is_empty();
    let mut waiting: BTreeMap<(String, Vec<String>), Endpoint> = group
        .endpoints
        .into_iter()
        .map(|endpoint| {
            let (uid, addresses) = identity(&endpoint);
            ((uid.to_owned(), addresses.to_vec()), endpoint)
        })
        .collect();
    // Per slice: what it will hold, and whether it differs from what it holds now.
    let mut kept: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>, bool)> = mine
        .into_iter()
        .map(|slice| {
            let mut endpoints = Vec::new();
            let mut changed = slice.metadata.labels.as_ref() != Some(labels);
            for old in slice.endpoints.iter().flatten() {
                let (uid, addresses) = identity(old);
                let new = waiting.remove(&(uid.to_owned(), addresses.to_vec()));
                changed |= new.as_ref() != Some(old);
                endpoints.extend(new);
            }
            (slice, endpoints, changed)
        })
        .collect();
    let mut waiting = waiting.into_values();
    // Slices that are written anyway take new endpoints first, the fullest of them first.
    kept.sort_by_key(|(slice, endpoints, changed)| {
        let name = slice.metadata.name.clone();
        (!*changed, std::cmp::Reverse(endpoints.len()), name)
    });
    for (_, endpoints, changed) in &mut kept {
        while endpoints.len() < SLICE {
            let Some(endpoint) = waiting.next() else {
                break;
            };
            endpoints.push(endpoint);
            *changed = true;
        }
    }
    let mut left = kept.len();
    for (slice, endpoints, changed) in kept {
        if endpoints.is_empty() && !(keep_empty && left == 1) {
            changes.delete.push(Arc::clone(slice));
            left -= 1;
        } else if changed {
            let mut updated = slice.as_ref().clone();
            updated.endpoints = Some(endpoints);
            updated.metadata.labels = Some(labels.clone());
            changes.update.push(updated);
        }
    }
    let mut rest: Vec<Endpoint> = waiting.collect();
    if rest.is_empty() && !(keep_empty && left == 0) {
        return;
    }
    loop {
        let more = rest.split_off(rest.len().min(SLICE));
        changes.create.push(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.name.as_deref().unwrap_or_default())),
                namespace: service.namespace.clone(),
                labels: Some(labels.clone()),
                annotations: (!manager.annotations.is_empty()).then(|| manager.annotations.clone()),
                owner_references: Some(vec![manager.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: group.family.to_owned(),
            ports: Some(group.ports.clone()),
            endpoints: Some(rest),
        });
        if more.is_empty() {
            return;
        }
        rest = more;
    }
}
