//! Validation of a Service, and which of its fields may not change.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{balancer, has_node_ports};
use crate::kinds::FieldError;
use crate::kinds::access::{at, integer, list, text};
use crate::kinds::endpoints::{app_protocol, protocol, usable_address};
use crate::kinds::errors::Errors;
use crate::kinds::{names, selector};

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let kind = text(object, &["spec", "type"]);
    ports(object, kind, &mut errors);
    selector::labels(
        at(object, &["spec", "selector"]),
        "spec.selector",
        &mut errors,
    );
    affinity(object, &mut errors);
    match kind {
        "" => errors.required("spec.type", ""),
        "ClusterIP" | "ExternalName" | "LoadBalancer" | "NodePort" => {}
        other => errors.not_supported(
            "spec.type",
            other,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        ),
    }
    cluster_ips(object, kind, &mut errors);
    for (at, ip) in list(object, &["spec", "externalIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        usable_address(ip, &format!("spec.externalIPs[{at}]"), &mut errors);
    }
    if kind == "ExternalName" {
        external_name(object, &mut errors);
    }
    traffic(object, kind, &mut errors);
    balancer::spec(object, kind, &mut errors);
    if let Some(old) = old {
        update(object, old, &mut errors);
    }
    errors.into_vec()
}

fn ports(object: &Value, kind: &str, errors: &mut Errors) {
    let ports = list(object, &["spec", "ports"]);
    let headless = text(object, &["spec", "clusterIP"]) == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    let mut names_seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = text(port, &["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(format!("{field}.name"), "");
            }
        } else {
            let before = names::dns_label(name);
            let well_formed = before.is_empty();
            errors.format(&format!("{field}.name"), name, before);
            if well_formed && !names_seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            }
        }
        number(port, "port", &field, errors);
        protocol(
            text(port, &["protocol"]),
            &format!("{field}.protocol"),
            errors,
        );
        app_protocol(port, &field, errors);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                errors.format(&format!("{field}.targetPort"), name, names::port_name(name));
            }
            _ => number(port, "targetPort", &field, errors),
        }
        let node_port = integer(port, &["nodePort"]).unwrap_or(0);
        if node_port != 0 && kind == "ClusterIP" {
            errors.forbidden(
                format!("{field}.nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            );
        } else if node_port != 0 {
            number(port, "nodePort", &field, errors);
        }
    }
    duplicate_ports(ports, errors);
}

fn number(port: &Value, name: &str, field: &str, errors: &mut Errors) {
    let value = integer(port, &[name]).unwrap_or(0);
    for message in names::port_number(value) {
        errors.invalid(format!("{field}.{name}"), value, &message);
    }
}

fn duplicate_ports(ports: &[Value], errors: &mut Errors) {
    let mut by_number = HashSet::new();
    let mut by_node_port = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let protocol = text(port, &["protocol"]);
        let number = integer(port, &["port"]).unwrap_or(0);
        if !by_number.insert((protocol, number)) {
            errors.duplicate(
                format!("spec.ports[{index}]"),
                serde_json::json!({"port": number, "protocol": protocol}),
            );
        }
        let node_port = integer(port, &["nodePort"]).unwrap_or(0);
        if node_port != 0 && !by_node_port.insert((protocol, node_port)) {
            errors.duplicate(format!("spec.ports[{index}].nodePort"), node_port);
        }
    }
}

fn affinity(object: &Value, errors: &mut Errors) {
    const TIMEOUT: &[&str] = &[
        "spec",
        "sessionAffinityConfig",
        "clientIP",
        "timeoutSeconds",
    ];
    match text(object, &["spec", "sessionAffinity"]) {
        "" => errors.required("spec.sessionAffinity", ""),
        "ClientIP" => match integer(object, TIMEOUT) {
            Some(seconds) if (1..=86_400).contains(&seconds) => {}
            Some(seconds) => errors.invalid(
                TIMEOUT.join("."),
                seconds,
                "must be greater than 0 and less than 86400",
            ),
            None => errors.required(
                "spec.sessionAffinityConfig",
                "when session affinity type is ClientIP",
            ),
        },
        "None" => {
            if at(object, &["spec", "sessionAffinityConfig"]).is_some() {
                errors.forbidden(
                    "spec.sessionAffinityConfig",
                    "must not be set when session affinity is None",
                );
            }
        }
        other => errors.not_supported("spec.sessionAffinity", other, &["ClientIP", "None"]),
    }
}

