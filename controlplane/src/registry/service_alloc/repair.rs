//! Brings allocations and Services in line: nothing should ever part them, since they are written in one
//! transaction, but what has come apart (by a restored snapshot, or an older version) must not stay so.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::held;
use crate::kinds;
use crate::registry::{ApiError, Registry, key, object};
use crate::store::{Compare, Freshness, Op, RangeRequest, Txn};

/// What a round has found and put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Allocations that no Service held.
    pub(crate) leaked: usize,
    /// Addresses and ports of Services that were not marked as taken.
    pub(crate) missing: usize,
    /// Addresses and ports that two Services have.
    pub(crate) double: usize,
}

/// What a Service holds, as allocation keys, with its own key and revision.
#[derive(Debug, Clone)]
struct Owner {
    key: String,
    revision: u64,
    name: Value,
}

impl Registry {
    /// Each repair is a transaction that fails when the Service has changed meanwhile: the next round sees it.
    pub(crate) async fn repair_allocations(&self) -> Result<Repaired, ApiError> {
        let kind = kinds::by_plural("", "v1", "services")
            .ok_or_else(|| ApiError::internal("services are not served"))?;
        // Allocations first: a Service that takes one after this has it in neither list.
        let mut marked: BTreeMap<String, u64> = BTreeMap::new();
        for prefix in [key::CLUSTER_IPS, key::NODE_PORTS] {
            marked.extend(
                self.all(prefix)
                    .await?
                    .into_iter()
                    .map(|(key, revision, _)| (key, revision)),
            );
        }
        let mut repaired = Repaired::default();
        let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
        for (service_key, revision, service) in self.all(&key::prefix(kind, "")).await? {
            let owner = Owner {
                key: service_key,
                revision,
                name: json!({"namespace": object::namespace(&service), "name": object::name(&service)}),
            };
            for held in held(&service) {
                if let Some(other) = owners.insert(held.clone(), owner.clone()) {
                    tracing::warn!(allocation = held, one = %other.key, other = %owner.key,
                        "two Services have the same address or port");
                    repaired.double += 1;
                }
            }
        }
        for (held, owner) in &owners {
            if !marked.contains_key(held) && self.mark(held, owner).await? {
                tracing::warn!(allocation = held, service = %owner.key, "an address or port was not marked as taken");
                repaired.missing += 1;
            }
        }
        for (held, revision) in marked {
            if !owners.contains_key(&held) && self.unmark(&held, revision).await? {
                tracing::warn!(allocation = held, "an address or port was taken by nobody");
                repaired.leaked += 1;
            }
        }
        Ok(repaired)
    }

    /// Keys below the prefix with their revisions and values.
    async fn all(&self, prefix: &str) -> Result<Vec<(String, u64, Value)>, ApiError> {
        let all = self
            .store()
            .range(RangeRequest {
                prefix: prefix.to_owned(),
                after: None,
                limit: 0,
                revision: None,
                freshness: Freshness::Linearizable,
            })
            .await?;
        let items = all.items.iter();
        let read = items.map(|kv| (kv.key.to_string(), kv.mod_revision, object::decode(kv)));
        Ok(read.collect())
    }

    async fn mark(&self, held: &str, owner: &Owner) -> Result<bool, ApiError> {
        let compare = |key: &str, mod_revision: u64| Compare {
            key: key.to_owned(),
            mod_revision,
        };
        let txn = Txn {
            compares: vec![compare(held, 0), compare(&owner.key, owner.revision)],
            ops: vec![Op::Put {
                key: held.to_owned(),
                value: owner.name.to_string().into(),
            }],
        };
        Ok(self.commit(txn).await?.is_ok())
    }

    /// A Service that took it since has written it anew.
    async fn unmark(&self, held: &str, revision: u64) -> Result<bool, ApiError> {
        let txn = Txn {
            compares: vec![Compare {
                key: held.to_owned(),
                mod_revision: revision,
            }],
            ops: vec![Op::Delete {
                key: held.to_owned(),
            }],
        };
        Ok(self.commit(txn).await?.is_ok())
    }
}
