//! Volumes that say by their labels where they are. Pure.
//!
//! Kinds of storage that are older than the node affinity of volumes label them with the zones and regions from which
//! they can be reached.

use k8s_openapi::api::core::v1::{Node, PersistentVolume};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
/// The labels, and what each is called now.
const LABELS: [(&str, &str); 4] = [
    (ZONE, ZONE),
    (REGION, REGION),
    ("failure-domain.beta.kubernetes.io/zone", ZONE),
    ("failure-domain.beta.kubernetes.io/region", REGION),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// Where a volume is: a label, what it is called now, and the values that a node may have.
#[derive(Debug)]
pub(super) struct Place {
    label: &'static str,
    now: &'static str,
    values: Vec<String>,
}

pub(super) fn places(volume: &PersistentVolume) -> Vec<Place> {
    let labels = volume.metadata.labels.as_ref();
    let place = |(label, now): &(&'static str, &'static str)| {
        let value = labels?.get(*label)?;
        Some(Place {
            label,
            now,
            values: value
                .split(SEPARATOR)
                .map(|one| one.trim().to_owned())
                .collect(),
        })
    };
    LABELS.iter().filter_map(place).collect()
}

/// A node without any of the labels is where everything is: the cluster has no zones.
pub(super) fn all_at(places: &[Place], node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key);
    if LABELS.iter().all(|(known, _)| label(known).is_none()) {
        return true;
    }
    places.iter().all(|place| {
        let value = label(place.label).or_else(|| label(place.now));
        value.is_some_and(|value| place.values.contains(value))
    })
}
