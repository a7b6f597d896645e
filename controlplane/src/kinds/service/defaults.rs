//! Defaults of a Service, and what an update keeps of what was allocated before.

use serde_json::{Value, json};

use super::has_node_ports;
use crate::kinds::access::{at, fill, fill_absent, integer, list, list_mut, object_mut, text};

pub(super) fn fill_in(object: &mut Value) {
    let spec = object_mut(object, &["spec"]);
    fill(spec, "type", "ClusterIP");
    fill(spec, "sessionAffinity", "None");
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    match spec["sessionAffinity"].as_str() {
        Some("ClientIP") => {
            let client_ip = object_mut(object, &["spec", "sessionAffinityConfig", "clientIP"]);
            fill(client_ip, "timeoutSeconds", 10_800);
        }
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        _ => {}
    }
    for port in list_mut(object, &["spec", "ports"]) {
        let number = port.get("port").cloned();
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        fill(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|t| t.is_null() || t == 0 || t == "")
            && let Some(number) = number
        {
            port.insert("targetPort".into(), number);
        }
    }
    let has_external_ips = !list(object, &["spec", "externalIPs"]).is_empty();
    let spec = object_mut(object, &["spec"]);
    if has_node_ports(&kind) || (kind == "ClusterIP" && has_external_ips) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        fill_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    cluster_ips(object, &kind);
    for ingress in list_mut(object, &["status", "loadBalancer", "ingress"]) {
        if text(ingress, &["ip"]).is_empty() {
            continue;
        }
        if let Some(ingress) = ingress.as_object_mut() {
            fill_absent(ingress, "ipMode", "VIP");
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`; families follow from the addresses where they are given.
fn cluster_ips(object: &mut Value, kind: &str) {
    if kind == "ExternalName" {
        return;
    }
    let one = text(object, &["spec", "clusterIP"]).to_owned();
    if !one.is_empty() && list(object, &["spec", "clusterIPs"]).is_empty() {
        object_mut(object, &["spec"]).insert("clusterIPs".into(), json!([one]));
    }
    let families: Vec<&str> = list(object, &["spec", "clusterIPs"])
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .map(|ip: std::net::IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect();
    if list(object, &["spec", "ipFamilies"]).is_empty() && !families.is_empty() {
        object_mut(object, &["spec"]).insert("ipFamilies".into(), families.into());
    }
    let two = list(object, &["spec", "clusterIPs"]).len() > 1
        || list(object, &["spec", "ipFamilies"]).len() > 1;
    let policy = if two {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    fill_absent(object_mut(object, &["spec"]), "ipFamilyPolicy", policy);
}

/// An update that leaves out what was allocated keeps it.
pub(super) fn keep_allocated(object: &mut Value, old: &Value) {
    let old_kind = text(old, &["spec", "type"]);
    let kind = text(object, &["spec", "type"]).to_owned();
    if old_kind != "ExternalName" && kind != "ExternalName" {
        if text(object, &["spec", "clusterIP"]).is_empty()
            && list(object, &["spec", "clusterIPs"]).is_empty()
        {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = at(old, &["spec", field]).cloned() {
                    object_mut(object, &["spec"]).insert(field.into(), value);
                }
            }
        }
        let unchanged = at(object, &["spec", "clusterIPs"]) == at(old, &["spec", "clusterIPs"]);
        if unchanged && list(object, &["spec", "ipFamilies"]).is_empty() {
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if let Some(value) = at(old, &["spec", field]).cloned() {
                    object_mut(object, &["spec"]).insert(field.into(), value);
                }
            }
        }
    }
    if has_node_ports(old_kind) && has_node_ports(&kind) {
        keep_node_ports(object, old);
    }
    let needs_check = |object: &Value| {
        text(object, &["spec", "type"]) == "LoadBalancer"
            && text(object, &["spec", "externalTrafficPolicy"]) == "Local"
    };
    if needs_check(old)
        && needs_check(object)
        && integer(object, &["spec", "healthCheckNodePort"]).unwrap_or(0) == 0
        && let Some(port) = at(old, &["spec", "healthCheckNodePort"]).cloned()
    {
        object_mut(object, &["spec"]).insert("healthCheckNodePort".into(), port);
    }
}

fn keep_node_ports(object: &mut Value, old: &Value) {
    let mut used: Vec<i64> = list(object, &["spec", "ports"])
        .iter()
        .filter_map(|port| integer(port, &["nodePort"]))
        .filter(|port| *port != 0)
        .collect();
    let before: Vec<(String, i64, i64)> = list(old, &["spec", "ports"])
        .iter()
        .map(|port| {
            (
                text(port, &["protocol"]).to_owned(),
                integer(port, &["port"]).unwrap_or(0),
                integer(port, &["nodePort"]).unwrap_or(0),
            )
        })
        .collect();
    for port in list_mut(object, &["spec", "ports"]) {
        if integer(port, &["nodePort"]).unwrap_or(0) != 0 {
            continue;
        }
        let protocol = text(port, &["protocol"]);
        let number = integer(port, &["port"]).unwrap_or(0);
        let found = before
            .iter()
            .find(|(p, n, node)| p == protocol && *n == number && *node != 0)
            .map(|(_, _, node)| *node)
            .filter(|node| !used.contains(node));
        if let (Some(node), Some(port)) = (found, port.as_object_mut()) {
            used.push(node);
            port.insert("nodePort".into(), node.into());
        }
    }
}

/// A change of policy to SingleStack that leaves the rest as it was gives the second family back.
pub(super) fn drop_second_family(object: &mut Value, old: &Value) {
    let was_dual = list(old, &["spec", "ipFamilies"]).len() == 2
        && text(old, &["spec", "ipFamilyPolicy"]) != "SingleStack";
    let unchanged = |field: &str| {
        let now = list(object, &["spec", field]);
        now.is_empty() || now == list(old, &["spec", field])
    };
    if text(object, &["spec", "ipFamilyPolicy"]) != "SingleStack"
        || !was_dual
        || !unchanged("ipFamilies")
        || !unchanged("clusterIPs")
    {
        return;
    }
    for field in ["ipFamilies", "clusterIPs"] {
        let first = list(old, &["spec", field]).first().cloned();
        let first: Vec<Value> = first.into_iter().collect();
        object_mut(object, &["spec"]).insert(field.into(), first.into());
    }
    if let Some(one) = at(old, &["spec", "clusterIP"]).cloned() {
        object_mut(object, &["spec"]).insert("clusterIP".into(), one);
    }
}

/// A change of type drops what only the old type had, unless the update sets it anew.
pub(super) fn drop_what_the_type_lost(object: &mut Value, old: &Value) {
    let old_kind = text(old, &["spec", "type"]);
    let kind = text(object, &["spec", "type"]).to_owned();
    let checked = |object: &Value| {
        text(object, &["spec", "type"]) == "LoadBalancer"
            && text(object, &["spec", "externalTrafficPolicy"]) == "Local"
    };
    let health = &["spec", "healthCheckNodePort"];
    if checked(old) && !checked(object) && at(object, health) == at(old, health) {
        object_mut(object, &["spec"]).remove("healthCheckNodePort");
    }
    if old_kind == kind {
        return;
    }
    let unchanged =
        |object: &Value, field: &str| at(object, &["spec", field]) == at(old, &["spec", field]);
    let mut drop: Vec<&str> = Vec::new();
    if old_kind != "ExternalName" && kind == "ExternalName" {
        drop.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        drop.push("internalTrafficPolicy");
    }
    if !has_node_ports(&kind) && list(object, &["spec", "externalIPs"]).is_empty() {
        drop.extend(["externalTrafficPolicy", "healthCheckNodePort"]);
    }
    if kind != "LoadBalancer" {
        object_mut(object, &["status"]).insert("loadBalancer".into(), json!({}));
        drop.extend([
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "healthCheckNodePort",
        ]);
    }
    if kind != "ExternalName" {
        drop.push("externalName");
    }
    for field in drop {
        if unchanged(object, field) {
            object_mut(object, &["spec"]).remove(field);
        }
    }
    if has_node_ports(old_kind) && !has_node_ports(&kind) {
        let before: Vec<i64> = list(old, &["spec", "ports"])
            .iter()
            .filter_map(|port| integer(port, &["nodePort"]))
            .collect();
        for port in list_mut(object, &["spec", "ports"]) {
            if integer(port, &["nodePort"]).is_some_and(|port| before.contains(&port))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
}
