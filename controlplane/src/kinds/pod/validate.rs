//! Validation of a pod spec, for pods and templates alike.

use std::collections::HashSet;

use serde_json::Value;

use super::{affinity, containers, resources, security, sysctls, volumes};
use crate::kinds::access::{at, flag, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;

/// A whole pod, new.
pub(super) fn pod(object: &Value, errors: &mut Errors) {
    spec(object, "spec", errors);
    if !list(object, &["spec", "ephemeralContainers"]).is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    images(object, errors);
}

/// What templates may have and pods may not.
pub(super) fn images(object: &Value, errors: &mut Errors) {
    for (index, volume) in list(object, &["spec", "volumes"]).iter().enumerate() {
        if at(volume, &["image"]).is_some() && text(volume, &["image", "reference"]).is_empty() {
            errors.required(format!("spec.volumes[{index}].image.reference"), "");
        }
    }
    for kind in ["containers", "initContainers"] {
        for (index, container) in list(object, &["spec", kind]).iter().enumerate() {
            let image = text(container, &["image"]);
            if image.trim() != image {
                errors.invalid(
                    format!("spec.{kind}[{index}].image"),
                    image,
                    "must not have leading or trailing whitespace",
                );
            }
        }
    }
}

/// The pod spec of `holder` (a pod or a template), `field` being its path.
pub(super) fn spec(holder: &Value, field: &str, errors: &mut Errors) {
    let empty = Value::Null;
    let spec = holder.get("spec").unwrap_or(&empty);
    let volumes = volumes::validate(spec, field, errors);
    if list(spec, &["containers"]).is_empty() {
        errors.required(format!("{field}.containers"), "");
    }
    let mut seen = HashSet::new();
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        containers::validate(spec, kind, field, &volumes, &mut seen, errors);
    }
    host_ports(spec, field, errors);
    policies(spec, field, errors);
    numbers(spec, field, errors);
    references(spec, field, errors);
    gates(spec, field, errors);
    network(spec, field, errors);
    affinity::validate(spec, field, errors);
    resources::pod(spec, field, errors);
    resources::overhead(spec, field, errors);
    security::pod(spec, field, errors);
    sysctls::validate(spec, field, errors);
}

fn policies(spec: &Value, field: &str, errors: &mut Errors) {
    match text(spec, &["restartPolicy"]) {
        "" => errors.required(format!("{field}.restartPolicy"), ""),
        "Always" | "OnFailure" | "Never" => {}
        other => errors.not_supported(
            format!("{field}.restartPolicy"),
            other,
            &["Always", "OnFailure", "Never"],
        ),
    }
    match text(spec, &["dnsPolicy"]) {
        "" => errors.required(format!("{field}.dnsPolicy"), ""),
        "ClusterFirstWithHostNet" | "ClusterFirst" | "Default" => {}
        "None" => {
            if at(spec, &["dnsConfig"]).is_none() {
                errors.required(
                    format!("{field}.dnsConfig"),
                    "must provide `dnsConfig` when `dnsPolicy` is None",
                );
            } else if list(spec, &["dnsConfig", "nameservers"]).is_empty() {
                errors.required(
                    format!("{field}.dnsConfig.nameservers"),
                    "must provide at least one DNS nameserver when `dnsPolicy` is None",
                );
            }
        }
        other => errors.not_supported(
            format!("{field}.dnsPolicy"),
            other,
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        ),
    }
    let preemption = text(spec, &["preemptionPolicy"]);
    if !matches!(preemption, "" | "PreemptLowerPriority" | "Never") {
        errors.not_supported(
            format!("{field}.preemptionPolicy"),
            preemption,
            &["PreemptLowerPriority", "Never"],
        );
    }
}

