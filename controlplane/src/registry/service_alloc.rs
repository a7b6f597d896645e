//! ClusterIPs and node ports of Services. Every address and port that is in use is a key of its own in the
//! store, written in the transaction that writes the Service: two Services can never get the same one, and
//! nothing leaks when a member dies in between.
//!
//! [`wants`] is pure: it normalizes the Service and says what is needed; [`Registry::allocate`] finds free
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

const NODE_PORT_MIN: u16 = 30000;
const NODE_PORT_MAX: u16 = 32767;
/// Random probes before the whole range is read.
const PROBES: usize = 24;

pub(super) fn concerns(kind: &Kind) -> bool {
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

fn cluster_ips(spec: &Value) -> Vec<String> {
    let list: Vec<String> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str().map(str::to_owned))
        .collect();
    match spec["clusterIP"].as_str() {
        Some(ip) if list.is_empty() && !ip.is_empty() => vec![ip.to_owned()],
        _ => list,
    }
}

fn node_ports(spec: &Value) -> Vec<u16> {
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| &port["nodePort"])
        .chain(std::iter::once(&spec["healthCheckNodePort"]))
        .filter_map(|port| port.as_u64().and_then(|port| u16::try_from(port).ok()))
        .filter(|port| *port > 0)
        .collect()
}

fn needs_cluster_ip(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None"
}

fn needs_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// A Service that is written without the values that were allocated for it keeps them, and one whose type
/// has no use for them any more loses them.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let spec = &mut new["spec"];
    if !spec.is_object() {
        return;
    }
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if spec["clusterIP"].as_str().unwrap_or("").is_empty() {
            spec["clusterIP"] = old["clusterIP"].clone();
        }
        if spec["clusterIPs"].is_null() && spec["clusterIP"] == old["clusterIP"] {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null() {
                spec[field] = old[field].clone();
            }
        }
    } else if needs_cluster_ip(old) && spec["clusterIP"] == old["clusterIP"] {
        remove(
            spec,
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        );
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        carry_node_ports(spec, old);
    } else if needs_node_ports(old) && node_ports(spec) == node_ports(old) {
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            remove(port, &["nodePort"]);
        }
        remove(spec, &["healthCheckNodePort"]);
    }
    object::strip_nulls(spec);
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| !fields.contains(&key.as_str()));
    }
}

fn carry_node_ports(spec: &mut Value, old: &Value) {
    let mut used = node_ports(spec);
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or(0) > 0 {
            continue;
        }
        let before = old["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|before| {
                before["port"] == port["port"] && before["protocol"] == port["protocol"]
            });
        let number = before
            .and_then(|before| before["nodePort"].as_u64())
            .and_then(|number| u16::try_from(number).ok());
        if let Some(number) = number.filter(|number| *number > 0 && !used.contains(number)) {
            used.push(number);
            port["nodePort"] = number.into();
        }
    }
    if spec["healthCheckNodePort"].is_null() {
        spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
}

/// What a Service needs beyond what it names itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Per entry of `clusterIPs`: the range it is from and the address that was asked for.
    addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Index into `ports` and the node port that was asked for.
    ports: Vec<(usize, Option<u16>)>,
    health_check: Option<Option<u16>>,
}

/// Brings families and policy of the Service in order, and says what has to be allocated.
pub(super) fn wants(ranges: &[IpNet], service: &mut Value) -> Result<Wants, FieldError> {
    let mut wants = Wants::default();
    let spec = &mut service["spec"];
    if !spec.is_object() {
        return Ok(wants);
    }
    if needs_cluster_ip(spec) {
        let families = families(ranges, spec)?;
        let names: Vec<Value> = families.iter().map(|range| family(range).into()).collect();
        spec["ipFamilies"] = Value::Array(names);
        if is_headless(spec) {
            spec["clusterIPs"] = json!(["None"]);
        } else {
            wants.addresses = addresses(&families, spec)?;
        }
    }
    if needs_node_ports(spec) {
        for (index, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            wants
                .ports
                .push((index, asked_port(&port["nodePort"], &field)?));
        }
    }
    let local = spec["externalTrafficPolicy"] == "Local" && spec["type"] == "LoadBalancer";
    if local {
        let asked = asked_port(&spec["healthCheckNodePort"], "spec.healthCheckNodePort")?;
        wants.health_check = Some(asked);
    }
    Ok(wants)
}

fn family(range: &IpNet) -> &'static str {
    match range {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

fn range_of<'a>(ranges: &'a [IpNet], name: &str) -> Option<&'a IpNet> {
    ranges.iter().find(|range| family(range) == name)
}

