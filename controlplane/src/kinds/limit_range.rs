//! LimitRange: what containers, pods and claims of a namespace get by default, and how much they may ask for. It is
//! enforced in `registry::admission::limits`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::access::{list, list_mut, map, object_mut, text};
use super::errors::Errors;
use super::quantity::Quantity;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, table};

pub(crate) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.LimitRange",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &LimitRange,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::LimitRange>();
    },
};

#[derive(Debug)]
struct LimitRange;

fn copy_missing(limit: &mut Value, from: &str, to: &str) {
    let Some(source) = limit.get(from).and_then(Value::as_object).cloned() else {
        return;
    };
    let target = object_mut(limit, &[to]);
    for (name, amount) in source {
        target.entry(name).or_insert(amount);
    }
}

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        for limit in list_mut(object, &["spec", "limits"]) {
            if text(limit, &["type"]) == "Container" {
                copy_missing(limit, "max", "default");
                copy_missing(limit, "default", "defaultRequest");
                copy_missing(limit, "min", "defaultRequest");
            }
        }
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut types = BTreeSet::new();
        for (number, limit) in list(object, &["spec", "limits"]).iter().enumerate() {
            let path = format!("spec.limits[{number}]");
            let kind = text(limit, &["type"]);
            let problems = names::qualified_name(kind);
            if problems.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
                errors.invalid(
                    format!("{path}.type"),
                    kind,
                    "must be a standard limit type or fully qualified",
                );
            }
            errors.format(&format!("{path}.type"), kind, problems);
            if !types.insert(kind) {
                errors.duplicate(format!("{path}.type"), kind);
            }
            validate_limit(limit, kind, &path, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Created At", "date", "When the object was created."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["metadata", "creationTimestamp"]).into(),
        ]
    }
}

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

fn amounts<'a>(limit: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    map(limit, &[field])
}

/// The amount, if there is one that can be read.
fn amount(limit: &Value, field: &str, name: &str) -> Option<Quantity> {
    amounts(limit, field)?.get(name)?.as_str()?.parse().ok()
}

fn validate_limit(limit: &Value, kind: &str, path: &str, errors: &mut Errors) {
    let mut all = BTreeSet::new();
    for field in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        for name in amounts(limit, field)
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            let at = format!("{path}.{field}[{name}]");
            match kind {
                "Pod" | "Container" => super::pod::validate_resource_name(name, &at, errors),
                _ => errors.format(&at, name, names::qualified_name(name)),
            }
            all.insert(name.as_str());
        }
    }
    if kind == "Pod" {
        for field in ["default", "defaultRequest"] {
            if amounts(limit, field).is_some_and(|amounts| !amounts.is_empty()) {
                errors.forbidden(
                    format!("{path}.{field}"),
                    "may not be specified when `type` is 'Pod'",
                );
            }
        }
    }
    let storage = |field| amount(limit, field, "storage").is_some();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        errors.required(
            format!("{path}.limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for name in all {
        ordered(limit, name, path, errors);
    }
}

/// min <= defaultRequest <= default <= max.
fn ordered(limit: &Value, name: &str, path: &str, errors: &mut Errors) {
    // The third is the field that is named, the fourth the one whose amount is shown.
    const ORDER: &[(&str, &str, &str, &str)] = &[
        ("min", "max", "min", "min"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest"),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
        ),
        ("min", "default", "default", "min"),
        ("default", "max", "default", "max"),
    ];
    let called = |field: &str| match field {
        "defaultRequest" => "default request".to_owned(),
        other => other.to_owned(),
    };
    for (less, more, about, shown) in ORDER {
        let (Some(a), Some(b)) = (amount(limit, less, name), amount(limit, more, name)) else {
            continue;
        };
        if a > b {
            let shown = amount(limit, shown, name).map_or_else(String::new, |q| q.to_string());
            errors.invalid(
                format!("{path}.{about}[{name}]"),
                shown,
                &format!(
                    "{} value {a} is greater than {} value {b}",
                    called(less),
                    called(more)
                ),
            );
        }
    }
    let one: Option<Quantity> = "1".parse().ok();
    if let Some(ratio) = amount(limit, "maxLimitRequestRatio", name)
        && one.is_some_and(|one| ratio < one)
    {
        errors.invalid(
            format!("{path}.maxLimitRequestRatio[{name}]"),
            ratio.to_string(),
            &format!("ratio {ratio} is less than 1"),
        );
    }
    if let (Some(ratio), Some(min), Some(max)) = (
        amount(limit, "maxLimitRequestRatio", name),
        amount(limit, "min", name),
        amount(limit, "max", name),
    ) {
        let most = max.approximate() / min.approximate();
        if ratio.approximate() > most {
            errors.invalid(
                format!("{path}.maxLimitRequestRatio[{name}]"),
                ratio.to_string(),
                &format!("ratio {ratio} is greater than max/min = {most:.6}"),
            );
        }
    }
    if let (Some(default), Some(request)) = (
        amount(limit, "default", name),
        amount(limit, "defaultRequest", name),
    ) && !super::pod::may_be_overcommitted(name)
        && default != request
    {
        errors.invalid(
            format!("{path}.defaultRequest[{name}]"),
            request.to_string(),
            &format!(
                "default value {default} must equal to defaultRequest value {request} in {name}"
            ),
        );
    }
}
