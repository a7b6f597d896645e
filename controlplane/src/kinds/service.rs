//! Service (core/v1). Addresses and node ports are given out by the registry, after this has checked what
//! was asked for.

mod balancer;
mod columns;
mod defaults;
mod validate;

use serde_json::Value;

use super::access::{object_mut, text};
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Service",
    subresources: &["proxy", "status"],
    name_rule: NameRule::DnsLabel1035,
    strategy: &Service,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Service>();
    },
};

#[derive(Debug)]
struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        defaults::fill_in(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), serde_json::json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
        } else {
            meta::keep_status(object, old);
            defaults::drop_second_family(object, old);
            defaults::keep_allocated(object, old);
            defaults::drop_what_the_type_lost(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        if subresource == "status" {
            return balancer::status(object);
        }
        validate::validate(object, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        columns::row(object, now)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            (
                "spec.clusterIP",
                text(object, &["spec", "clusterIP"]).to_owned(),
            ),
            ("spec.type", text(object, &["spec", "type"]).to_owned()),
        ]
    }
}

/// Whether Services of this type have node ports.
fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}
