//! EndpointSlice (discovery.k8s.io/v1), and as v1beta1 for clients from before 1.25.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::access::{at, fill_absent, integer, list, list_mut, object_mut, same, text};
use super::endpoints::{app_protocol, protocol, usable_address};
use super::errors::Errors;
use super::served_version::ServedVersion;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

const V1: Kind<'static> = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &EndpointSlice,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::discovery::v1::EndpointSlice>();
    },
};

pub(super) static KIND: Kind = V1;

pub(super) static BETA: Kind = Kind {
    version: "v1beta1",
    strategy: &ServedVersion {
        of: &KIND,
        api_version: "discovery.k8s.io/v1beta1",
        deprecated: true,
        to_stored: |slice| {
            for endpoint in list_mut(slice, &["endpoints"]) {
                let endpoint = object_mut(endpoint, &[]);
                let mut topology = match endpoint.remove("topology") {
                    Some(Value::Object(topology)) => topology,
                    // For validation to refuse.
                    Some(other) => {
                        endpoint.insert("deprecatedTopology".into(), other);
                        continue;
                    }
                    None => continue,
                };
                for (label, field) in PLACES {
                    if let Some(place) = topology.remove(*label) {
                        endpoint.insert((*field).into(), place);
                    }
                }
                if !topology.is_empty() {
                    endpoint.insert("deprecatedTopology".into(), Value::Object(topology));
                }
            }
        },
        to_served: |slice| {
            for endpoint in list_mut(slice, &["endpoints"]) {
                let endpoint = object_mut(endpoint, &[]);
                let mut topology = match endpoint.remove("deprecatedTopology") {
                    Some(Value::Object(topology)) => topology,
                    _ => serde_json::Map::new(),
                };
                for (label, field) in PLACES {
                    // The node has a field of its own as well.
                    let place = match *field {
                        "zone" => endpoint.remove("zone"),
                        other => endpoint.get(other).cloned(),
                    };
                    topology.extend(place.map(|place| ((*label).to_owned(), place)));
                }
                if !topology.is_empty() {
                    endpoint.insert("topology".into(), Value::Object(topology));
                }
            }
        },
    },
    ..V1
};

/// Labels of v1beta1's topology that are fields of v1.
const PLACES: &[(&str, &str)] = &[
    ("kubernetes.io/hostname", "nodeName"),
    ("topology.kubernetes.io/zone", "zone"),
];

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
/// Zones that one endpoint may be meant for.
const MAX_HINTS: usize = 8;