fn cluster_ips(object: &Value, kind: &str, errors: &mut Errors) {
    let one = text(object, &["spec", "clusterIP"]);
    let all = list(object, &["spec", "clusterIPs"]);
    if kind == "ExternalName" {
        let set = |field: &str| at(object, &["spec", field]).is_some_and(|value| !value.is_null());
        let given = [
            ("spec.ipFamilyPolicy", set("ipFamilyPolicy")),
            (
                "spec.ipFamilies",
                !list(object, &["spec", "ipFamilies"]).is_empty(),
            ),
            ("spec.clusterIPs", !one.is_empty() || !all.is_empty()),
        ];
        for (field, _) in given.into_iter().filter(|(_, given)| *given) {
            errors.forbidden(field, "may not be set for ExternalName services");
        }
        return;
    }
    let ip_at = |at: usize| all.get(at).and_then(Value::as_str).unwrap_or("");
    if all.len() > 2 {
        errors.invalid(
            "spec.clusterIPs",
            Value::Array(all.to_vec()),
            "may only hold up to 2 values",
        );
    }
    if one != ip_at(0) {
        errors.invalid(
            "spec.clusterIP",
            one,
            "must match the first entry of `clusterIPs`",
        );
    }
    let headless = ip_at(0) == "None";
    if headless && all.len() > 1 {
        errors.invalid(
            "spec.clusterIPs",
            Value::Array(all.to_vec()),
            "'None' must be the first and only value",
        );
    }
    if headless && has_node_ports(kind) {
        errors.invalid(
            "spec.clusterIPs[0]",
            "None",
            &format!("may not be set to 'None' for {kind} services"),
        );
    }
    for at in 0..all.len() {
        let ip = ip_at(at);
        if ip != "None" {
            errors.format(&format!("spec.clusterIPs[{at}]"), ip, names::ip(ip));
        }
    }
    families(object, all, errors);
}