/// The range of each family that the Service is to have, in order; sets `ipFamilyPolicy`.
fn families(ranges: &[IpNet], spec: &mut Value) -> Result<Vec<IpNet>, FieldError> {
    let mut chosen: Vec<IpNet> = Vec::new();
    let named: Vec<String> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    for (index, name) in named.iter().enumerate() {
        let range = range_of(ranges, name).ok_or_else(|| {
            field_error(
                &format!("spec.ipFamilies[{index}]"),
                Cause::Invalid,
                format!("Invalid value: \"{name}\": not configured on this cluster"),
            )
        })?;
        chosen.push(*range);
    }
    if chosen.is_empty() {
        let asked = cluster_ips(spec);
        let by_address = asked.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
        chosen = by_address
            .filter_map(|ip| range_of(ranges, if ip.is_ipv4() { "IPv4" } else { "IPv6" }))
            .copied()
            .collect();
    }
    if chosen.is_empty() {
        chosen.extend(ranges.first());
    }
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("").to_owned();
    let policy = match (policy.as_str(), chosen.len()) {
        ("", 2..) => "RequireDualStack",
        ("", _) => "SingleStack",
        (given, _) => given,
    };
    match policy {
        "SingleStack" => chosen.truncate(1),
        "PreferDualStack" | "RequireDualStack" if chosen.len() == 1 => {
            let other = ranges.iter().find(|range| !chosen.contains(range));
            chosen.extend(other);
        }
        _ => {}
    }
    if policy == "RequireDualStack" && chosen.len() < 2 && !is_headless(spec) {
        return Err(field_error(
            "spec.ipFamilyPolicy",
            Cause::Invalid,
            "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ));
    }
    spec["ipFamilyPolicy"] = policy.into();
    Ok(chosen)
}

fn addresses(families: &[IpNet], spec: &Value) -> Result<Vec<(IpNet, Option<IpAddr>)>, FieldError> {
    let asked = cluster_ips(spec);
    let mut out = Vec::new();
    for (index, range) in families.iter().enumerate() {
        let Some(text) = asked.get(index).filter(|text| !text.is_empty()) else {
            out.push((*range, None));
            continue;
        };
        let address: IpAddr = text.parse().map_err(|_| {
            field_error(
                &format!("spec.clusterIPs[{index}]"),
                Cause::Invalid,
                format!("Invalid value: \"{text}\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            )
        })?;
        if !range.contains(&address) {
            return Err(cannot_allocate(
                &asked,
                address,
                &format!(
                    "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
                ),
            ));
        }
        out.push((*range, Some(address)));
    }
    Ok(out)
}

fn cannot_allocate(asked: &[String], address: IpAddr, why: &str) -> FieldError {
    field_error(
        "spec.clusterIPs",
        Cause::Invalid,
        format!(
            "Invalid value: {}: failed to allocate IP {address}: {why}",
            json!(asked)
        ),
    )
}

fn asked_port(value: &Value, field: &str) -> Result<Option<u16>, FieldError> {
    match value.as_i64() {
        None | Some(0) => Ok(None),
        Some(number) => u16::try_from(number)
            .ok()
            .filter(|port| (NODE_PORT_MIN..=NODE_PORT_MAX).contains(port))
            .map(Some)
            .ok_or_else(|| {
                field_error(
                    field,
                    Cause::Invalid,
                    format!(
                        "Invalid value: {number}: provided port is not in the valid range. The range of \
                         valid ports is {NODE_PORT_MIN}-{NODE_PORT_MAX}"
                    ),
                )
            }),
    }
}

/// Number of addresses of the range that Services can have, counted from the first usable one (offset 1).
fn usable(range: &IpNet) -> u128 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX);
    match range {
        // Network and broadcast address stay free.
        IpNet::V4(_) => all.saturating_sub(2),
        // Beyond this, an IPv6 range has no more to offer anybody.
        IpNet::V6(_) => all.saturating_sub(1).min(1 << 20),
    }
}

/// The address at `offset` (from 1) of the range.
pub(crate) fn nth(range: &IpNet, offset: u128) -> Option<IpAddr> {
    match range {
        IpNet::V4(net) => {
            let base = u32::from(net.network());
            let offset = u32::try_from(offset).ok()?;
            Some(IpAddr::V4(base.checked_add(offset)?.into()))
        }
        IpNet::V6(net) => Some(IpAddr::V6(
            u128::from(net.network()).checked_add(offset)?.into(),
        )),
    }
    .filter(|address| range.contains(address))
}

/// How many addresses at the start are left to those who ask for a certain one.
fn reserved(usable: u128) -> u128 {
    (usable / 16).clamp(16, 256).min(usable / 2)
}

impl Registry {
    /// Fills in addresses and ports; the plan goes into the same transaction as the Service.
    pub(super) async fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Plan, ApiError> {
        let name = object::name(service).to_owned();
        let invalid = |error: FieldError| ApiError::invalid(kind, &name, &[error]);
        let before = old.map(held).unwrap_or_default();
        let wants = wants(&self.inner.service_cidrs, service).map_err(invalid)?;
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
            let port = match wanted.or(shared) {
                // One number may serve two protocols of one Service.
                Some(port) if taken.contains(&key::node_port(port)) => port,
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

    async fn asked_port_is_free(
        &self,
        port: u16,
        field: &str,
        before: &BTreeSet<String>,
    ) -> Result<u16, PortError> {
        let key = key::node_port(port);
        if !before.contains(&key) && self.is_taken(&key).await.map_err(PortError::Api)? {
            return Err(PortError::Field(field_error(
                field,
                Cause::Invalid,
                format!("Invalid value: {port}: provided port is already allocated"),
            )));
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

    async fn free_port(&self, taken: &BTreeSet<String>) -> Result<u16, PortError> {
        for _ in 0..PROBES {
            let port = rand::rng().random_range(NODE_PORT_MIN..=NODE_PORT_MAX);
            let key = key::node_port(port);
            if !taken.contains(&key) && !self.is_taken(&key).await.map_err(PortError::Api)? {
                return Ok(port);
            }
        }
        let used = self.used(key::NODE_PORTS).await.map_err(PortError::Api)?;
        (NODE_PORT_MIN..=NODE_PORT_MAX)
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

enum PortError {
    Api(ApiError),
    Field(FieldError),
}

/// The node port that an earlier entry with the same port number and another protocol has.
fn shared_port(ports: &Value, index: usize) -> Option<u16> {
    let ports = ports.as_array()?;
    let this = ports.get(index)?;
    ports[..index]
        .iter()
        .find(|port| port["port"] == this["port"] && port["protocol"] != this["protocol"])
        .and_then(|port| port["nodePort"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests;
