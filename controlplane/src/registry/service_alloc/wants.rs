//! What a Service needs: the pure half of allocation. Normalizes families and policy, keeps what was
//! allocated before, and names the ranges and numbers that are wanted.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::kinds::{Cause, FieldError};
use crate::registry::error::field_error;
use crate::registry::object;

pub(super) fn cluster_ips(spec: &Value) -> Vec<String> {
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

pub(super) fn node_ports(spec: &Value) -> Vec<u16> {
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| &port["nodePort"])
        .chain(std::iter::once(&spec["healthCheckNodePort"]))
        .filter_map(|port| port.as_u64().and_then(|port| u16::try_from(port).ok()))
        .filter(|port| *port > 0)
        .collect()
}

pub(super) fn needs_cluster_ip(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

pub(super) fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None"
}

pub(super) fn needs_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// A Service that is written without the values that were allocated for it keeps them, and one whose type
/// has no use for them any more loses them.
pub(in crate::registry) fn carry_over(new: &mut Value, old: &Value) {
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

pub(super) fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| !fields.contains(&key.as_str()));
    }
}

pub(super) fn carry_node_ports(spec: &mut Value, old: &Value) {
    let mut used = node_ports(spec);
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        // One that cannot be is refused later.
        if port["nodePort"].as_i64().unwrap_or(0) != 0 {
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
}

/// What a Service needs beyond what it names itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Per entry of `clusterIPs`: the range it is from and the address that was asked for.
    pub(super) addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Index into `ports` and the node port that was asked for.
    pub(super) ports: Vec<(usize, Option<i64>)>,
    pub(super) health_check: Option<Option<i64>>,
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
    // A LoadBalancer without node ports of its own still has those that were asked for.
    let always = needs_node_ports(spec);
    if always || spec["type"] == "LoadBalancer" {
        for (index, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
            let asked = asked_port(&port["nodePort"]);
            if always || asked.is_some() {
                wants.ports.push((index, asked));
            }
        }
    }
    let local = spec["externalTrafficPolicy"] == "Local" && spec["type"] == "LoadBalancer";
    if local {
        wants.health_check = Some(asked_port(&spec["healthCheckNodePort"]));
    }
    Ok(wants)
}

pub(super) fn family(range: &IpNet) -> &'static str {
    match range {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

pub(super) fn range_of<'a>(ranges: &'a [IpNet], name: &str) -> Option<&'a IpNet> {
    ranges.iter().find(|range| family(range) == name)
}

/// The range of each family that the Service is to have, in order; sets `ipFamilyPolicy`.
pub(super) fn families(ranges: &[IpNet], spec: &mut Value) -> Result<Vec<IpNet>, FieldError> {
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

pub(super) fn addresses(
    families: &[IpNet],
    spec: &Value,
) -> Result<Vec<(IpNet, Option<IpAddr>)>, FieldError> {
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

pub(super) fn cannot_allocate(asked: &[String], address: IpAddr, why: &str) -> FieldError {
    field_error(
        "spec.clusterIPs",
        Cause::Invalid,
        format!(
            "Invalid value: {}: failed to allocate IP {address}: {why}",
            json!(asked)
        ),
    )
}

/// A number that was asked for; whether it is a port of the range is looked at where it is taken.
pub(super) fn asked_port(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| *number != 0)
}

/// Number of addresses of the range that Services can have, counted from the first usable one (offset 1).
pub(super) fn usable(range: &IpNet) -> u128 {
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
pub(super) fn reserved(usable: u128) -> u128 {
    (usable / 16).clamp(16, 256).min(usable / 2)
}

/// The node port that an earlier entry with the same port number and another protocol has.
pub(super) fn shared_port(ports: &Value, index: usize) -> Option<u16> {
    let ports = ports.as_array()?;
    let this = ports.get(index)?;
    ports[..index]
        .iter()
        .find(|port| port["port"] == this["port"] && port["protocol"] != this["protocol"])
        .and_then(|port| port["nodePort"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}
