//! Pod ranges of nodes: no address belongs to two nodes, whoever writes them and however many at once.
//!
//! Every write that gives a node ranges is checked against all other nodes and passes through one key, which
//! the transaction compares and moves on: of two such writes that were computed from the same state only one
//! goes through, and the other is computed anew. A range is free again when its node is deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::{ApiError, Registry, key, object};
use crate::kinds::{Cause, Kind};
use crate::store::{Compare, Freshness, KeyValue, Op, RangeRequest, Revision, Txn};

/// Whether the write gives a node ranges that it did not have.
pub(super) fn concerns(kind: &Kind<'_>, new: &Value, old: Option<&Value>) -> bool {
    kind.group.is_empty()
        && kind.plural == "nodes"
        && !ranges(new).is_empty()
        && old.map(ranges).unwrap_or_default() != ranges(new)
}

fn ranges(node: &Value) -> Vec<IpNet> {
    let spec = &node["spec"];
    let listed = spec["podCIDRs"].as_array().into_iter().flatten();
    either(
        listed.filter_map(Value::as_str).collect(),
        spec["podCIDR"].as_str(),
    )
}

/// Of a node as it is stored, what matters here.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    spec: StoredSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredSpec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

fn stored_ranges(value: &[u8]) -> Vec<IpNet> {
    let Ok(Stored { spec }) = serde_json::from_slice(value) else {
        return Vec::new();
    };
    let listed = spec.pod_cidrs.iter().map(String::as_str);
    either(listed.collect(), spec.pod_cidr.as_deref())
}

/// The list counts, and the single one where there is none.
fn either<'a>(mut listed: Vec<&'a str>, single: Option<&'a str>) -> Vec<IpNet> {
    if listed.is_empty() {
        listed.extend(single);
    }
    listed.iter().filter_map(|text| text.parse().ok()).collect()
}

/// By key: the version of a node that was read last, and its ranges.
type Versions = HashMap<Arc<str>, (Revision, Vec<IpNet>)>;

/// What is known of the nodes that were read last: thousands of nodes come together, and each that gets ranges
/// is compared with all others.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Versions>);

impl Known {
    /// A range that overlaps with one of those that are wanted: which one, and the other, with its node.
    fn conflict(
        &self,
        nodes: &[Arc<KeyValue>],
        own: &str,
        wanted: &[IpNet],
    ) -> Option<(usize, IpNet, Arc<KeyValue>)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        let mut found = None;
        for kv in nodes {
            let ranges = match before.remove(&kv.key) {
                Some((revision, ranges)) if revision == kv.mod_revision => ranges,
                _ => stored_ranges(&kv.value),
            };
            if found.is_none() && *kv.key != *own {
                found = ranges.iter().find_map(|taken| {
                    let index = wanted.iter().position(|range| overlap(range, taken))?;
                    Some((index, *taken, Arc::clone(kv)))
                });
            }
            known.insert(Arc::clone(&kv.key), (kv.mod_revision, ranges));
        }
        found
    }
}

pub(crate) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

impl Registry {
    /// Refuses what overlaps, and makes the transaction fail when another node gets ranges meanwhile.
    pub(super) async fn guard_ranges(
        &self,
        kind: &Kind<'_>,
        node: &Value,
        txn: &mut Txn,
    ) -> Result<(), ApiError> {
        let guard = self
            .store()
            .get(key::NODE_RANGES, Freshness::Local)
            .await?
            .map_or(0, |kv| kv.mod_revision);
        // Read after the guard: what is newer than that has moved the guard on.
        let all = self
            .store()
            .range(RangeRequest {
                prefix: key::prefix(kind, ""),
                after: None,
                limit: 0,
                revision: None,
                freshness: Freshness::Local,
            })
            .await?;
        let name = object::name(node);
        let wanted = ranges(node);
        let own = key::object(kind, "", name);
        let known = &self.inner.node_ranges;
        if let Some((index, taken, other)) = known.conflict(&all.items, &own, &wanted) {
            let message = format!(
                "Invalid value: \"{}\": overlaps with {taken} of node \"{}\"",
                wanted[index],
                object::name(&object::decode(&other))
            );
            let field = format!("spec.podCIDRs[{index}]");
            return Err(ApiError::invalid_field(
                kind,
                name,
                &field,
                Cause::Invalid,
                &message,
            ));
        }
        txn.compares.push(Compare {
            key: key::NODE_RANGES.to_owned(),
            mod_revision: guard,
        });
        txn.ops.push(Op::Put {
            key: key::NODE_RANGES.to_owned(),
            value: name.to_owned().into(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn stored(name: &str, revision: Revision, spec: &Value) -> Arc<KeyValue> {
        let node = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "x"}});
        Arc::new(KeyValue {
            key: name.into(),
            value: node.to_string().into(),
            create_revision: 1,
            mod_revision: revision,
            version: 1,
        })
    }

    #[test]
    fn a_range_is_compared_with_those_of_the_newest_version_of_each_other_node() {
        let known = Known::default();
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        let wanted = [range("10.0.1.0/24")];
        let told = |nodes: &[Arc<KeyValue>], own: &str| {
            let found = known.conflict(nodes, own, &wanted);
            found.map(|(index, taken, other)| (index, taken, other.key.to_string()))
        };
        let one = stored("a", 1, &json!({"podCIDR": "10.0.0.0/24"}));
        let two = stored(
            "b",
            2,
            &json!({"podCIDR": "x", "podCIDRs": ["10.0.1.128/25", "fd00::/64"]}),
        );
        let overlap = (0, range("10.0.1.128/25"), "b".to_owned());
        for _ in 0..2 {
            let nodes = [one.clone(), two.clone()];
            assert_eq!(told(&nodes, "c"), Some(overlap.clone()));
            assert_eq!(told(&nodes, "b"), None, "its own");
        }
        let moved = stored("b", 3, &json!({}));
        let taken = stored("a", 4, &json!({"podCIDR": "10.0.0.0/16"}));
        assert_eq!(told(&[one.clone(), moved.clone()], "c"), None);
        let overlap = (0, range("10.0.0.0/16"), "a".to_owned());
        assert_eq!(told(&[taken, moved], "c"), Some(overlap));
        assert_eq!(told(&[], "c"), None);
        assert!(known.0.lock().unwrap().is_empty(), "nodes that are gone");
    }
}
