//! PriorityClass (scheduling.k8s.io/v1).

use serde_json::{Value, json};

use super::access::{at, fill_absent, flag, integer, object_mut, same, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta};

pub(crate) static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.scheduling.v1.PriorityClass",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &PriorityClass,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::scheduling::v1::PriorityClass>();
    },
};

/// What users may give; above it is the system.
const HIGHEST: i64 = 1_000_000_000;
/// The classes that every cluster has.
const SYSTEM: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The built-in classes, as they are created.
pub(crate) fn built_in() -> Vec<Value> {
    SYSTEM
        .iter()
        .map(|(name, value, description)| {
            json!({"metadata": {"name": name}, "value": value, "description": description})
        })
        .collect()
}

#[derive(Debug)]
struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        let fields = object_mut(object, &[]);
        fill_absent(fields, "preemptionPolicy", "PreemptLowerPriority");
        if fields.get("value").is_none_or(Value::is_null) {
            fields.insert("value".into(), 0.into());
        }
        // As Go leaves it out when it is false.
        if fields.get("globalDefault") == Some(&Value::Bool(false)) {
            fields.remove("globalDefault");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &["metadata"]).insert("generation".into(), 1.into());
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::keep_status(object, old);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let policy = text(object, &["preemptionPolicy"]);
        if let Some(old) = old {
            if !same(at(object, &["value"]), at(old, &["value"])) {
                errors.forbidden("value", "may not be changed in an update.");
            }
            errors.immutable(
                "preemptionPolicy",
                at(object, &["preemptionPolicy"]),
                at(old, &["preemptionPolicy"]),
            );
            return errors.into_vec();
        }
        let value = integer(object, &["value"]).unwrap_or(0);
        let name = text(object, &["metadata", "name"]);
        if name.starts_with("system-") {
            if let Some(why) = not_of_the_system(name, value, flag(object, &["globalDefault"])) {
                errors.forbidden(
                    "metadata.name",
                    &format!(
                        "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                    ),
                );
            }
        } else if value > HIGHEST {
            errors.forbidden(
                "value",
                &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
            );
        }
        if policy.is_empty() {
            errors.required("preemptionPolicy", "");
        } else if !matches!(policy, "PreemptLowerPriority" | "Never") {
            errors.not_supported(
                "preemptionPolicy",
                policy,
                &["PreemptLowerPriority", "Never"],
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Value", "integer", "The priority that it stands for."),
            table::column(
                "Global-Default",
                "boolean",
                "Whether pods without a class get it.",
            ),
            table::AGE,
            table::column(
                "PreemptionPolicy",
                "string",
                "Whether its pods preempt others.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            integer(object, &["value"]).unwrap_or(0).into(),
            flag(object, &["globalDefault"]).into(),
            table::age(object, now),
            text(object, &["preemptionPolicy"]).into(),
        ]
    }
}

fn not_of_the_system(name: &str, value: i64, default: bool) -> Option<String> {
    let Some((_, right, _)) = SYSTEM.iter().find(|(known, _, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if *right != value {
        return Some(format!("value of {name} PriorityClass must be {right}"));
    }
    default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}