fn numbers(spec: &Value, field: &str, errors: &mut Errors) {
    if let Some(seconds) = integer(spec, &["terminationGracePeriodSeconds"])
        && seconds < 0
    {
        errors.invalid(
            format!("{field}.terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
    if let Some(seconds) = integer(spec, &["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(
            format!("{field}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
}

fn references(spec: &Value, field: &str, errors: &mut Errors) {
    for name in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let value = text(spec, &[name]);
        if !value.is_empty() {
            errors.format(
                &format!("{field}.{name}"),
                value,
                names::dns_subdomain(value),
            );
        }
    }
    for (index, gate) in list(spec, &["readinessGates"]).iter().enumerate() {
        let kind = text(gate, &["conditionType"]);
        errors.format(
            &format!("{field}.readinessGates[{index}].conditionType"),
            kind,
            names::qualified_name(kind),
        );
    }
}

/// Gates hold a pod back from being scheduled: names that differ, and no node yet.
fn gates(spec: &Value, field: &str, errors: &mut Errors) {
    let gates = list(spec, &["schedulingGates"]);
    let mut seen = HashSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let name = text(gate, &["name"]);
        let field = format!("{field}.schedulingGates[{index}]");
        errors.format(&field, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(field, name);
        }
    }
    if !gates.is_empty() && !text(spec, &["nodeName"]).is_empty() {
        errors.forbidden(
            format!("{field}.nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}

fn network(spec: &Value, field: &str, errors: &mut Errors) {
    for name in ["hostname", "subdomain"] {
        let value = text(spec, &[name]);
        if !value.is_empty() {
            errors.format(&format!("{field}.{name}"), value, names::dns_label(value));
        }
    }
    for (index, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        let field = format!("{field}.hostAliases[{index}]");
        let ip = text(alias, &["ip"]);
        errors.format(&format!("{field}.ip"), ip, names::ip(ip));
        for (at, name) in list(alias, &["hostnames"]).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            errors.format(
                &format!("{field}.hostnames[{at}]"),
                name,
                names::dns_subdomain(name),
            );
        }
    }
    let servers = list(spec, &["dnsConfig", "nameservers"]);
    if servers.len() > 3 {
        errors.invalid(
            format!("{field}.dnsConfig.nameservers"),
            Value::Array(servers.to_vec()),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        errors.format(
            &format!("{field}.dnsConfig.nameservers[{index}]"),
            server,
            names::ip(server),
        );
    }
    searches_and_options(spec, field, errors);
    if flag(spec, &["hostPID"]) && flag(spec, &["shareProcessNamespace"]) {
        errors.invalid(
            format!("{field}.shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if flag(spec, &["hostNetwork"]) {
        for (c, container) in list(spec, &["containers"]).iter().enumerate() {
            for (p, port) in list(container, &["ports"]).iter().enumerate() {
                let host = integer(port, &["hostPort"]).unwrap_or(0);
                if host != integer(port, &["containerPort"]).unwrap_or(0) {
                    errors.invalid(
                        format!("{field}.containers[{c}].ports[{p}].hostPort"),
                        host,
                        "must match `containerPort` when `hostNetwork` is true",
                    );
                }
            }
        }
    }
}

/// As many search domains as a resolver may have, and characters of them in one line.
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCHES: usize = 2048;

fn searches_and_options(spec: &Value, field: &str, errors: &mut Errors) {
    let given = list(spec, &["dnsConfig", "searches"]);
    let searches: Vec<&str> = given.iter().filter_map(Value::as_str).collect();
    let field = format!("{field}.dnsConfig");
    if searches.len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.invalid(format!("{field}.searches"), given.to_vec(), &why);
    }
    if searches.join(" ").len() > LONGEST_SEARCHES {
        let why = format!(
            "must not have more than {LONGEST_SEARCHES} characters (including spaces) in the search list"
        );
        errors.invalid(format!("{field}.searches"), given.to_vec(), &why);
    }
    for (index, search) in searches.iter().enumerate() {
        if *search == "." {
            continue;
        }
        let search = search.strip_suffix('.').unwrap_or(search);
        // Underscores are names of services in some domains.
        let messages = names::dns_subdomain(&search.replace('_', "x"));
        errors.format(&format!("{field}.searches[{index}]"), search, messages);
    }
    for (index, option) in list(spec, &["dnsConfig", "options"]).iter().enumerate() {
        if text(option, &["name"]).is_empty() {
            errors.required(format!("{field}.options[{index}]"), "must not be empty");
        }
    }
}

/// No two containers may ask for the same port of the node.
fn host_ports(spec: &Value, field: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (c, container) in list(spec, &["containers"]).iter().enumerate() {
        for (p, port) in list(container, &["ports"]).iter().enumerate() {
            let number = integer(port, &["hostPort"]).unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = (text(port, &["protocol"]), text(port, &["hostIP"]), number);
            if !seen.insert(key) {
                errors.duplicate(
                    format!("{field}.containers[{c}].ports[{p}].hostPort"),
                    format!("{}/{}/{number}", key.0, key.1),
                );
            }
        }
    }
}

/// What is allowed but most likely a mistake.
pub(super) fn warnings(holder: &Value, field: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for kind in ["initContainers", "containers"] {
        for (index, container) in list(holder, &["spec", kind]).iter().enumerate() {
            let field = format!("{field}.{kind}[{index}]");
            let mut seen = HashSet::new();
            for (at, variable) in list(container, &["env"]).iter().enumerate() {
                let name = text(variable, &["name"]);
                if !seen.insert(name) {
                    warnings.push(format!(
                        "{field}.env[{at}]: hides previous definition of {name:?}, which may be \
                         dropped when using apply"
                    ));
                }
            }
            let mut ports: Vec<(i64, &str)> = Vec::new();
            for (at, port) in list(container, &["ports"]).iter().enumerate() {
                let key = (
                    integer(port, &["containerPort"]).unwrap_or(0),
                    text(port, &["protocol"]),
                );
                if let Some(first) = ports.iter().position(|known| *known == key) {
                    warnings.push(format!(
                        "{field}.ports[{at}]: duplicate port definition with {field}.ports[{first}]"
                    ));
                }
                ports.push(key);
            }
        }
    }
    warnings
}
