//! Ingress. What answers it is a controller that the operator chooses.

use serde_json::Value;

use super::super::access::{at, fill, integer, list, list_mut, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
use super::{GROUP, typed_reference};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.networking.v1.Ingress",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Ingress,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::networking::v1::Ingress>();
    },
};

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const CLASS: &str = "kubernetes.io/ingress.class";

#[derive(Debug)]
struct Ingress;

impl Strategy for Ingress {
    fn default(&self, object: &mut Value) {
        for ingress in list_mut(object, &["status", "loadBalancer", "ingress"]) {
            for port in list_mut(ingress, &["ports"]) {
                fill(object_mut(port, &[]), "protocol", "TCP");
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), serde_json::json!({"loadBalancer": {}}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
            return;
        }
        meta::keep_status(object, old);
        meta::set_generation(object, Some(old));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            return errors.into_vec();
        }
        let spec = &object["spec"];
        let annotation = text(object, &["metadata", "annotations", CLASS]);
        let class = text(spec, &["ingressClassName"]);
        if old.is_none() && !annotation.is_empty() && !class.is_empty() {
            errors.invalid(
                format!("metadata.annotations.{CLASS}"),
                annotation,
                "can not be set when the class field is also set",
            );
        }
        for (number, tls) in list(spec, &["tls"]).iter().enumerate() {
            for (host_number, host) in list(tls, &["hosts"]).iter().enumerate() {
                let path = format!("spec.tls[{number}].hosts[{host_number}]");
                let host = host.as_str().unwrap_or("");
                if host.contains('*') {
                    validate_host(host, &path, &mut errors);
                } else {
                    errors.format(&path, host, names::dns_subdomain(host));
                }
            }
            let secret = text(tls, &["secretName"]);
            if !secret.is_empty() {
                let path = format!("spec.tls[{number}].secretName");
                errors.format(&path, secret, names::dns_subdomain(secret));
            }
        }
        let rules = list(spec, &["rules"]);
        let default = at(spec, &["defaultBackend"]);
        if rules.is_empty() && default.is_none() {
            errors.invalid(
                "spec",
                spec["rules"].clone(),
                "either `defaultBackend` or `rules` must be specified",
            );
        }
        if let Some(backend) = default {
            validate_backend(backend, "spec.defaultBackend", &mut errors);
        }
        for (number, rule) in rules.iter().enumerate() {
            validate_rule(rule, &format!("spec.rules[{number}]"), &mut errors);
        }
        if at(spec, &["ingressClassName"]).is_some() {
            errors.format("spec.ingressClassName", class, names::dns_subdomain(class));
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column(
                "Class",
                "string",
                "The name of the IngressClass that this is for.",
            ),
            table::column("Hosts", "string", "Hosts that the rules are about."),
            table::column("Address", "string", "Where the load balancer is reached."),
            table::column("Ports", "string", "Ports of TLS and of plain HTTP."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let hosts: Vec<String> = list(object, &["spec", "rules"])
            .iter()
            .map(|rule| text(rule, &["host"]))
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect();
        let addresses: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
            .iter()
            .map(|entry| match text(entry, &["ip"]) {
                "" => text(entry, &["hostname"]),
                ip => ip,
            })
            .filter(|address| !address.is_empty())
            .collect();
        let ports = if list(object, &["spec", "tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            table::name(object),
            table::or_none(text(object, &["spec", "ingressClassName"])),
            table::first(&hosts, 3, "*"),
            addresses.join(",").into(),
            ports.into(),
            table::age(object, now),
        ]
    }
}

fn validate_host(host: &str, path: &str, errors: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    match host.strip_prefix("*.") {
        Some(rest) => {
            if !names::dns_subdomain(rest).is_empty() {
                errors.invalid(
                    path,
                    host,
                    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
                     must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
                     character (e.g. '*.example.com', regex used for validation is \
                     '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                );
            }
        }
        None => errors.format(path, host, names::dns_subdomain(host)),
    }
}

fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    validate_host(text(rule, &["host"]), &format!("{path}.host"), errors);
    let Some(http) = at(rule, &["http"]) else {
        return;
    };
    let paths = list(http, &["paths"]);
    if paths.is_empty() {
        errors.required(format!("{path}.http.paths"), "");
    }
    for (number, entry) in paths.iter().enumerate() {
        validate_path(entry, &format!("{path}.http.paths[{number}]"), errors);
    }
}

fn validate_path(entry: &Value, path: &str, errors: &mut Errors) {
    let given = text(entry, &["path"]);
    match text(entry, &["pathType"]) {
        "" => errors.required(format!("{path}.pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                errors.invalid(format!("{path}.path"), given, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(part) {
                    errors.invalid(
                        format!("{path}.path"),
                        given,
                        &format!("must not contain '{part}'"),
                    );
                }
            }
            for end in ["/..", "/."] {
                if given.ends_with(end) {
                    errors.invalid(
                        format!("{path}.path"),
                        given,
                        &format!("cannot end with '{end}'"),
                    );
                }
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                errors.invalid(format!("{path}.path"), given, "must be an absolute path");
            }
        }
        other => errors.not_supported(format!("{path}.pathType"), other, PATH_TYPES),
    }
    validate_backend(&entry["backend"], &format!("{path}.backend"), errors);
}

fn validate_backend(backend: &Value, path: &str, errors: &mut Errors) {
    let (service, resource) = (at(backend, &["service"]), at(backend, &["resource"]));
    match (service, resource) {
        (Some(_), Some(_)) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => {
            errors.invalid(path, "", "resource or service backend is required");
        }
        (None, Some(resource)) => typed_reference(resource, &format!("{path}.resource"), errors),
        (Some(service), None) => {
            let name = text(service, &["name"]);
            let field = format!("{path}.service.name");
            if name.is_empty() {
                errors.required(field, "");
            } else {
                errors.format(&field, name, names::dns_label_1035(name));
            }
            let number = integer(service, &["port", "number"]).filter(|number| *number != 0);
            let port_name = text(service, &["port", "name"]);
            let port = format!("{path}.service.port");
            match (number, port_name) {
                (Some(_), name) if !name.is_empty() => {
                    errors.invalid(path, "", "cannot set both port name & port number");
                }
                (Some(number), _) => {
                    for problem in names::port_number(number) {
                        errors.invalid(format!("{port}.number"), number, &problem);
                    }
                }
                (None, "") => errors.required(path, "port name or number is required"),
                (None, name) => {
                    for problem in names::port_name(name) {
                        errors.invalid(format!("{port}.name"), name, &problem);
                    }
                }
            }
        }
    }
}
