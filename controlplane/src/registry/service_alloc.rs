//! ClusterIPs and node ports of Services. Every address and port that is in use is a key of its own in the
//! store, written in the transaction that writes the Service: two Services can never get the same one, and
//! nothing leaks when a member dies in between.
//!
//! [`wants`](mod@wants) is pure: it normalizes the Service and says what is needed; [`Registry::allocate`] finds free
//! ones and fills them in. There is no in-memory bitmap to keep in step.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};

use super::error::field_error;
use super::{ApiError, Registry, key, object};
use crate::kinds::{Cause, FieldError, Kind};
use crate::store::{Compare, Freshness, Op, RangeRequest, Txn};

mod repair;
mod wants;

pub(super) use wants::carry_over;
pub(crate) use wants::nth;
use wants::{
    Wants, cannot_allocate, cluster_ips, node_ports, reserved, shared_port, usable, wants,
};

/// Random probes before the whole range is read.
const PROBES: usize = 24;

pub(super) fn concerns(kind: &Kind<'_>) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// Allocation keys that a write takes and gives back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    acquire: Vec<String>,
    release: Vec<String>,
}

impl Plan {
    pub(super) fn add_to(&self, txn: &mut Txn, service: &Value) {
        let owner = json!({"namespace": object::namespace(service), "name": object::name(service)});
        for key in &self.acquire {
            txn.compares.push(Compare {
                key: key.clone(),
                mod_revision: 0,
            });
            txn.ops.push(Op::Put {
                key: key.clone(),
                value: owner.to_string().into(),
            });
        }
        for key in &self.release {
            txn.ops.push(Op::Delete { key: key.clone() });
        }
    }
}

/// Everything the Service holds, as allocation keys.
pub(super) fn held(service: &Value) -> BTreeSet<String> {
    let spec = &service["spec"];
    let mut keys: BTreeSet<String> = cluster_ips(spec)
        .iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(key::cluster_ip)
        .collect();
    keys.extend(node_ports(spec).into_iter().map(key::node_port));
    keys
}

impl Registry {
    /// Fills in addresses and ports; the plan goes into the same transaction as the Service.
    pub(super) async fn allocate(
        &self,
        kind: &Kind<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Plan, ApiError> {
        let name = object::name(service).to_owned();
        let invalid = |error: FieldError| ApiError::invalid(kind, &name, &[error]);
        let before = old.map(held).unwrap_or_default();
        let wants = wants(&self.inner.ranges.cidrs, service).map_err(invalid)?;
        let mut taken: BTreeSet<String> = BTreeSet::new();

        if !wants.addresses.is_empty() {
            let asked = cluster_ips(&service["spec"]);
            let mut chosen = Vec::new();
            for (range, wanted) in &wants.addresses {
                let address = match wanted {
                    Some(address) => {
                        let key = key::cluster_ip(*address);
                        if !before.contains(&key) && self.is_taken(&key).await? {
                            let why = "provided IP is already allocated";
                            return Err(invalid(cannot_allocate(&asked, *address, why)));
                        }
                        *address
                    }
                    None => self.free_address(range).await?,
                };
                taken.insert(key::cluster_ip(address));
                chosen.push(address.to_string());
            }
            service["spec"]["clusterIP"] = chosen[0].clone().into();
            service["spec"]["clusterIPs"] = json!(chosen);
        }
        self.allocate_ports(service, &wants, &before, &mut taken)
            .await
            .map_err(|error| match error {
                PortError::Api(error) => error,
                PortError::Field(error) => invalid(error),
            })?;
        Ok(Plan {
            acquire: taken.difference(&before).cloned().collect(),
            release: before.difference(&held(service)).cloned().collect(),
        })
    }

    async fn allocate_ports(
        &self,
        service: &mut Value,
        wants: &Wants,
        before: &BTreeSet<String>,
        taken: &mut BTreeSet<String>,
    ) -> Result<(), PortError> {
        for (index, wanted) in &wants.ports {
            let field = format!("spec.ports[{index}].nodePort");
            let shared = shared_port(&service["spec"]["ports"], *index);
            let port = match wanted.or(shared.map(i64::from)) {
                // One number may serve two protocols of one Service.
                Some(port) if is_among(port, taken) => u16::try_from(port).unwrap_or(0),
                Some(port) => self.asked_port_is_free(port, &field, before).await?,
                None => self.free_port(taken).await?,
            };
            taken.insert(key::node_port(port));
            service["spec"]["ports"][*index]["nodePort"] = port.into();
        }
        if let Some(wanted) = wants.health_check {
            let port = match wanted {
                Some(port) => {
                    self.asked_port_is_free(port, "spec.healthCheckNodePort", before)
                        .await?
                }
                None => self.free_port(taken).await?,
            };
            taken.insert(key::node_port(port));
            service["spec"]["healthCheckNodePort"] = port.into();
        }
        Ok(())
    }

    async fn is_taken(&self, key: &str) -> Result<bool, ApiError> {
        Ok(self.store().get(key, Freshness::Local).await?.is_some())
    }

    /// What the Service has already is not asked for anew: it stays, even outside of a range that has changed.
    async fn asked_port_is_free(
        &self,
        number: i64,
        field: &str,
        before: &BTreeSet<String>,
    ) -> Result<u16, PortError> {
        let range = &self.inner.ranges.node_ports;
        let port = u16::try_from(number).ok();
        if let Some(port) = port.filter(|port| before.contains(&key::node_port(*port))) {
            return Ok(port);
        }
        let invalid = |why: String| {
            let message = format!("Invalid value: {number}: {why}");
            PortError::Field(field_error(field, Cause::Invalid, message))
        };
        let Some(port) = port.filter(|port| range.contains(port)) else {
            return Err(invalid(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            )));
        };
        if self
            .is_taken(&key::node_port(port))
            .await
            .map_err(PortError::Api)?
        {
            return Err(invalid("provided port is already allocated".to_owned()));
        }
        Ok(port)
    }

