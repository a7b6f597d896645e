//! networking.k8s.io/v1.

use serde_json::Value;

use super::access::{at, text};
use super::errors::Errors;

pub(super) mod ingress;
pub(super) mod ingress_class;
pub(super) mod ip_address;
pub(super) mod network_policy;
pub(crate) mod service_cidr;

pub(super) const GROUP: &str = "networking.k8s.io";

/// `80`, `http` or nothing.
fn port_or_name(port: &Value, path: &str, errors: &mut Errors) {
    match port {
        Value::Null => {}
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            for problem in super::names::port_number(number) {
                errors.invalid(path, number, &problem);
            }
        }
        other => {
            let name = other.as_str().unwrap_or("");
            for problem in super::names::port_name(name) {
                errors.invalid(path, name, &problem);
            }
        }
    }
}

/// A reference to something of any group: `apiGroup`, `kind`, `name`.
fn typed_reference(reference: &Value, path: &str, errors: &mut Errors) {
    // A group that is given as empty is not the same as none.
    if let Some(group) = at(reference, &["apiGroup"]).and_then(Value::as_str) {
        errors.format(
            &format!("{path}.apiGroup"),
            group,
            super::names::dns_subdomain(group),
        );
    }
    for field in ["kind", "name"] {
        let value = text(reference, &[field]);
        let path = format!("{path}.{field}");
        if value.is_empty() {
            errors.required(path, &format!("{field} is required"));
        } else {
            errors.format(&path, value, super::names::path_segment(value));
        }
    }
}