fn families(object: &Value, ips: &[Value], errors: &mut Errors) {
    let families = list(object, &["spec", "ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        let field = format!("spec.ipFamilies[{index}]");
        if !matches!(family, "IPv4" | "IPv6") {
            errors.not_supported(&*field, family, &["IPv4", "IPv6"]);
        } else if families[..index].iter().any(|f| f == family) {
            errors.duplicate(&*field, family);
        }
        let address = ips
            .get(index)
            .and_then(Value::as_str)
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        if let Some(address) = address
            && address.is_ipv4() != (family == "IPv4")
        {
            errors.invalid(
                format!("spec.clusterIPs[{index}]"),
                address.to_string(),
                &format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    }
    let policy = text(object, &["spec", "ipFamilyPolicy"]);
    let given = at(object, &["spec", "ipFamilyPolicy"]).is_some();
    if given
        && !matches!(
            policy,
            "SingleStack" | "PreferDualStack" | "RequireDualStack"
        )
    {
        errors.not_supported(
            "spec.ipFamilyPolicy",
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        );
    }
    if policy == "SingleStack" && families.len() > 1 {
        errors.invalid(
            "spec.ipFamilyPolicy",
            policy,
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple `ipFamilies` are specified",
        );
    }
}

fn external_name(object: &Value, errors: &mut Errors) {
    let name = text(object, &["spec", "externalName"]);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required("spec.externalName", "");
    } else {
        errors.format("spec.externalName", name, names::dns_subdomain(name));
    }
}

fn traffic(object: &Value, kind: &str, errors: &mut Errors) {
    let external = text(object, &["spec", "externalTrafficPolicy"]);
    let reachable = has_node_ports(kind)
        || (kind == "ClusterIP" && !list(object, &["spec", "externalIPs"]).is_empty());
    if !external.is_empty() && !reachable {
        errors.invalid(
            "spec.externalTrafficPolicy",
            external,
            "may only be set for externally-accessible services",
        );
    } else if !matches!(external, "" | "Cluster" | "Local") {
        errors.not_supported(
            "spec.externalTrafficPolicy",
            external,
            &["Cluster", "Local"],
        );
    } else if external.is_empty() && reachable {
        errors.required("spec.externalTrafficPolicy", "");
    }
    let internal = text(object, &["spec", "internalTrafficPolicy"]);
    let given = at(object, &["spec", "internalTrafficPolicy"]).is_some();
    if kind != "ExternalName" && !given {
        errors.required("spec.internalTrafficPolicy", "");
    } else if given && !matches!(internal, "Cluster" | "Local") {
        errors.not_supported(
            "spec.internalTrafficPolicy",
            internal,
            &["Cluster", "Local"],
        );
    }
    let distribution = text(object, &["spec", "trafficDistribution"]);
    if !matches!(
        distribution,
        "" | "PreferClose" | "PreferSameZone" | "PreferSameNode"
    ) {
        errors.not_supported(
            "spec.trafficDistribution",
            distribution,
            &["PreferClose", "PreferSameNode", "PreferSameZone"],
        );
    }
    let health = integer(object, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    if health < 0 {
        errors.invalid(
            "spec.healthCheckNodePort",
            health,
            "must be greater than or equal to 0",
        );
    } else if health > 0 && !(kind == "LoadBalancer" && external == "Local") {
        errors.invalid(
            "spec.healthCheckNodePort",
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
}

fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let is_external = |object: &Value| text(object, &["spec", "type"]) == "ExternalName";
    if !is_external(old) && !is_external(object) {
        let before = list(old, &["spec", "clusterIPs"]);
        let after = list(object, &["spec", "clusterIPs"]);
        let first = before.first().and_then(Value::as_str).unwrap_or("");
        if !first.is_empty() && before.first() != after.first() {
            errors.invalid(
                "spec.clusterIPs[0]",
                Value::Array(after.to_vec()),
                "may not change once set",
            );
        }
        // The second may come and go with the policy, and not become another.
        if let (Some(one), Some(other)) = (before.get(1), after.get(1))
            && one != other
        {
            errors.invalid(
                "spec.clusterIPs[1]",
                Value::Array(after.to_vec()),
                "may not change once set",
            );
        }
        let family = |object: &Value| list(object, &["spec", "ipFamilies"]).first().cloned();
        if let (Some(before), after) = (family(old), family(object))
            && after.as_ref() != Some(&before)
        {
            errors.invalid(
                "spec.ipFamilies[0]",
                at(object, &["spec", "ipFamilies"])
                    .cloned()
                    .unwrap_or_default(),
                "may not change once set",
            );
        }
    }
    let is_balancer = |object: &Value| text(object, &["spec", "type"]) == "LoadBalancer";
    let checked = |object: &Value| {
        let port = integer(object, &["spec", "healthCheckNodePort"]).unwrap_or(0);
        let local = text(object, &["spec", "externalTrafficPolicy"]) == "Local";
        (local && text(object, &["spec", "type"]) == "LoadBalancer").then_some(port)
    };
    if let (Some(before), Some(after)) = (checked(old), checked(object))
        && before != after
    {
        errors.invalid("spec.healthCheckNodePort", after, "field is immutable");
    }
    let class = text(old, &["spec", "loadBalancerClass"]);
    if is_balancer(old)
        && is_balancer(object)
        && text(object, &["spec", "loadBalancerClass"]) != class
    {
        errors.invalid(
            "spec.loadBalancerClass",
            text(object, &["spec", "loadBalancerClass"]),
            "may not change once set",
        );
    }
}
