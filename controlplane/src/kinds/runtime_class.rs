//! RuntimeClass (node.k8s.io/v1).

use std::collections::HashSet;

use serde_json::Value;

use super::access::{at, list, map, text};
use super::errors::Errors;
use super::quantity::Quantity;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, pod, selector};

pub(crate) static KIND: Kind = Kind {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.node.v1.RuntimeClass",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &RuntimeClass,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::node::v1::RuntimeClass>();
    },
};

#[derive(Debug)]
struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let handler = text(object, &["handler"]);
        errors.format("handler", handler, names::dns_label(handler));
        for (name, amount) in map(object, &["overhead", "podFixed"]).into_iter().flatten() {
            let field = format!("overhead.podFixed[{name}]");
            errors.format(&field, name, names::qualified_name(name));
            let amount = amount.as_str().unwrap_or("");
            if amount.parse::<Quantity>().is_ok_and(Quantity::is_negative) {
                errors.invalid(field, amount, "must be greater than or equal to 0");
            }
        }
        selector::labels(
            at(object, &["scheduling", "nodeSelector"]),
            "scheduling.nodeSelector",
            &mut errors,
        );
        let mut seen = HashSet::new();
        for (index, toleration) in list(object, &["scheduling", "tolerations"])
            .iter()
            .enumerate()
        {
            let field = format!("scheduling.tolerations[{index}]");
            pod::validate_toleration(toleration, &field, &mut errors);
            if !seen.insert(toleration.to_string()) {
                errors.duplicate(field, toleration.clone());
            }
        }
        if let Some(old) = old {
            errors.immutable("handler", at(object, &["handler"]), at(old, &["handler"]));
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Handler", "string", "The runtime's configuration."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["handler"]).into(),
            table::age(object, now),
        ]
    }
}
