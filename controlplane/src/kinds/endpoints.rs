//! Endpoints (core/v1), the older form of what EndpointSlices say.

use std::net::IpAddr;

use serde_json::Value;

use super::access::{at, fill, integer, list, list_mut, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Endpoints",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Endpoints,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Endpoints>();
    },
};

#[derive(Debug)]
struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in list_mut(object, &["subsets"]) {
            for port in list_mut(subset, &["ports"]) {
                if let Some(port) = port.as_object_mut() {
                    fill(port, "protocol", "TCP");
                }
            }
        }
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (at, subset) in list(object, &["subsets"]).iter().enumerate() {
            validate_subset(subset, &format!("subsets[{at}]"), &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Endpoints", "string", "Ready addresses with their ports."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut entries = Vec::new();
        for subset in list(object, &["subsets"]) {
            let addresses = list(subset, &["addresses"]);
            let ports = list(subset, &["ports"]);
            if ports.is_empty() {
                entries.extend(addresses.iter().map(|a| text(a, &["ip"]).to_owned()));
            }
            for port in ports {
                let number = integer(port, &["port"]).unwrap_or(0);
                entries.extend(
                    addresses
                        .iter()
                        .map(|a| host_port(text(a, &["ip"]), number)),
                );
            }
        }
        vec![
            table::name(object),
            table::first(&entries, 3, "<none>"),
            table::age(object, now),
        ]
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// What is spoken at a port: a name as label keys are, with or without a domain.
pub(super) fn app_protocol(port: &Value, field: &str, errors: &mut Errors) {
    if let Some(name) = at(port, &["appProtocol"]).and_then(Value::as_str) {
        errors.format(
            &format!("{field}.appProtocol"),
            name,
            names::qualified_name(name),
        );
    }
}

fn validate_subset(subset: &Value, field: &str, errors: &mut Errors) {
    let ready = list(subset, &["addresses"]);
    let unready = list(subset, &["notReadyAddresses"]);
    if ready.is_empty() && unready.is_empty() {
        errors.required(field, "must specify `addresses` or `notReadyAddresses`");
    }
    for (name, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
        for (at, address) in addresses.iter().enumerate() {
            let field = format!("{field}.{name}[{at}]");
            let ip = text(address, &["ip"]);
            usable_address(ip, &format!("{field}.ip"), errors);
            if let Some(node) = address.get("nodeName").and_then(Value::as_str) {
                errors.format(
                    &format!("{field}.nodeName"),
                    node,
                    names::dns_subdomain(node),
                );
            }
            let hostname = text(address, &["hostname"]);
            if !hostname.is_empty() {
                errors.format(
                    &format!("{field}.hostname"),
                    hostname,
                    names::dns_label(hostname),
                );
            }
        }
    }
    let ports = list(subset, &["ports"]);
    for (at, port) in ports.iter().enumerate() {
        let field = format!("{field}.ports[{at}]");
        let name = text(port, &["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.required(format!("{field}.name"), "");
        } else if !name.is_empty() {
            errors.format(&format!("{field}.name"), name, names::dns_label(name));
        }
        let number = integer(port, &["port"]).unwrap_or(0);
        for message in names::port_number(number) {
            errors.invalid(format!("{field}.port"), number, &message);
        }
        protocol(
            text(port, &["protocol"]),
            &format!("{field}.protocol"),
            errors,
        );
        app_protocol(port, &field, errors);
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub(super) fn protocol(protocol: &str, field: &str, errors: &mut Errors) {
    match protocol {
        "" => errors.required(field, ""),
        "TCP" | "UDP" | "SCTP" => {}
        other => errors.not_supported(field, other, &["SCTP", "TCP", "UDP"]),
    }
}

/// An address that a client elsewhere could reach.
pub(super) fn usable_address(ip: &str, field: &str, errors: &mut Errors) {
    let Ok(address) = ip.parse::<IpAddr>() else {
        errors.format(field, ip, names::ip(ip));
        return;
    };
    if address.is_unspecified() {
        errors.invalid(field, ip, "may not be unspecified (0.0.0.0 or ::)");
    }
    if address.is_loopback() {
        errors.invalid(
            field,
            ip,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.segments()[0] & 0xffc0 == 0xfe80,
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if link_local {
        errors.invalid(
            field,
            ip,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if link_local_multicast {
        errors.invalid(
            field,
            ip,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}
