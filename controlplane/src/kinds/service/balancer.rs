//! What is of LoadBalancer Services only: class, source ranges, and the addresses in the status.

use std::net::IpAddr;

use serde_json::Value;

use crate::kinds::FieldError;
use crate::kinds::access::{at, flag, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;

/// What came before `spec.loadBalancerSourceRanges`.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn spec(object: &Value, kind: &str, errors: &mut Errors) {
    source_ranges(object, kind, errors);
    let class = text(object, &["spec", "loadBalancerClass"]);
    if !class.is_empty() {
        errors.format(
            "spec.loadBalancerClass",
            class,
            names::qualified_name(class),
        );
    }
    if kind == "LoadBalancer" && at(object, &["spec", "allocateLoadBalancerNodePorts"]).is_none() {
        errors.required("spec.allocateLoadBalancerNodePorts", "");
    }
    if kind != "LoadBalancer" {
        if flag(object, &["spec", "allocateLoadBalancerNodePorts"])
            || at(object, &["spec", "allocateLoadBalancerNodePorts"]).is_some()
        {
            errors.forbidden(
                "spec.allocateLoadBalancerNodePorts",
                "may only be used when `type` is 'LoadBalancer'",
            );
        }
        if at(object, &["spec", "loadBalancerClass"]).is_some() {
            errors.forbidden(
                "spec.loadBalancerClass",
                "may only be used when `type` is 'LoadBalancer'",
            );
        }
    }
}

/// Of the field, or where that is empty of the older annotation, which separates them by commas.
fn source_ranges(object: &Value, kind: &str, errors: &mut Errors) {
    let ranges = list(object, &["spec", "loadBalancerSourceRanges"]);
    let noted = at(object, &["metadata", "annotations", SOURCE_RANGES]).and_then(Value::as_str);
    let (field, ranges): (String, Vec<&str>) = match noted {
        Some(noted) if ranges.is_empty() => (
            format!("metadata.annotations[{SOURCE_RANGES}]"),
            noted.split(',').collect(),
        ),
        _ => (
            "spec.LoadBalancerSourceRanges".to_owned(),
            ranges
                .iter()
                .map(|range| range.as_str().unwrap_or(""))
                .collect(),
        ),
    };
    if ranges.iter().all(|range| range.trim().is_empty()) && noted.is_some() {
        return;
    }
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.forbidden(
            field.clone(),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    for (at, range) in ranges.iter().enumerate() {
        let range = range.trim();
        let place = match noted {
            Some(_) if field.starts_with("metadata") => field.clone(),
            _ => format!("{field}[{at}]"),
        };
        errors.format(&place, range, names::cidr(range));
    }
}

/// Addresses that a load balancer has given the Service.
pub(super) fn status(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let ingress = list(object, &["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && text(object, &["spec", "type"]) != "LoadBalancer" {
        errors.forbidden(
            "status.loadBalancer.ingress",
            "may only be used when `spec.type` is \"LoadBalancer\"",
        );
    }
    for (index, entry) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let ip = text(entry, &["ip"]);
        let mode = text(entry, &["ipMode"]);
        if !ip.is_empty() {
            errors.format(&format!("{field}.ip"), ip, names::ip(ip));
        }
        match (ip.is_empty(), mode) {
            (true, "") | (false, "VIP" | "Proxy") => {}
            (false, "") => errors.required(
                format!("{field}.ipMode"),
                "must be specified when `ip` is set",
            ),
            (true, _) => errors.forbidden(
                format!("{field}.ipMode"),
                "may not be specified when `ip` is not set",
            ),
            (false, other) => {
                errors.not_supported(format!("{field}.ipMode"), other, &["Proxy", "VIP"]);
            }
        }
        let name = text(entry, &["hostname"]);
        if !name.is_empty() {
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(
                    format!("{field}.hostname"),
                    name,
                    "must be a DNS name, not an IP address",
                );
            } else {
                errors.format(
                    &format!("{field}.hostname"),
                    name,
                    names::dns_subdomain(name),
                );
            }
        }
    }
    errors.into_vec()
}
