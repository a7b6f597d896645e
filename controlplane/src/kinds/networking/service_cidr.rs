//! ServiceCIDR: a range that ClusterIPs are taken from. The ranges of a cluster are given to its members at their
//! start; `kubernetes` shows them.

use serde_json::Value;

use super::super::access::{at, list};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};
use super::GROUP;

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.ServiceCIDR",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ServiceCidr,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::networking::v1::ServiceCIDR>();
    },
};

#[derive(Debug)]
struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
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

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let cidrs = list(object, &["spec", "cidrs"]);
        match cidrs.len() {
            0 => errors.required("spec.cidrs", "at least one CIDR required"),
            1 | 2 => {}
            _ => errors.invalid(
                "spec",
                object["spec"].clone(),
                "may only hold up to 2 values",
            ),
        }
        let mut families = Vec::new();
        for (number, cidr) in cidrs.iter().enumerate() {
            let text = cidr.as_str().unwrap_or("");
            let path = format!("spec.cidrs[{number}]");
            match text.parse::<ipnet::IpNet>() {
                Err(_) => errors.invalid(
                    path,
                    text,
                    "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ),
                Ok(net) if net.trunc() != net => {
                    errors.invalid(
                        path,
                        text,
                        "must not have bits set beyond the prefix length",
                    );
                }
                Ok(net) => families.push(net.addr().is_ipv4()),
            }
        }
        if families.len() == 2 && families[0] == families[1] {
            errors.invalid("spec.cidrs", object["spec"]["cidrs"].clone(), "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64");
        }
        if let Some(old) = old {
            let (before, after) = (list(old, &["spec", "cidrs"]), cidrs);
            let kept = after.len() >= before.len() && before.iter().zip(after).all(|(a, b)| a == b);
            if !kept {
                errors.immutable(
                    "spec.cidrs",
                    at(object, &["spec", "cidrs"]),
                    at(old, &["spec", "cidrs"]),
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("CIDRs", "string", "The ranges."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let all: Vec<&str> = list(object, &["spec", "cidrs"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        vec![
            table::name(object),
            all.join(",").into(),
            table::age(object, now),
        ]
    }
}
