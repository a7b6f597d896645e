//! NetworkPolicy.

use serde_json::{Value, json};

use super::super::access::{at, fill_absent, integer, list, list_mut, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, selector, table};
use super::{GROUP, port_or_name};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.networking.v1.NetworkPolicy",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &NetworkPolicy,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::networking::v1::NetworkPolicy>();
    },
};

#[derive(Debug)]
struct NetworkPolicy;

/// Each direction: its list, and where the peers of a rule are.
const DIRECTIONS: &[(&str, &str)] = &[("ingress", "from"), ("egress", "to")];

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        for (direction, _) in DIRECTIONS {
            for rule in list_mut(object, &["spec", direction]) {
                for port in list_mut(rule, &["ports"]) {
                    fill_absent(object_mut(port, &[]), "protocol", "TCP");
                }
            }
        }
        let spec = object_mut(object, &["spec"]);
        spec.entry("podSelector").or_insert_with(|| json!({}));
        if spec
            .get("policyTypes")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            let outward = spec
                .get("egress")
                .and_then(Value::as_array)
                .is_some_and(|rules| !rules.is_empty());
            let types = if outward {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            spec.insert("policyTypes".into(), types);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::set_generation(object, Some(old));
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        selector::validate(&spec["podSelector"], "spec.podSelector", &mut errors);
        for (direction, peers) in DIRECTIONS {
            for (number, rule) in list(spec, &[direction]).iter().enumerate() {
                let path = format!("spec.{direction}[{number}]");
                for (number, port) in list(rule, &["ports"]).iter().enumerate() {
                    validate_port(port, &format!("{path}.ports[{number}]"), &mut errors);
                }
                for (number, peer) in list(rule, &[peers]).iter().enumerate() {
                    validate_peer(peer, &format!("{path}.{peers}[{number}]"), &mut errors);
                }
            }
        }
        let types = list(spec, &["policyTypes"]);
        if types.len() > 2 {
            errors.invalid(
                "spec.policyTypes",
                spec["policyTypes"].clone(),
                "may not specify more than two policyTypes",
            );
        }
        for (number, kind) in types.iter().enumerate() {
            if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
                errors.not_supported(
                    format!("spec.policyTypes[{number}]"),
                    kind.clone(),
                    &["Egress", "Ingress"],
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Pod-Selector", "string", "Which pods the policy is about."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            selector::shown(at(object, &["spec", "podSelector"])).into(),
            table::age(object, now),
        ]
    }
}

fn validate_port(port: &Value, path: &str, errors: &mut Errors) {
    let protocol = text(port, &["protocol"]);
    if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        errors.not_supported(
            format!("{path}.protocol"),
            protocol,
            &["SCTP", "TCP", "UDP"],
        );
    }
    port_or_name(&port["port"], &format!("{path}.port"), errors);
    let Some(end) = integer(port, &["endPort"]) else {
        return;
    };
    let path = format!("{path}.endPort");
    match &port["port"] {
        Value::Null => errors.required(path, "must be specified when `endPort` is specified"),
        Value::Number(first) => {
            if end < first.as_i64().unwrap_or(0) {
                errors.invalid(path, end, "must be greater than or equal to `port`");
            } else {
                for problem in super::super::names::port_number(end) {
                    errors.invalid(&*path, end, &problem);
                }
            }
        }
        _ => errors.invalid(path, end, "may not be specified when `port` is non-numeric"),
    }
}

fn validate_peer(peer: &Value, path: &str, errors: &mut Errors) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(chosen) = at(peer, &[field]) {
            given += 1;
            selector::validate(chosen, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(block) = at(peer, &["ipBlock"]) {
        if given > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        given += 1;
        validate_block(block, &format!("{path}.ipBlock"), errors);
    }
    if given == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn validate_block(block: &Value, path: &str, errors: &mut Errors) {
    let cidr = text(block, &["cidr"]);
    if cidr.is_empty() {
        errors.required(format!("{path}.cidr"), "");
        return;
    }
    let Ok(network) = cidr.parse::<ipnet::IpNet>() else {
        errors.invalid(
            format!("{path}.cidr"),
            cidr,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        return;
    };
    for (number, except) in list(block, &["except"]).iter().enumerate() {
        let path = format!("{path}.except[{number}]");
        let except = except.as_str().unwrap_or("");
        match except.parse::<ipnet::IpNet>() {
            Err(_) => errors.invalid(
                path,
                except,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            Ok(inner) if !network.contains(&inner) || network == inner => {
                errors.invalid(
                    path,
                    except,
                    &format!("must be a strict subset of `cidr`: \"{cidr}\""),
                );
            }
            Ok(_) => {}
        }
    }
}
