//! ResourceQuota: how much a namespace may have of what. It is enforced in `registry::quota`; what is used is counted
//! again by `controllers::quota`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::access::{list, map, text};
use super::errors::Errors;
use super::quantity::Quantity;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};

pub(crate) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ResourceQuota",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ResourceQuota,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ResourceQuota>();
    },
};

/// What is counted in whole numbers.
const WHOLE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const AMOUNTS: &[&str] = &[
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

#[derive(Debug)]
struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        super::access::object_mut(object, &[]).insert("status".into(), serde_json::json!({}));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            for (name, amount) in map(object, &path).into_iter().flatten() {
                validate_amount(
                    name,
                    amount,
                    &format!("{}[{name}]", path.join(".")),
                    &mut errors,
                );
            }
        }
        validate_scopes(object, &mut errors);
        if let Some(old) = old {
            errors.immutable("spec.scopes", Some(&as_set(object)), Some(&as_set(old)));
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column(
                "Request",
                "string",
                "What is used and what may be, of requests and objects.",
            ),
            table::column(
                "Limit",
                "string",
                "What is used and what may be, of limits.",
            ),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in map(object, &["status", "hard"]).into_iter().flatten() {
            let used = text(object, &["status", "used", name]);
            let used = if used.is_empty() { "0" } else { used };
            let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or(""));
            if name.starts_with("limits") {
                limits.push(shown);
            } else {
                requests.push(shown);
            }
        }
        vec![
            table::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(object, now),
        ]
    }
}

fn validate_amount(name: &str, amount: &Value, path: &str, errors: &mut Errors) {
    for problem in names::qualified_name(name) {
        errors.invalid(path, name, &problem);
    }
    let known = name.contains('/')
        || WHOLE.contains(&name)
        || AMOUNTS.contains(&name)
        || name.starts_with("requests.hugepages-")
        || name.starts_with("hugepages-");
    if !known {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
    let shown = amount.as_str().unwrap_or("");
    let Ok(quantity) = shown.parse::<Quantity>() else {
        return;
    };
    if quantity.is_negative() {
        errors.invalid(path, shown, "must be greater than or equal to 0");
    }
    let whole = WHOLE.contains(&name) || name.starts_with("count/");
    if whole && !quantity.is_whole() {
        errors.invalid(path, shown, "must be an integer");
    }
}

/// The scopes, each once and in order: how they are written is no change.
fn as_set(object: &Value) -> Value {
    let scopes: BTreeSet<&str> = list(object, &["spec", "scopes"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    scopes.into_iter().collect()
}

fn validate_scopes(object: &Value, errors: &mut Errors) {
    let scopes: Vec<&str> = list(object, &["spec", "scopes"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let path = "spec.scopes";
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(path, object["spec"]["scopes"].clone(), "unsupported scope");
        }
    }
    for (a, b) in [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ] {
        if scopes.contains(&a) && scopes.contains(&b) {
            errors.invalid(path, object["spec"]["scopes"].clone(), "conflicting scopes");
        }
    }
    let of_pods = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
    ];
    for (name, _) in map(object, &["spec", "hard"]).into_iter().flatten() {
        let counts_pods = matches!(name.as_str(), "pods" | "count/pods");
        let computes =
            counts_pods || AMOUNTS.contains(&name.as_str()) && name != "requests.storage";
        let standard = WHOLE.contains(&name.as_str()) || AMOUNTS.contains(&name.as_str());
        let wrong = standard
            && scopes.iter().any(|scope| {
                (*scope == "BestEffort" && !counts_pods) || (of_pods.contains(scope) && !computes)
            });
        if wrong {
            errors.invalid(
                path,
                object["spec"]["scopes"].clone(),
                "unsupported scope applied to resource",
            );
            break;
        }
    }
    for (number, expression) in list(object, &["spec", "scopeSelector", "matchExpressions"])
        .iter()
        .enumerate()
    {
        let path = format!("spec.scopeSelector.matchExpressions[{number}]");
        let scope = text(expression, &["scopeName"]);
        if !SCOPES.contains(&scope) {
            errors.invalid(format!("{path}.scopeName"), scope, "unsupported scope");
        }
        let values = list(expression, &["values"]);
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.required(
                format!("{path}.values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                format!("{path}.values"),
                expression["values"].clone(),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                format!("{path}.operator"),
                other,
                "not a valid selector operator",
            ),
        }
    }
}
