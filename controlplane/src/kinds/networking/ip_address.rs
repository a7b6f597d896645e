//! IPAddress: an address that somebody owns.

use serde_json::Value;

use super::super::access::{at, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
use super::GROUP;

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.IPAddress",
    subresources: &[],
    name_rule: NameRule::PathSegment,
    strategy: &IpAddress,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::networking::v1::IPAddress>();
    },
};

#[derive(Debug)]
struct IpAddress;

impl Strategy for IpAddress {
    fn default(&self, object: &mut Value) {
        object_mut(object, &["spec"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::set_generation(object, Some(old));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let name = text(object, &["metadata", "name"]);
        match name.parse::<std::net::IpAddr>() {
            Err(_) => errors.invalid(
                "metadata.name",
                name,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            Ok(address) if address.to_string() != name => errors.invalid(
                "metadata.name",
                name,
                &format!("must be in canonical form (\"{address}\")"),
            ),
            Ok(_) => {}
        }
        match at(object, &["spec", "parentRef"]) {
            None => errors.required("spec.parentRef", ""),
            Some(parent) => {
                for field in ["resource", "name"] {
                    let value = text(parent, &[field]);
                    let path = format!("spec.parentRef.{field}");
                    if value.is_empty() {
                        errors.required(path, "");
                    } else {
                        errors.format(&path, value, names::path_segment(value));
                    }
                }
            }
        }
        if let Some(old) = old {
            errors.immutable(
                "spec.parentRef",
                at(object, &["spec", "parentRef"]),
                at(old, &["spec", "parentRef"]),
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("ParentRef", "string", "What the address belongs to."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        let parent = &object["spec"]["parentRef"];
        let parts: Vec<&str> = ["resource", "namespace", "name"]
            .iter()
            .map(|field| text(parent, &[field]))
            .filter(|part| !part.is_empty())
            .collect();
        let group = text(parent, &["group"]);
        let dot = if group.is_empty() { "" } else { "." };
        let mut shown = parts.join("/");
        if let Some(end) = shown.find('/').filter(|_| !group.is_empty()) {
            shown.insert_str(end, &format!("{dot}{group}"));
        }
        vec![table::name(object), shown.into()]
    }
}
