//! Pod ranges of nodes: no address belongs to two nodes, whoever writes them and however many at once.
//!
//! Every write that gives a node ranges is checked against all other nodes and passes through one key, which
//! the transaction compares and moves on: of two such writes that were computed from the same state only one
//! goes through, and the other is computed anew. A range is free again when its node is deleted.

use ipnet::IpNet;
use serde_json::Value;

use super::{ApiError, Registry, key, object};
use crate::kinds::{Cause, Kind};
use crate::store::{Compare, Freshness, Op, RangeRequest, Txn};

/// Whether the write gives a node ranges that it did not have.
pub(super) fn concerns(kind: &Kind<'_>, new: &Value, old: Option<&Value>) -> bool {
    kind.group.is_empty()
        && kind.plural == "nodes"
        && !ranges(new).is_empty()
        && old.map(ranges).unwrap_or_default() != ranges(new)
}

fn ranges(node: &Value) -> Vec<IpNet> {
    let spec = &node["spec"];
    let mut texts: Vec<&str> = spec["podCIDRs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if texts.is_empty() {
        texts.extend(spec["podCIDR"].as_str());
    }
    let ranges = texts.into_iter().filter_map(|text| text.parse().ok());
    ranges.collect()
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
        for kv in &all.items {
            let other = object::decode(kv);
            if object::name(&other) == name {
                continue;
            }
            for taken in ranges(&other) {
                if let Some(index) = wanted.iter().position(|range| overlap(range, &taken)) {
                    let message = format!(
                        "Invalid value: \"{}\": overlaps with {taken} of node \"{}\"",
                        wanted[index],
                        object::name(&other)
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
            }
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