    async fn free_address(&self, range: &IpNet) -> Result<IpAddr, ApiError> {
        let count = usable(range);
        let low = reserved(count);
        for _ in 0..PROBES {
            let offset = rand::rng().random_range(low..count.max(low + 1)) + 1;
            if let Some(address) = nth(range, offset)
                && !self.is_taken(&key::cluster_ip(address)).await?
            {
                return Ok(address);
            }
        }
        let used = self.used(key::CLUSTER_IPS).await?;
        (low + 1..=count)
            .chain(1..=low)
            .filter_map(|offset| nth(range, offset))
            .find(|address| !used.contains(&key::cluster_ip(*address)))
            .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))
    }

    /// The lower part of the range is left to those who ask for a certain port, while there are others.
    async fn free_port(&self, taken: &BTreeSet<String>) -> Result<u16, PortError> {
        let (first, last) = self.inner.ranges.node_ports.clone().into_inner();
        let dynamic = first + reserved_ports(first, last);
        for _ in 0..PROBES {
            let port = rand::rng().random_range(dynamic..=last);
            let key = key::node_port(port);
            if !taken.contains(&key) && !self.is_taken(&key).await.map_err(PortError::Api)? {
                return Ok(port);
            }
        }
        let used = self.used(key::NODE_PORTS).await.map_err(PortError::Api)?;
        (dynamic..=last)
            .chain(first..dynamic)
            .find(|port| {
                let key = key::node_port(*port);
                !taken.contains(&key) && !used.contains(&key)
            })
            .ok_or_else(|| {
                PortError::Api(ApiError::internal(
                    "failed to allocate a nodePort: range is full",
                ))
            })
    }

    async fn used(&self, prefix: &str) -> Result<BTreeSet<String>, ApiError> {
        let all = self
            .store()
            .range(RangeRequest {
                prefix: prefix.to_owned(),
                after: None,
                limit: 0,
                revision: None,
                freshness: Freshness::Local,
            })
            .await?;
        Ok(all.items.iter().map(|kv| kv.key.to_string()).collect())
    }
}

fn is_among(port: i64, taken: &BTreeSet<String>) -> bool {
    u16::try_from(port).is_ok_and(|port| taken.contains(&key::node_port(port)))
}

/// How many ports at the start of the range are given only to those who ask for them: as Kubernetes, a
/// thirty-second part, between 16 and 128, and none of a small range.
fn reserved_ports(first: u16, last: u16) -> u16 {
    let size = u32::from(last - first) + 1;
    if size < 32 {
        return 0;
    }
    u16::try_from((size / 32).clamp(16, 128)).unwrap_or(0)
}

enum PortError {
    Api(ApiError),
    Field(FieldError),
}

#[cfg(test)]
mod tests;