#[derive(Debug)]
struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in list_mut(object, &["ports"]) {
            if let Some(port) = port.as_object_mut() {
                if port.get("name").is_none_or(Value::is_null) {
                    port.insert("name".into(), "".into());
                }
                fill_absent(port, "protocol", "TCP");
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &["metadata"]).insert("generation".into(), 1.into());
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        let changed = ["addressType", "endpoints", "ports"]
            .iter()
            .any(|field| !same(object.get(*field), old.get(*field)));
        let before = integer(old, &["metadata", "generation"]).unwrap_or(0);
        object_mut(object, &["metadata"]).insert(
            "generation".into(),
            before.saturating_add(i64::from(changed)).into(),
        );
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let address_type = text(object, &["addressType"]);
        match address_type {
            "" => errors.required("addressType", ""),
            "IPv4" | "IPv6" | "FQDN" => {}
            other => errors.not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
        }
        let endpoints = list(object, &["endpoints"]);
        if endpoints.len() > MAX_ENDPOINTS {
            errors.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
            return errors.into_vec();
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(
                endpoint,
                address_type,
                &format!("endpoints[{at}]"),
                &mut errors,
            );
        }
        validate_ports(list(object, &["ports"]), &mut errors);
        if let Some(old) = old {
            errors.immutable(
                "addressType",
                object.get("addressType"),
                old.get("addressType"),
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("AddressType", "string", "Kind of address of the endpoints."),
            table::column("Ports", "string", "Ports of every endpoint."),
            table::column("Endpoints", "string", "Addresses of the endpoints."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let ports: Vec<String> = list(object, &["ports"])
            .iter()
            .map(|port| match integer(port, &["port"]) {
                Some(number) => number.to_string(),
                None => match text(port, &["name"]) {
                    "" => "*".to_owned(),
                    name => name.to_owned(),
                },
            })
            .collect();
        let addresses: Vec<String> = list(object, &["endpoints"])
            .iter()
            .flat_map(|endpoint| list(endpoint, &["addresses"]))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        vec![
            table::name(object),
            text(object, &["addressType"]).into(),
            table::first(&ports, 3, "<unset>"),
            table::first(&addresses, 3, "<unset>"),
            table::age(object, now),
        ]
    }
}

fn validate_endpoint(endpoint: &Value, address_type: &str, field: &str, errors: &mut Errors) {
    let addresses = list(endpoint, &["addresses"]);
    if addresses.is_empty() {
        errors.required(
            format!("{field}.addresses"),
            "must contain at least 1 address",
        );
    } else if addresses.len() > MAX_ADDRESSES {
        errors.too_many(format!("{field}.addresses"), addresses.len(), MAX_ADDRESSES);
    }
    let mut seen = HashSet::new();
    for (at, address) in addresses.iter().enumerate() {
        let field = format!("{field}.addresses[{at}]");
        let address = address.as_str().unwrap_or("");
        if !seen.insert(address) {
            errors.duplicate(&*field, address);
            continue;
        }
        match (address_type, address.parse::<IpAddr>()) {
            ("FQDN", _) => errors.format(&field, address, names::dns_subdomain(address)),
            ("IPv4", Ok(IpAddr::V6(_)) | Err(_)) => {
                errors.invalid(field, address, "must be a valid IPv4 address");
            }
            ("IPv6", Ok(IpAddr::V4(_)) | Err(_)) => {
                errors.invalid(field, address, "must be a valid IPv6 address");
            }
            _ => usable_address(address, &field, errors),
        }
    }
    let hostname = text(endpoint, &["hostname"]);
    if at(endpoint, &["hostname"]).is_some() {
        errors.format(
            &format!("{field}.hostname"),
            hostname,
            names::dns_label(hostname),
        );
    }
    let node = text(endpoint, &["nodeName"]);
    if at(endpoint, &["nodeName"]).is_some() {
        errors.format(
            &format!("{field}.nodeName"),
            node,
            names::dns_subdomain(node),
        );
    }
    let field_of_topology = format!("{field}.deprecatedTopology");
    match at(endpoint, &["deprecatedTopology"]) {
        None => {}
        Some(Value::Object(topology)) => {
            for (key, value) in topology {
                errors.format(&field_of_topology, key, names::qualified_name(key));
                match value {
                    Value::String(text) => {
                        errors.format(&field_of_topology, text, names::label_value(text));
                    }
                    other => errors.invalid(&*field_of_topology, other.clone(), "must be a string"),
                }
            }
        }
        Some(other) => errors.invalid(field_of_topology, other.clone(), "must be an object"),
    }
    let mut zones = HashSet::new();
    let hints = list(endpoint, &["hints", "forZones"]);
    if hints.len() > MAX_HINTS {
        errors.too_many(format!("{field}.hints.forZones"), hints.len(), MAX_HINTS);
        return;
    }
    for (at, hint) in hints.iter().enumerate() {
        let field = format!("{field}.hints.forZones[{at}].name");
        let zone = text(hint, &["name"]);
        if zones.insert(zone) {
            errors.format(&field, zone, names::label_value(zone));
        } else {
            errors.duplicate(field, zone);
        }
    }
}

fn validate_ports(ports: &[Value], errors: &mut Errors) {
    if ports.len() > MAX_PORTS {
        errors.too_many("ports", ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = text(port, &["name"]);
        if !name.is_empty() {
            errors.format(&format!("{field}.name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(format!("{field}.name"), name);
        }
        match text(port, &["protocol"]) {
            "" => errors.not_supported(format!("{field}.protocol"), "", PROTOCOLS),
            other => protocol(other, &format!("{field}.protocol"), errors),
        }
        app_protocol(port, &field, errors);
        if at(port, &["port"]).is_some() {
            let number = integer(port, &["port"]).unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(format!("{field}.port"), number, &message);
            }
        }
    }
}
